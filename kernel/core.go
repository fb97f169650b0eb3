package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/events"
)

const (
	// retryAfter is how long a decision waits whose change the log did not
	// take for another reason than a conflict, or which was refused.
	retryAfter = time.Second
	// wakesKept bounds the causes kept for one waiting decision.
	wakesKept = 256
)

// Decider is a pure function from a View to Changes, and what the kernel must
// know to call it. Determinism is a law: Wakes and Decide read no clock, no
// random source, no map order, no environment, no network, no
// resourceVersion and no managedFields, and use no floating point. What they
// need to know comes from the View and from now.
type Decider struct {
	Name string // the actor in the log, such as "controllers/replicaset"
	// Reads and Writes declare what the decider touches. The kernel enforces
	// both.
	Reads, Writes []Resource
	// Wakes returns the keys whose decision may differ after the event. v is
	// the View that has it. Keys need not be objects: "queue" is one, too.
	Wakes func(v *View, e Event) []Key
	// Decide looks at all that it needs to see and returns what should
	// change. It is level-triggered: it does not know what woke it, and is
	// called again whenever it might decide otherwise.
	Decide func(v *View, k Key, now time.Time) Decision
}

// Decision is what a decider wants. The zero Decision wants nothing.
type Decision struct {
	Changes []Change
	Revisit time.Time // decide this key again then, even if nothing happens; zero: not needed
}

// Change is a proposed event. An object appears at most once in a Decision.
// The Seq that it expects its object to be at is the kernel's to fill in.
type Change struct {
	Key    Key
	Type   string // what happened, such as "pod.bound"; empty: the kind names it
	Object Object // as it shall be; the proposer's own copy. nil: it shall not be
	Note   string // the decider's explanation, at most a few KiB
}

// Whole is the Subresource of a Write that may change any part of the object,
// spec and status alike: deciders and the node door write so.
const Whole = "*"

// Write is an intended change of one object, before the rules of Kubernetes
// have been applied to it. What Propose fills in is for those rules.
type Write struct {
	Key         Key    // without a Name: the object's generateName gives one
	Verb        string // "create", "update" or "delete"; Propose's
	Subresource string // "", "status", "scale", ... or Whole
	New, Old    Object // the writer's own copy of what shall be; what is there, shared: Propose's. Or nil
	By          string // the actor: "user:admin", "controllers/deployment"
	Groups      []string
	Manager     string // the field manager; empty: none is recorded
	Apply       bool   // a server-side apply: managedFields were merged before
	UID         string // for a create: the uid to give; empty: derived from (cluster, Key, Seen, now)
	Seen        Seq    // of the View; Propose's
	// For deletes.
	Grace         *int64 // seconds
	Propagation   *metav1.DeletionPropagation
	Preconditions *metav1.Preconditions
}

// Refusal says in Kubernetes' own terms why a write must not be.
type Refusal = apierrors.StatusError

// Schema is what the kernel must know about objects, and does not. It is pure.
type Schema interface {
	KeyOf(Object) Key
	// Decode reads the body of a Record: JSON without resourceVersion.
	Decode(Key, []byte) (Object, error)
	// Propose makes the Record of a write, by all the rules that need only the
	// View: it lacks an ID, and what else its writer knows. It returns
	// (nil, nil) for a write that changes nothing.
	Propose(v *View, w Write, now time.Time) (*Record, *Refusal)
	// Refused turns what was refused of a decider's decision on a key, nil for
	// every change that was not, into a change of the object that says so, if
	// one is needed, and tells when to try again.
	Refused(v *View, decider string, k Key, why []*Refusal, now time.Time) (change *Change, again time.Time)
}

// Decide makes one decision: all that a decision is, and all that replay does
// again. It returns what is to be appended, without ids, causes and build, and
// when to decide again although nothing happened. It panics if the decider
// breaks its own declaration or a law of the kernel.
func Decide(s Schema, d *Decider, v *View, k Key, now time.Time) (out []Record, revisit time.Time) {
	decision := d.Decide(v.Only(d.Reads), k, now)
	var refusals []*Refusal
	changed := map[Key]bool{}
	propose := func(c Change) {
		r, refused := s.Propose(v, Write{Key: c.Key, Subresource: Whole, New: c.Object, By: d.Name, Manager: d.Name}, now)
		if refusals = append(refusals, refused); r != nil {
			r.Type, r.Note = cmp.Or(c.Type, r.Type), c.Note
			r.Decision = &events.DecisionRef{Decider: d.Name, Key: k.String(), Index: len(changed), Count: len(decision.Changes)}
			out = append(out, *r)
		}
		changed[c.Key] = true
	}
	for _, c := range decision.Changes {
		if changed[c.Key] || !slices.Contains(d.Writes, c.Key.Resource) {
			panic(fmt.Sprintf("%s on %s changed %s twice, or without declaring it in Writes", d.Name, k, c.Key))
		}
		propose(c)
	}
	told, again := s.Refused(v, d.Name, k, refusals, now)
	if told != nil {
		propose(*told)
	}
	if revisit = decision.Revisit; revisit.IsZero() || !again.IsZero() && again.Before(revisit) {
		revisit = again
	}
	return out, revisit
}

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
	now             time.Time // of the last round
}

// task is what waits: a decider, by its index, and the key to decide on.
type task struct {
	decider int
	key     Key
}

// pending is when a task is due, the zero time meaning the next round, and the
// events that woke it, in their order.
type pending struct {
	due  time.Time
	woke []*Entry
}

// Proposal is a record that a decision wants appended.
type Proposal struct {
	Record
	task task
	woke []*Entry
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
	c.waiting = map[task]pending{}
	c.Apply(v, v.events()...)
}

// Apply tells the Core of the events that led to the View v.
func (c *Core) Apply(v *View, es ...Event) {
	c.view = v
	for _, e := range es {
		for i, d := range c.deciders {
			if slices.Contains(d.Reads, e.Key.Resource) {
				for _, k := range d.Wakes(v.Only(d.Reads), e) {
					c.await(task{i, k}, time.Time{}, e.Entry)
				}
			}
		}
	}
}

// await has a decision made at its time, or earlier if it waits already. What
// led to a timer is forgotten when something else wakes the decision before.
func (c *Core) await(t task, due time.Time, woke ...*Entry) {
	p, waits := c.waiting[t]
	if !waits || due.Before(p.due) {
		p = pending{due: due}
	}
	if len(p.woke) < wakesKept {
		p.woke = append(slices.Clip(p.woke), woke...)
	}
	c.waiting[t] = p
}

// Ready makes all the decisions that wait and are due, and returns what is to
// be appended. The caller reports each proposal to Done, in any order. If now is
// before that of the last round the clock was set back, and what was put off
// until a time may have been put off by a clock that was ahead: all is due.
func (c *Core) Ready(now time.Time) (out []Proposal) {
	if c.inflight > 0 || !c.idle() {
		return nil
	}
	back := now.Before(c.now)
	later := func(t task) bool { return !back && c.waiting[t].due.After(now) }
	c.now = now
	due := slices.DeleteFunc(slices.Collect(maps.Keys(c.waiting)), later)
	slices.SortFunc(due, func(a, b task) int { // a map has no order that replays
		return cmp.Or(cmp.Compare(a.decider, b.decider), cmp.Compare(a.key.String(), b.key.String()))
	})
	for _, t := range due {
		p := c.waiting[t]
		delete(c.waiting, t)
		records, revisit := Decide(c.schema, &c.deciders[t.decider], c.view, t.key, now)
		if !revisit.IsZero() {
			c.await(t, revisit, p.woke...)
		}
		for _, r := range records {
			c.writes++
			r.ID, r.Cause, r.Decision.Build = fmt.Sprintf("%s-%d", c.instance, c.writes), causesOf(r.Key, p.woke), c.build
			out = append(out, Proposal{r, t, p.woke})
		}
	}
	c.inflight = len(out)
	return out
}

// idle tells whether Ready waits for nothing but time.
func (c *Core) idle() bool { return c.view != nil && c.view.Seq() >= c.barrier }

// causesOf picks at most events.MaxCauses: first the events of the changed
// object itself, then the oldest.
func causesOf(k Key, woke []*Entry) (seqs []Seq) {
	for _, own := range []bool{true, false} {
		for _, w := range woke {
			if (w.Key == k) == own && len(seqs) < events.MaxCauses && !slices.Contains(seqs, w.Seq) {
				seqs = append(seqs, w.Seq)
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
		c.await(p.task, time.Time{}, p.woke...)
	default:
		c.await(p.task, now.Add(retryAfter), p.woke...)
	}
}

// Next is the time at which Ready should be called although nothing happened;
// zero: never.
func (c *Core) Next() (next time.Time) {
	for _, p := range c.waiting {
		if c.idle() && (next.IsZero() || p.due.Before(next)) {
			next = p.due
		}
	}
	return next
}
