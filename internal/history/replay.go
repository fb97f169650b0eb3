package history

import (
	"bytes"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/rutterhq/rutter/kernel"
)

// Report is the outcome of a Replay.
type Report struct {
	Events      int `json:"events"`      // read
	Decisions   int `json:"decisions"`   // made again
	Changes     int `json:"changes"`     // recorded changes compared
	Explained   int `json:"explained"`   // changes wanted that never landed, and why is known
	Unexplained int `json:"unexplained"` // changes that differ, or are missing without a reason
	// First tells of the first unexplained change: the recorded and the
	// recomputed one.
	First string `json:"first,omitempty"`
	// ByDecider counts the decisions and the unexplained changes of each.
	ByDecider map[string]*Count `json:"byDecider,omitempty"`
}

// Count is what Report.ByDecider holds.
type Count struct {
	Decisions   int `json:"decisions"`
	Changes     int `json:"changes"`
	Unexplained int `json:"unexplained"`
}

// decision groups the changes that landed of one recorded decision.
type decision struct {
	decider, key string
	seen         kernel.Seq
	at           time.Time
	landed       []kernel.Record
}

// Replay builds View(seen) of every recorded decision from the records, which
// are the whole log from its first event on, decides again, and compares. What
// landed must be among what is recomputed; what is recomputed and did not land
// must be explained: somebody else's event took its place, or its writer wrote
// nothing afterwards (a crash).
func Replay(s kernel.Schema, deciders []kernel.Decider, records iter.Seq[kernel.Record]) *Report {
	return ReplayRange(s, deciders, records, 0, 0)
}

// ReplayRange is Replay for the decisions made on Views from Seq from on, up
// to to (0: the end). The records still begin with the first event.
func ReplayRange(s kernel.Schema, deciders []kernel.Decider, records iter.Seq[kernel.Record], from, to kernel.Seq) *Report {
	all := slices.Collect(records)
	rp := &replay{schema: s, deciders: deciders, report: &Report{Events: len(all), ByDecider: map[string]*Count{}},
		takenBy: map[place]*kernel.Record{}, lastOf: map[string]*kernel.Record{}}
	waiting := rp.collect(all, from, to)
	v := kernel.NewView(s)
	rp.decideAll(v, waiting[0])
	for _, r := range all {
		v, _ = v.Fold(r)
		rp.decideAll(v, waiting[r.Seq])
	}
	return rp.report
}

type replay struct {
	schema   kernel.Schema
	deciders []kernel.Decider
	report   *Report
	takenBy  map[place]*kernel.Record  // who won each place in an object's life
	lastOf   map[string]*kernel.Record // the last event of every writing instance
}

// place is what one of several racing writes wins: to come after an event.
type place struct {
	key   kernel.Key
	after kernel.Seq
}

// collect groups the recorded changes by decision, the decisions by the Seq
// that they had seen.
func (rp *replay) collect(all []kernel.Record, from, to kernel.Seq) map[kernel.Seq][]*decision {
	groups := map[string]*decision{}
	waiting := map[kernel.Seq][]*decision{}
	for i := range all {
		r := &all[i]
		rp.takenBy[place{r.Key, r.Expect}] = r
		rp.lastOf[instanceOf(r.ID)] = r
		if r.Decision == nil || r.Seen < from || to > 0 && r.Seen > to || !rp.wanted(r.Decision.Decider) {
			continue
		}
		id := fmt.Sprint(r.Decision.Decider, r.Decision.Key, r.Seen, r.Time.UnixNano())
		d := groups[id]
		if d == nil {
			d = &decision{decider: r.Decision.Decider, key: r.Decision.Key, seen: r.Seen, at: r.Time}
			groups[id] = d
			waiting[r.Seen] = append(waiting[r.Seen], d)
		}
		d.landed = append(d.landed, *r)
	}
	return waiting
}

// wanted tells whether decisions of the name are to be made again: all that
// have one of ours, and those that nobody has, so that they are reported.
func (rp *replay) wanted(name string) bool {
	return rp.decider(name) != nil || len(rp.deciders) != 1
}

func (rp *replay) decider(name string) *kernel.Decider {
	for i := range rp.deciders {
		if rp.deciders[i].Name == name {
			return &rp.deciders[i]
		}
	}
	return nil
}

// instanceOf takes the writer out of an id as Core makes them: INSTANCE-N.
func instanceOf(id string) string {
	if i := strings.LastIndexByte(id, '-'); i > 0 {
		return id[:i]
	}
	return id
}

func (rp *replay) decideAll(v *kernel.View, ds []*decision) {
	for _, d := range ds {
		count := rp.report.ByDecider[d.decider]
		if count == nil {
			count = &Count{}
			rp.report.ByDecider[d.decider] = count
		}
		rp.report.Decisions++
		count.Decisions++
		before := rp.report.Unexplained
		rp.compare(d, rp.recompute(v, d))
		count.Changes += len(d.landed)
		count.Unexplained += rp.report.Unexplained - before
	}
}

// recompute makes a decision again. A decider of another build may panic on
// the old world; then it wanted nothing.
func (rp *replay) recompute(v *kernel.View, d *decision) (records []kernel.Record) {
	decider := rp.decider(d.decider)
	if decider == nil {
		return nil
	}
	key, err := parseKey(d.key)
	if err != nil {
		return nil
	}
	defer func() {
		if r := recover(); r != nil {
			records = nil
		}
	}()
	records, _ = kernel.Decide(rp.schema, decider, v, key, d.at)
	return records
}

func (rp *replay) compare(d *decision, again []kernel.Record) {
	for i := range d.landed {
		was := &d.landed[i]
		rp.report.Changes++
		at := slices.IndexFunc(again, func(r kernel.Record) bool { return r.Key == was.Key })
		if at < 0 {
			rp.unexplained(d, was, nil)
			continue
		}
		if !same(was, &again[at]) {
			rp.unexplained(d, was, &again[at])
		}
		again[at].Seq = was.Seq // it landed
	}
	for i := range again {
		r := &again[i]
		if r.Seq != 0 {
			continue
		}
		if rp.takenBy[place{r.Key, r.Expect}] != nil || rp.crashed(d) {
			rp.report.Explained++
			continue
		}
		rp.unexplained(d, nil, r)
	}
}

// crashed tells whether the writer of a decision wrote nothing after the round
// that it was made in: all decisions of a round have one View and one time, and
// a Core writes nothing more until the whole round has been answered.
func (rp *replay) crashed(d *decision) bool {
	last := rp.lastOf[instanceOf(d.landed[0].ID)]
	return last.Seen == d.seen && last.Time.Equal(d.at)
}

// same tells whether two records are the same change.
func same(was, again *kernel.Record) bool {
	return was.Type == again.Type && was.Delete == again.Delete && was.Expect == again.Expect &&
		was.Note == again.Note && was.Decision.Index == again.Decision.Index && bytes.Equal(was.Body, again.Body)
}

func (rp *replay) unexplained(d *decision, was, again *kernel.Record) {
	rp.report.Unexplained++
	if rp.report.First != "" {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s on %s, seen %d, at %s\n", d.decider, d.key, d.seen, d.at.Format(time.RFC3339Nano))
	describe(&b, "recorded  ", was)
	describe(&b, "recomputed", again)
	if was != nil && again != nil {
		for _, c := range Diff(was.Body, again.Body) {
			fmt.Fprintf(&b, "    %s\n", c)
		}
	}
	rp.report.First = b.String()
}

func describe(b *strings.Builder, which string, r *kernel.Record) {
	if r == nil {
		fmt.Fprintf(b, "  %s: nothing\n", which)
		return
	}
	fmt.Fprintf(b, "  %s: event %d %s %s after %d (change %d) %s\n", which, r.Seq, r.Type, r.Key, r.Expect, r.Decision.Index, r.Note)
}
