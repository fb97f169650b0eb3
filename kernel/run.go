package kernel

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events"
)

const (
	ringBytes = 8 << 20 // of bodies that a Mirror keeps for those who read on
	foldBatch = 256     // records folded at once, while there are many to read
	// noSeq is no Seq of any log.
	noSeq = ^Seq(0)
	// rereadAfter is the wait before a log that failed is read again.
	rereadAfter = 200 * time.Millisecond
	// lookAgain bounds a wait for a time: a clock that jumped is noticed then.
	lookAgain = time.Minute
	// appendWindow bounds the appends that one Run has in flight. More only adds
	// latency (measured on JetStream).
	appendWindow = 128
)

// Mirror keeps the newest View of a log for many readers of one process.
type Mirror struct {
	log    events.Log
	schema Schema
	ready  <-chan struct{}

	view  atomic.Pointer[View] // as of last, or newer
	last  atomic.Pointer[link]
	mu    sync.Mutex // protects the following, and every link
	first *link      // the one before the oldest that is kept
	held  int        // bytes of bodies in the links kept
}

// link is what one publication of a View added to its Mirror's story. The
// links kept form a list; a reader stands on the last one that it has read.
type link struct {
	events []Event
	bytes  int           // of their bodies
	seq    Seq           // of the View
	lost   bool          // events are missing here: dropped, or the log was read anew
	next   *link         // once it is there
	done   chan struct{} // closed when next is there
}

// Step is a part of the log: the View and the events that led to it, which may
// be none. A Fresh Step has an event for every object instead: the reader
// cannot go on from what it has seen, and starts over.
type Step struct {
	View   *View
	Events []Event
	Fresh  bool
}

// NewMirror returns a Mirror that holds the empty View until Run. It folds
// only the resources given; nil: everything.
func NewMirror(log events.Log, s Schema, only []Resource) *Mirror {
	root := &link{done: make(chan struct{})}
	m := &Mirror{log: events.Only(log, only), schema: s, ready: root.done, first: root}
	m.view.Store(NewView(s))
	m.last.Store(root)
	return m
}

// Ready is closed once the log was read to its end as of the start: before,
// View may be long past.
func (m *Mirror) Ready() <-chan struct{} { return m.ready }

// View returns the newest View.
func (m *Mirror) View() *View { return m.view.Load() }

// At waits until the View has the event at seq, so that a writer sees what it
// wrote, and returns the View.
func (m *Mirror) At(ctx context.Context, seq Seq) (*View, error) {
	for l := m.last.Load(); m.View().Seq() < seq; l = m.last.Load() {
		if !wait(ctx, l.done, time.Time{}) {
			return nil, ctx.Err()
		}
	}
	return m.View(), nil
}

// wait waits for a channel, or for a time that is not zero, but not longer than
// lookAgain for that, and tells whether ctx goes on.
func wait(ctx context.Context, c <-chan struct{}, until time.Time) bool {
	var alarm <-chan time.Time
	if !until.IsZero() {
		alarm = time.After(min(time.Until(until), lookAgain))
	}
	select {
	case <-c:
	case <-alarm:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// Follow yields a Fresh Step once the Mirror is ready, then what happens, until
// ctx ends.
func (m *Mirror) Follow(ctx context.Context) iter.Seq[Step] { return m.Since(ctx, noSeq) }

// Since yields what happened after the given Seq, and goes on until ctx ends.
// Its first Step is Fresh if the Mirror does not keep all since then.
func (m *Mirror) Since(ctx context.Context, after Seq) iter.Seq[Step] {
	return m.follow(ctx, after, new(time.Time))
}

// follow is Since that also yields a Step, perhaps without events, when the
// alarm has come, which its reader may set at every Step, and every lookAgain
// until then.
func (m *Mirror) follow(ctx context.Context, after Seq, alarm *time.Time) iter.Seq[Step] {
	return func(yield func(Step) bool) {
		var l *link // that this reader stands on; nil: it starts over
		for wait(ctx, m.ready, time.Time{}) {
			m.mu.Lock()
			step, last := Step{View: m.View()}, m.last.Load()
			if l == nil && after >= m.first.seq && after <= last.seq {
				for l = m.first; l != last && l.next.seq <= after; l = l.next {
				}
			}
			for step.Fresh = l == nil; l != last && !step.Fresh; l = l.next {
				step.Events, step.Fresh = append(step.Events, l.next.events...), l.next.lost
			}
			l = last
			m.mu.Unlock()
			if step.Fresh {
				step.Events, after = step.View.events(), 0
			}
			step.Events = slices.DeleteFunc(step.Events, func(e Event) bool { return e.Seq <= after })
			if !yield(step) || !wait(ctx, l.done, *alarm) {
				return
			}
		}
	}
}

// Run reads the log until ctx ends. A log that fails is read again; one that
// says ErrGone is read from its beginning, and the old View stays until the
// new one is complete.
func (m *Mirror) Run(ctx context.Context) error {
	for v := m.View(); ctx.Err() == nil; wait(ctx, nil, time.Now().Add(rereadAfter)) {
		err := m.read(ctx, v)
		if v = m.View(); errors.Is(err, events.ErrGone) {
			v = NewView(m.schema)
		}
	}
	return nil
}

// read follows the log from a View on until it fails. Of a log that is read
// from its beginning nothing is published before the View is where the log
// ended when it began, and of a state that was kept nothing before it is whole.
func (m *Mirror) read(ctx context.Context, v *View) error {
	end, err := m.log.Last(ctx)
	if err != nil {
		return err
	}
	fresh := v.Seq() == 0
	if end == 0 {
		m.publish(v, nil, fresh)
		fresh = false
	}
	var batch []Record
	at := events.Position{Seq: v.Seq()}
	for r, err := range m.log.Follow(ctx, v.Seq()) {
		if err != nil {
			return err
		}
		at.Pass(r)
		// A state that readers are told of is told of at once.
		if batch = append(batch, r); (at.Part || r.Seq < end) && (len(batch) < foldBatch || at.Part && !fresh) {
			continue
		}
		var es []Event
		if v, es = v.Fold(batch...); !at.Part && (!fresh || v.Seq() >= end) {
			m.publish(v, es, fresh)
			fresh = false
		}
		batch = batch[:0]
	}
	return ctx.Err()
}

// publish makes v the newest View. fresh: the log was read anew, so that nobody
// can go on from what was before.
func (m *Mirror) publish(v *View, es []Event, fresh bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := &link{events: es, seq: v.Seq(), lost: fresh, done: make(chan struct{})}
	for _, e := range es {
		l.bytes += len(e.Body)
	}
	m.view.Store(v)
	last := m.last.Swap(l)
	last.next = l
	close(last.done)
	for m.held += l.bytes; m.first != l && (fresh || m.held > ringBytes); {
		m.first = m.first.next
		m.held -= m.first.bytes
		m.first.events, m.first.lost = nil, true // slow readers stand before it
	}
}

// Run lets the deciders decide until ctx ends: it drives a Core with a log, a
// Mirror of that log that somebody else runs, and a clock: Now. build names the
// program, instance this run of it, unique among all writers of the log.
func Run(ctx context.Context, log events.Log, m *Mirror, lg zerolog.Logger, clock func() time.Time, build, instance string, deciders ...Decider) error {
	core := NewCore(m.schema, build, instance, deciders...)
	var alarm time.Time
	for step := range m.follow(ctx, noSeq, &alarm) {
		if step.Fresh {
			core.Start(step.View)
		} else {
			core.Apply(step.View, step.Events...)
		}
		var g errgroup.Group
		g.SetLimit(appendWindow)
		var mu sync.Mutex // protects core
		for _, p := range core.Ready(clock()) {
			g.Go(func() error {
				seq, err := log.Append(ctx, p.Record)
				lg.Debug().Err(err).Str("actor", p.Source).Stringer("key", p.Key).Str("event", p.Type).
					Uint64("seq", uint64(seq)).Uint64("seen", uint64(p.Seen)).Msg("proposed")
				mu.Lock()
				defer mu.Unlock()
				core.Done(p, seq, err, clock())
				return nil
			})
		}
		_ = g.Wait() // how each ended the Core knows
		alarm = core.Next()
	}
	return nil
}

// Now is the clock of deciders: without a monotonic part, and in UTC, so that
// it is the same after a round trip through the log.
func Now() time.Time { return time.Now().Round(0).UTC() }

// Setter makes a part of the world that is configured as a whole (a routing
// table, eBPF maps) match the View.
type Setter[C any] struct {
	Name  string
	Reads []Resource
	Goal  func(v *View) C // pure: the configuration that the View asks for
	Equal func(a, b C) bool
	// Set makes the configuration the one in force. After an error it is
	// called again with the newest goal; it must be idempotent.
	Set func(ctx context.Context, c C) error
	// At, if not nil, is told up to which Seq the configuration in force is.
	At func(Seq)
}

// Run keeps the world as the Mirror's View asks for, until ctx ends.
func (s Setter[C]) Run(ctx context.Context, m *Mirror, lg zerolog.Logger) error {
	var set *C
	var retry time.Time
	concerned := func(e Event) bool { return slices.Contains(s.Reads, e.Key.Resource) }
	for step := range m.follow(ctx, noSeq, &retry) {
		if step.Fresh || set == nil && !time.Now().Before(retry) || slices.ContainsFunc(step.Events, concerned) {
			if goal := s.Goal(step.View); set == nil || !s.Equal(goal, *set) {
				err := s.Set(ctx, goal)
				if set, retry = &goal, (time.Time{}); err != nil {
					lg.Warn().Err(err).Str("setter", s.Name).Msg("not set; will try again")
					set, retry = nil, time.Now().Add(retryAfter)
				}
			}
		}
		if s.At != nil && set != nil {
			s.At(step.View.Seq())
		}
	}
	return nil
}

// Stepper makes a part of the world that consists of many things match the
// View, one action on one thing at a time: things do not wait for one another.
type Stepper struct {
	Name string
	// Wakes names the things that an event may concern.
	Wakes func(v *View, e Event) []Key
	// Step looks at one thing, in the View and in the world, and does the next
	// thing that is to be done, at most one. It returns when to look again, at
	// the latest (it looks every lookAgain until then): zero means not before
	// something wakes it. After an error it is called again.
	Step func(ctx context.Context, v *View, k Key) (again time.Time, err error)
	// Pokes runs beside the rest and tells of things that the world itself
	// woke: a container that exited.
	Pokes func(ctx context.Context, wake func(Key)) error
}

// Run steps until ctx ends, and returns when all steps have. Each thing that is
// stepped, or waits for its time, has a goroutine.
func (s Stepper) Run(ctx context.Context, m *Mirror, lg zerolog.Logger) error {
	g, ctx := errgroup.WithContext(ctx)
	var mu sync.Mutex // protects woken
	woken := map[Key]chan struct{}{}
	live := func(k Key, woke <-chan struct{}) {
		for again, err := (time.Time{}), error(nil); wait(ctx, woke, again); {
			if again, err = s.Step(ctx, m.View(), k); err != nil && ctx.Err() == nil {
				lg.Warn().Err(err).Str("stepper", s.Name).Stringer("key", k).Msg("step failed; will try again")
				again = time.Now().Add(retryAfter)
			}
			mu.Lock()
			if again.IsZero() && len(woke) == 0 {
				delete(woken, k)
				mu.Unlock()
				return
			}
			mu.Unlock()
		}
	}
	wake := func(k Key) {
		mu.Lock()
		defer mu.Unlock()
		if woken[k] == nil {
			woke := make(chan struct{}, 1)
			woken[k] = woke
			g.Go(func() error { live(k, woke); return nil })
		}
		select {
		case woken[k] <- struct{}{}:
		default: // it will look anyway
		}
	}
	g.Go(func() error { return s.Pokes(ctx, wake) })
	for step := range m.Follow(ctx) {
		for _, e := range step.Events {
			for _, k := range s.Wakes(step.View, e) {
				wake(k)
			}
		}
	}
	return g.Wait()
}
