package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rutterhq/rutter/events"
)

const (
	// retryAfter is how long a decision waits whose change the log did not
	// take for another reason than a conflict, or which was refused.
	retryAfter = time.Second
	// wakesKept bounds the causes kept for one waiting decision.
	wakesKept = 1024
)

// Core is the loop of a service without goroutines, clock or I/O: events go in
// through Apply, proposed records come out of Ready, and what became of them
// goes back in through Done. Run drives it with a log and a clock, the
// simulator with neither.
//
// Its laws: all waiting decisions of a round are made on one View; after an
// append at Seq S nothing is decided until the View has S; nothing is decided
// before Start.
type Core struct {
	schema          Schema
	build, instance string
	deciders        []Decider
	view            *View
	barrier         Seq // nothing is decided before the View has it
	inflight        int
	writes          uint64 // for ids
	waiting         map[task]pending
}

type task struct {
	decider int // index into deciders
	key     Key
}

// pending is a decision that waits for its time, or, if due is zero, for the
// next round.
type pending struct {
	due time.Time
	wakes
}

// wakes are the events that woke a decision, in their order.
type wakes []wake

type wake struct {
	seq Seq
	key Key
}

// Proposal is a record that a decision wants appended.
type Proposal struct {
	Record
	task task
	wakes
}

// NewCore returns a Core that decides nothing until Start. build names the
// program for ce-decision; instance is unique to this Core among all that
// write to the log, and makes its writes' ids unique.
func NewCore(s Schema, build, instance string, deciders ...Decider) *Core {
	return &Core{schema: s, build: build, instance: instance, deciders: deciders}
}

// Start gives the Core the View of the log as it is, and wakes every decision
// that any object in it wakes. It may be called again, to start over.
func (c *Core) Start(v *View) {
	c.Reset()
	c.Apply(v, v.asEvents()...)
}

// Reset forgets all that waits to be decided: what comes next is everything.
func (c *Core) Reset() { c.waiting = map[task]pending{} }

// Apply tells the Core of the events that led to the View v.
func (c *Core) Apply(v *View, es ...Event) {
	c.view = v
	for _, e := range es {
		c.wake(e)
	}
}

func (c *Core) wake(e Event) {
	for i, d := range c.deciders {
		if !slices.Contains(d.Reads, e.Key.Resource) {
			continue
		}
		for _, k := range d.Wakes(c.view.Only(d.Reads), e) {
			c.await(task{i, k}, time.Time{}, wakes{{e.Seq, e.Key}})
		}
	}
}

// await has a decision made at its time, or earlier if it waits already. What
// led to a timer is forgotten when something else wakes the decision before.
func (c *Core) await(t task, due time.Time, why wakes) {
	p, waits := c.waiting[t]
	if !waits || due.Before(p.due) {
		p = pending{due: due}
	}
	if len(p.wakes) < wakesKept {
		p.wakes = append(slices.Clip(p.wakes), why...)
	}
	c.waiting[t] = p
}

// Ready makes all the decisions that wait and are due, and returns what is to
// be appended. The caller reports each proposal to Done, in any order.
func (c *Core) Ready(now time.Time) []Proposal {
	if c.inflight > 0 || !c.idle() {
		return nil
	}
	var due []task
	for t, p := range c.waiting {
		if !p.due.After(now) {
			due = append(due, t)
		}
	}
	slices.SortFunc(due, compareTasks) // a map has no order that replays
	var out []Proposal
	for _, t := range due {
		woken := c.waiting[t]
		delete(c.waiting, t)
		r := Decide(c.schema, &c.deciders[t.decider], c.view, t.key, now)
		if !r.Revisit.IsZero() {
			c.await(t, r.Revisit, woken.wakes)
		}
		for _, rec := range r.Records {
			c.writes++
			rec.ID = fmt.Sprintf("%s-%d", c.instance, c.writes)
			rec.Cause = woken.causesOf(rec.Key)
			rec.Decision.Build = c.build
			out = append(out, Proposal{rec, t, woken.wakes})
		}
	}
	c.inflight = len(out)
	return out
}

// idle tells whether Ready waits for nothing but time.
func (c *Core) idle() bool { return c.view != nil && c.view.Seq() >= c.barrier }

func compareTasks(a, b task) int {
	return cmp.Or(cmp.Compare(a.decider, b.decider), cmp.Compare(a.key.String(), b.key.String()))
}

// causesOf picks at most events.MaxCauses: first the events of the changed
// object itself, then the oldest.
func (w wakes) causesOf(k Key) []Seq {
	var seqs []Seq
	for _, own := range []bool{true, false} {
		for _, one := range w {
			if (one.key == k) == own && len(seqs) < events.MaxCauses && !slices.Contains(seqs, one.seq) {
				seqs = append(seqs, one.seq)
			}
		}
	}
	slices.Sort(seqs)
	return seqs
}

// Done tells the Core what became of a proposal: appended at seq, or not.
func (c *Core) Done(p Proposal, seq Seq, err error, now time.Time) {
	c.inflight--
	switch {
	case err == nil:
		c.barrier = max(c.barrier, seq)
	case errors.Is(err, events.ErrConflict):
		// Somebody else changed the object: there is an event that the View
		// does not have yet, and it is decided again with it.
		c.barrier = max(c.barrier, p.Seen+1)
		c.await(p.task, time.Time{}, p.wakes)
	default:
		c.await(p.task, now.Add(retryAfter), p.wakes)
	}
}

// Next is the time at which Ready should be called although nothing happened;
// zero: never.
func (c *Core) Next() time.Time {
	var next time.Time
	for _, p := range c.waiting {
		if next.IsZero() || p.due.Before(next) {
			next = p.due
		}
	}
	return next
}

// Result is a Decision after all its changes were finished.
type Result struct {
	Records []Record // what is to be appended: without id, causes and build
	Revisit time.Time
	Refused []*Refusal // why changes are missing in Records
}

// Decide makes one decision and finishes its changes: all that a decision is,
// and all that replay does again. It panics if the decider breaks its own
// declaration or a law of the kernel.
func Decide(s Schema, d *Decider, v *View, k Key, now time.Time) Result {
	decision := d.Decide(v.Only(d.Reads), k, now)
	r := Result{Revisit: decision.Revisit}
	changed := map[Key]bool{}
	for i, c := range decision.Changes {
		if changed[c.Key] {
			panic(fmt.Sprintf("%s changed %s twice in one decision on %s: a guessed Seq must never become an Expect", d.Name, c.Key, k))
		}
		changed[c.Key] = true
		if !slices.Contains(d.Writes, c.Key.Resource) {
			panic(fmt.Sprintf("%s wrote %s, but does not declare it in Writes", d.Name, c.Key))
		}
		rec, refusal := finish(s, d, v, c, now)
		if refusal != nil {
			r.Refused = append(r.Refused, refusal)
			if at := now.Add(retryAfter); r.Revisit.IsZero() || at.Before(r.Revisit) {
				r.Revisit = at
			}
		}
		if rec == nil {
			continue
		}
		rec.Decision = &events.DecisionRef{Decider: d.Name, Key: k.String(), Index: i, Count: len(decision.Changes)}
		r.Records = append(r.Records, *rec)
	}
	return r
}

// finish makes a record of a change, or nothing if it changes nothing.
func finish(s Schema, d *Decider, v *View, c Change, now time.Time) (*Record, *Refusal) {
	w := Write{Key: c.Key, Verb: Update, Subresource: Whole, New: c.Object, By: d.Name, Manager: d.Name, Seen: v.Seq()}
	rec := &Record{Key: c.Key}
	before, _ := v.entries.Get(c.Key.String())
	if before != nil {
		rec.Expect = before.Seq
		if !before.Delete {
			w.Old = before.Object()
		}
	}
	switch {
	case c.Delete && w.Old == nil:
		return nil, nil
	case c.Delete:
		w.Verb = Delete
	case w.Old == nil:
		w.Verb = Create
	}
	finished, refusal := s.Finish(v, w, now)
	if finished == nil || refusal != nil {
		return nil, refusal
	}
	body, err := s.Encode(finished)
	if err != nil {
		panic(fmt.Sprintf("%s: a finished object does not encode: %v", c.Key, err))
	}
	rec.Delete, rec.Body = Gone(finished), body
	rec.Envelope = events.Envelope{Source: d.Name, Type: c.Type, Time: now, Seen: v.Seq(), Note: c.Note}
	if rec.Type == "" {
		rec.Type = s.TypeOf(w.Old, finished)
	}
	return rec, nil
}
