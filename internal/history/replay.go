package history

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"iter"
	"strings"
	"time"

	"github.com/rutterhq/rutter/kernel"
)

const (
	// differencesKept bounds Report.Differences. All are counted.
	differencesKept = 1000
	// probes is how often a decision that differs is made again, to tell a
	// decider that always decides so from one that decides by chance.
	probes = 16
	// probed bounds the decisions that are probed.
	probed = 8
)

// The reasons why a change that a decision wants is not in the log.
const (
	whyTaken = "another event took its place"
	whyEnded = "its writer wrote nothing afterwards: it ended, or the recording does"
)

// Replayer makes recorded decisions again.
type Replayer struct {
	Schema   kernel.Schema
	Deciders []kernel.Decider
	Build    string // of this program, for the report
	// From and To bound the decisions that are made again: those on Views from
	// the one Seq to the other. To 0 is the end.
	From, To kernel.Seq
	// Times is how often every decision is made; 0 is once. A decider that
	// depends on chance shows itself only when chance has it.
	Times int
}

// Replay makes every decision of a whole log in memory again.
func Replay(s kernel.Schema, deciders []kernel.Decider, records iter.Seq[kernel.Record]) *Report {
	r := &Replayer{Schema: s, Deciders: deciders}
	report, err := r.Replay(PastOf(records))
	if err != nil {
		panic(fmt.Sprintf("reading memory failed: %v", err))
	}
	return report
}

// Replay builds View(seen) of every recorded decision from the records, decides
// again, and compares. What landed must be among what is recomputed; what is
// recomputed and did not land must be explained: somebody else's event took its
// place, or its writer wrote nothing afterwards.
//
// It reads the records twice, and a third time if a decider modified its View.
// It holds one View, about 300 bytes per decision, and the changes that are
// still to land; never the records. An error is the reading's.
func (r *Replayer) Replay(past Past) (*Report, error) {
	rp := r.begin(past)
	if err := rp.index(); err != nil {
		return nil, err
	}
	if err := rp.play(nil); err != nil {
		return nil, err
	}
	rp.missing()
	rp.report.Digest = hex.EncodeToString(rp.digest.Sum(nil))
	if rp.touched != nil {
		if err := rp.blameMutation(); err != nil {
			return nil, err
		}
	}
	rp.report.finish()
	return rp.report, nil
}

// decisionID is what makes a decision distinct.
type decisionID struct {
	decider, key string
	seen         kernel.Seq
	at           int64 // Unix time in nanoseconds
}

// decision is a recorded decision. Its changes that landed come one by one.
type decision struct {
	decisionID
	instance string           // that made it
	left     int              // of its changes, those that are still to land
	open     []*kernel.Record // wanted, and neither landed nor taken yet
	view     *kernel.View     // that it was made on, until all have landed
	panicked string
}

// place is what one of several racing writes wins: to come after an event.
type place struct {
	key   kernel.Key
	after kernel.Seq
}

// want is a change that a decision wants and that has not landed.
type want struct {
	*decision
	record *kernel.Record
}

// round is the last round of decisions of a writing instance: all have one View
// and one time, and a Core writes nothing more until the whole round has been
// answered.
type round struct {
	seen kernel.Seq
	at   int64
}

type replay struct {
	*Replayer
	past      Past
	report    *Report
	digest    hash.Hash
	words     map[string]string // one copy of each repeated one
	decisions map[decisionID]*decision
	waiting   map[kernel.Seq][]*decision // by seen, in the order of their first event
	lastRound map[string]round           // of every writing instance
	open      map[place][]want
	reads     map[kernel.Resource]bool // what any decider reads
	probed    int
	touched   *kernel.Entry // the first that is not as it was read
	decidedAt kernel.Seq    // the last View that a decision was made on
}

func (r *Replayer) begin(past Past) *replay {
	rp := &replay{Replayer: r, past: past, digest: sha256.New(), words: map[string]string{},
		report:    &Report{From: past.From, Build: r.Build, Builds: map[string]int{}, ByDecider: map[string]*Count{}, Why: map[string]int{}},
		decisions: map[decisionID]*decision{}, waiting: map[kernel.Seq][]*decision{}, lastRound: map[string]round{},
		open: map[place][]want{}, reads: map[kernel.Resource]bool{}}
	for _, d := range r.Deciders {
		for _, res := range d.Reads {
			rp.reads[res] = true
		}
	}
	return rp
}

// word gives one copy of a word that comes often.
func (rp *replay) word(s string) string {
	w, ok := rp.words[s]
	if !ok {
		w = strings.Clone(s)
		rp.words[w] = w
	}
	return w
}

// idOf is the decision of a recorded change, and whether it is to be made again.
func (rp *replay) idOf(rec *kernel.Record) (decisionID, bool) {
	if rec.Decision == nil || rec.Seq <= rp.past.From || rec.Seen < rp.past.From || rec.Seen < rp.From || rp.To > 0 && rec.Seen > rp.To || !rp.wanted(rec.Decision.Decider) {
		return decisionID{}, false
	}
	return decisionID{rec.Decision.Decider, rec.Decision.Key, rec.Seen, rec.Time.UnixNano()}, true
}

// index finds the recorded decisions.
func (rp *replay) index() error {
	for rec, err := range rp.past.Records {
		if err != nil {
			return err
		}
		if rec.Seq > rp.past.From {
			rp.report.Events++
		}
		rp.report.Last = rec.Seq
		var instance string
		if rec.Decision != nil { // others' ids have no end
			instance = rp.word(instanceOf(rec.ID))
			rp.lastRound[instance] = round{rec.Seen, rec.Time.UnixNano()}
		}
		id, ok := rp.idOf(&rec)
		if !ok {
			if rec.Decision != nil && rec.Seq > rp.past.From && rec.Seen < rp.past.From {
				rp.report.Earlier++
			}
			continue
		}
		d := rp.decisions[id]
		if d == nil {
			id.decider, id.key = rp.word(id.decider), rp.word(id.key)
			d = &decision{decisionID: id, instance: instance}
			rp.decisions[id] = d
			rp.waiting[id.seen] = append(rp.waiting[id.seen], d)
		}
		d.left++
	}
	return nil
}

// wanted tells whether decisions of the name are to be made again: all that
// have one of ours, and those that nobody has, so that they are reported.
func (rp *replay) wanted(name string) bool {
	return rp.decider(name) != nil || len(rp.Deciders) != 1
}

func (rp *replay) decider(name string) *kernel.Decider {
	for i := range rp.Deciders {
		if rp.Deciders[i].Name == name {
			return &rp.Deciders[i]
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

// play folds the records, and makes each decision on the View that it had seen.
// watch, if it is there, is asked after each, and ends the play.
func (rp *replay) play(watch func(v *kernel.View, d *decision) (done bool)) error {
	v := kernel.NewView(rp.Schema)
	started := false
	start := func() bool { // the state is complete
		started = true
		v, _ = v.Fold(kernel.Record{Seq: rp.past.From})
		return rp.decideAll(v, watch)
	}
	for rec, err := range rp.past.Records {
		if err != nil {
			return err
		}
		if !started && rec.Seq > rp.past.From && start() {
			return nil
		}
		next, es := v.Fold(rec)
		v = next
		if !started {
			continue
		}
		if watch == nil {
			if len(es) > 0 {
				rp.inspect(es[0].Before)
			}
			rp.landed(&rec)
		}
		if rp.decideAll(v, watch) {
			return nil
		}
	}
	if !started && start() {
		return nil
	}
	if watch == nil {
		for e := range v.All() {
			rp.inspect(e)
		}
	}
	return nil
}

func (rp *replay) decideAll(v *kernel.View, watch func(*kernel.View, *decision) bool) bool {
	for _, d := range rp.waiting[v.Seq()] {
		rp.decidedAt = v.Seq()
		if watch != nil {
			_, _ = rp.recompute(v, d)
			if watch(v, d) {
				return true
			}
			continue
		}
		rp.decide(v, d)
	}
	return false
}

// decide makes one decision, and has what it wants wait for its events.
func (rp *replay) decide(v *kernel.View, d *decision) {
	rp.report.Decisions++
	rp.count(d).Decisions++
	records, panicked := rp.recompute(v, d)
	sum := sumOf(records, panicked)
	fmt.Fprintln(rp.digest, d.decider, d.key, d.seen, d.at)
	rp.digest.Write(sum[:])
	d.view, d.panicked = v, panicked
	for range rp.Times - 1 {
		if again, panicked := rp.recompute(v, d); sumOf(again, panicked) != sum {
			rp.unstable(d, records, again)
			break
		}
	}
	for i := range records {
		r := &records[i]
		d.open = append(d.open, r)
		at := place{r.Key, r.Expect}
		rp.open[at] = append(rp.open[at], want{d, r})
	}
}

// recompute makes a decision again. A decider of another build may panic on
// the old world; then it wanted nothing, and the panic is told.
func (rp *replay) recompute(v *kernel.View, d *decision) (records []kernel.Record, panicked string) {
	decider := rp.decider(d.decider)
	if decider == nil {
		return nil, "this build has no such decider"
	}
	key, err := parseKey(d.key)
	if err != nil {
		return nil, err.Error()
	}
	defer func() {
		if r := recover(); r != nil {
			records, panicked = nil, fmt.Sprint(r)
		}
	}()
	records, _ = kernel.Decide(rp.Schema, decider, v, key, time.Unix(0, d.at).UTC())
	return records, ""
}

// sumOf is equal for equal results of a decision.
func sumOf(records []kernel.Record, panicked string) [sha256.Size]byte {
	h := sha256.New()
	fmt.Fprintf(h, "%q", panicked)
	for i := range records {
		r := &records[i]
		fmt.Fprintf(h, "%q %d %v %q %q %d %d\n", r.Key.String(), r.Expect, r.Delete, r.Type, r.Note, r.Decision.Index, len(r.Body))
		h.Write(r.Body)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func (rp *replay) count(d *decision) *Count {
	c := rp.report.ByDecider[d.decider]
	if c == nil {
		c = &Count{}
		rp.report.ByDecider[d.decider] = c
	}
	return c
}
