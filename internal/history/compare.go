package history

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/rutterhq/rutter/kernel"
)

// landed compares an event with what its decision wants now, and lets it take
// its place from all others who wanted it.
func (rp *replay) landed(rec *kernel.Record) {
	var own *decision
	if id, ok := rp.idOf(rec); ok {
		own = rp.decisions[id]
		rp.compare(own, rec)
	}
	at := place{rec.Key, rec.Expect}
	for _, w := range rp.open[at] {
		if w.decision != own && w.close() {
			rp.report.explain(whyTaken)
		}
	}
	delete(rp.open, at)
}

// close takes a want from its decision, and tells whether it was there.
func (w want) close() bool {
	i := slices.Index(w.decision.open, w.record)
	if i >= 0 {
		w.decision.open = slices.Delete(w.decision.open, i, i+1)
	}
	return i >= 0
}

// compare compares a change that landed with what its decision wants.
func (rp *replay) compare(d *decision, was *kernel.Record) {
	rp.report.Changes++
	rp.report.Builds[was.Decision.Build]++
	rp.count(d).Changes++
	at := slices.IndexFunc(d.open, func(r *kernel.Record) bool { return r.Key == was.Key })
	if at < 0 {
		rp.differs(d, was, nil)
	} else {
		again := d.open[at]
		d.open = slices.Delete(d.open, at, at+1)
		if !same(was, again) {
			rp.differs(d, was, again)
		}
	}
	if d.left--; d.left == 0 {
		d.view = nil
	}
}

// missing is what was wanted and never landed, in the end.
func (rp *replay) missing() {
	var ids []*decision
	for _, d := range rp.decisions { // in no order: sorted below
		if len(d.open) > 0 {
			ids = append(ids, d)
		}
	}
	slices.SortFunc(ids, func(a, b *decision) int { return a.compare(b.decisionID) })
	for _, d := range ids {
		for _, r := range d.open {
			if last := rp.lastRound[d.instance]; last == (round{d.seen, d.at}) {
				rp.report.explain(whyEnded)
			} else {
				rp.differs(d, nil, r)
			}
		}
	}
}

// same tells whether two records are the same change.
func same(was, again *kernel.Record) bool {
	return was.Type == again.Type && was.Delete == again.Delete && was.Expect == again.Expect &&
		was.Note == again.Note && was.Decision.Index == again.Decision.Index && bytes.Equal(was.Body, again.Body)
}

// differs notes a change that is not explained.
func (rp *replay) differs(d *decision, was, again *kernel.Record) {
	rp.report.Unexplained++
	rp.count(d).Unexplained++
	diff := d.difference(was, again)
	if rp.probed < probed && d.view != nil && d.panicked == "" {
		rp.probed++
		results := map[[sha256.Size]byte]bool{}
		for range probes {
			results[sumOf(rp.recompute(d.view, d))] = true
		}
		diff.Results = len(results)
	}
	rp.report.differ(diff)
}

// unstable notes a decision that had two results on one View.
func (rp *replay) unstable(d *decision, first, other []kernel.Record) {
	rp.report.Unstable++
	diff := &Difference{Results: 2}
	for i := range max(len(first), len(other)) {
		var a, b *kernel.Record
		if i < len(first) {
			a = &first[i]
		}
		if i < len(other) {
			b = &other[i]
		}
		if a == nil || b == nil || a.Key != b.Key || !same(a, b) {
			diff = d.difference(a, b)
			diff.Results = 2
			break
		}
	}
	diff.Twice = true
	rp.report.differ(diff)
}

func (d *decision) difference(was, again *kernel.Record) *Difference {
	diff := &Difference{Decider: d.decider, Key: d.key, Seen: d.seen, At: time.Unix(0, d.at).UTC(), Panic: d.panicked,
		Recorded: sideOf(was), Recomputed: sideOf(again)}
	for _, r := range []*kernel.Record{again, was} {
		if r != nil {
			diff.Object = r.Key.String()
		}
	}
	if was != nil && again != nil {
		diff.Fields = meant(Diff(was.Body, again.Body))
	}
	return diff
}

// meant leaves out who manages which field, if anything else differs: it
// follows from that, and there is more of it.
func meant(all []FieldChange) []FieldChange {
	some := slices.DeleteFunc(slices.Clone(all), func(c FieldChange) bool { return strings.HasPrefix(c.Path, "metadata.managedFields") })
	if len(some) == 0 {
		some = all
	}
	return some[:min(len(some), fieldsKept)]
}

// inspect looks whether an object of the View is still as it stands in the log.
// A decider may read it, and must not change it.
func (rp *replay) inspect(e *kernel.Entry) {
	if e == nil || e.Delete || rp.decidedAt < e.Seq || !rp.reads[e.Key.Resource] || !rp.modified(e) {
		return
	}
	rp.report.Modified++
	if rp.touched == nil {
		rp.touched = e
	}
}

func (rp *replay) modified(e *kernel.Entry) bool {
	fresh, err := rp.Schema.Decode(e.Key, e.Body)
	if err != nil {
		return false // of another build; nobody could read it
	}
	fresh.SetResourceVersion(fmt.Sprint(e.Seq))
	return !equality.Semantic.DeepEqual(fresh, e.Object())
}

// blameMutation plays everything again and looks at the object that was
// modified after every decision, until one modifies it.
func (rp *replay) blameMutation() error {
	which := rp.touched
	return rp.play(func(v *kernel.View, d *decision) bool {
		e := v.Entry(which.Key)
		if e == nil || e.Seq != which.Seq || !rp.modified(e) {
			return false
		}
		diff := d.difference(nil, nil)
		diff.Object, diff.Modified = e.Key.String(), true
		// Both as they are written now, or another build's body would differ, too.
		fresh, err := rp.Schema.Decode(e.Key, e.Body)
		if err != nil {
			return false
		}
		fresh.SetResourceVersion(fmt.Sprint(e.Seq))
		before, err := json.Marshal(fresh)
		after, err2 := json.Marshal(e.Object())
		if err == nil && err2 == nil {
			diff.Fields = meant(Diff(before, after))
		}
		rp.report.Differences = slices.Insert(rp.report.Differences, 0, diff)
		return true
	})
}
