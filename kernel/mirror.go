package kernel

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/rutterhq/rutter/events"
)

const (
	ringBytes = 8 << 20 // of bodies that a Mirror keeps for Since
	foldBatch = 256     // records folded at once, while there are many to read
	// rereadAfter is the wait before a log that failed is read again.
	rereadAfter = 200 * time.Millisecond
)

// Mirror keeps the newest View of a log for many readers of one process.
type Mirror struct {
	log    events.Log
	schema Schema
	only   []Resource
	ready  chan struct{}

	mu      sync.Mutex // protects the following
	view    *View
	ring    []Event       // the newest events, in order
	first   uint64        // how many events came before ring[0]
	held    int           // bytes of bodies in ring
	lost    Seq           // ring has every event after this one
	changed chan struct{} // closed and replaced whenever view changes
}

// Step is a part of the log: the View and the events that led to it, which may
// be none. The first Step of a reader is Fresh: it has an event for every
// object. It is Fresh again if the log had to be read anew.
type Step struct {
	View   *View
	Events []Event
	Fresh  bool
}

// NewMirror returns a Mirror that holds the empty View until Run. It folds
// only the resources given; nil: everything.
func NewMirror(log events.Log, s Schema, only []Resource) *Mirror {
	return &Mirror{log: log, schema: s, only: only, view: NewView(s),
		ready: make(chan struct{}), changed: make(chan struct{})}
}

// Ready is closed once the log was read to its end as of the start: before,
// View may be long past.
func (m *Mirror) Ready() <-chan struct{} { return m.ready }

// View returns the newest View.
func (m *Mirror) View() *View {
	v, _ := m.now()
	return v
}

// now returns the newest View, and what is closed when it is no longer.
func (m *Mirror) now() (*View, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.view, m.changed
}

// At waits until the View has the event at seq, so that a writer sees what it
// wrote, and returns the View.
func (m *Mirror) At(ctx context.Context, seq Seq) (*View, error) {
	for {
		v, changed := m.now()
		if v.Seq() >= seq {
			return v, nil
		}
		if !wait(ctx, changed) {
			return nil, ctx.Err()
		}
	}
}

// wait waits for a channel, and tells whether it gave something, or was
// closed, before ctx ended.
func wait[T any](ctx context.Context, c <-chan T) bool {
	select {
	case <-c:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// send gives v to the reader of a channel, unless ctx ends before.
func send[T any](ctx context.Context, to chan<- T, v T) {
	select {
	case to <- v:
	case <-ctx.Done():
	}
}

// Follow yields a Fresh Step once the Mirror is ready, then what happens, until
// ctx ends.
func (m *Mirror) Follow(ctx context.Context) iter.Seq[Step] {
	return func(yield func(Step) bool) {
		for wait(ctx, m.ready) {
			v := m.View()
			if !yield(Step{View: v, Events: v.asEvents(), Fresh: true}) {
				return
			}
			for step, err := range m.steps(ctx, v.folds, v.Seq()) {
				if err != nil {
					break // it was read anew, or this reader is too slow
				}
				if !yield(step) {
					return
				}
			}
		}
	}
}

// Since yields what happened after the given Seq, and goes on until ctx ends.
// If the ring does not reach back so far, or the log had to be read anew, it
// yields events.ErrGone and ends: then the reader starts over.
func (m *Mirror) Since(ctx context.Context, after Seq) iter.Seq2[Step, error] {
	m.mu.Lock()
	defer m.mu.Unlock()
	if after < m.lost || after > m.view.Seq() {
		return func(yield func(Step, error) bool) { yield(Step{}, events.ErrGone) }
	}
	first := sort.Search(len(m.ring), func(i int) bool { return m.ring[i].Seq > after })
	return m.steps(ctx, m.first+uint64(first), after)
}

// steps yields the ring's events from a position on, and every newer View.
// Positions, unlike Seqs, also order the door's log, in which an object that
// becomes visible comes with the Seq that it has had for long.
func (m *Mirror) steps(ctx context.Context, at uint64, seen Seq) iter.Seq2[Step, error] {
	return func(yield func(Step, error) bool) {
		for {
			m.mu.Lock()
			step, changed, gone := Step{View: m.view}, m.changed, at < m.first
			if !gone {
				step.Events = slices.Clone(m.ring[at-m.first:])
			}
			m.mu.Unlock()
			switch {
			case gone:
				yield(Step{}, events.ErrGone)
				return
			case len(step.Events) == 0 && step.View.Seq() <= seen:
				if !wait(ctx, changed) {
					return
				}
				continue
			case !yield(step, nil):
				return
			}
			at, seen = at+uint64(len(step.Events)), step.View.Seq()
		}
	}
}

// Run reads the log until ctx ends. A log that fails is read again; one that
// says ErrGone is read from its beginning, and the old View stays until the
// new one is complete.
func (m *Mirror) Run(ctx context.Context) error {
	for from := m.View(); ctx.Err() == nil; {
		err := m.read(ctx, from)
		if from = m.View(); errors.Is(err, events.ErrGone) {
			from = NewView(m.schema)
		}
		wait(ctx, time.After(rereadAfter))
	}
	return nil
}

// read follows the log from a View on until it fails. Nothing is published
// before the View is where the log ended when it began.
func (m *Mirror) read(ctx context.Context, v *View) error {
	end, err := m.log.Last(ctx)
	if err != nil {
		return err
	}
	var batch []Record
	var es []Event
	fresh := v.Seq() == 0
	fold := func() {
		var more []Event
		v, more = v.Fold(batch...)
		batch, es = batch[:0], append(es, more...)
		if v.Seq() >= end {
			v = m.publish(v, es, fresh)
			fresh, es = false, nil
		} else if fresh {
			es = nil // nobody can have seen what was before
		}
	}
	fold()
	for r, err := range m.log.Follow(ctx, v.Seq()) {
		if err != nil {
			return err
		}
		if m.only != nil && !slices.Contains(m.only, r.Key.Resource) {
			r = Record{Seq: r.Seq}
		}
		if batch = append(batch, r); r.Seq >= end || len(batch) == foldBatch {
			fold()
		}
	}
	return ctx.Err()
}

// publish makes v the newest View. fresh: it was folded anew, so that nobody
// can go on from what was before.
func (m *Mirror) publish(v *View, es []Event, fresh bool) *View {
	m.mu.Lock()
	defer m.mu.Unlock()
	if fresh {
		v = v.clone()
		v.folds += m.view.folds + 1 // no older View continues here
		m.ring, m.first, m.held, m.lost = nil, v.folds, 0, v.Seq()
		es = nil
	}
	m.view = v
	for _, e := range es {
		m.ring = append(m.ring, e)
		m.held += len(e.Body)
	}
	drop := 0
	for ; m.held > ringBytes && drop < len(m.ring); drop++ {
		m.held -= len(m.ring[drop].Body)
		m.lost = m.ring[drop].Seq
		m.ring[drop] = Event{} // or the slice would keep it alive
	}
	m.ring, m.first = m.ring[drop:], m.first+uint64(drop)
	close(m.changed)
	m.changed = make(chan struct{})
	select {
	case <-m.ready:
	default:
		close(m.ready)
	}
	return v
}
