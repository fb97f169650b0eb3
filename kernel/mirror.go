package kernel

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sort"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events"
)

const (
	ringBytes = 8 << 20 // of bodies that a Mirror keeps for Since
	foldBatch = 256     // records folded at once at most, and read ahead
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
// be none. The first Step of a reader is Fresh: all that is in its View is new
// to the reader. It is Fresh again if the log had to be read anew.
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
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Follow yields a Fresh Step once the Mirror is ready, then what happens, until
// ctx ends.
func (m *Mirror) Follow(ctx context.Context) iter.Seq[Step] {
	return func(yield func(Step) bool) {
		select {
		case <-m.ready:
		case <-ctx.Done():
		}
		for ctx.Err() == nil {
			v := m.View()
			if !yield(Step{View: v, Fresh: true}) {
				return
			}
			for step, err := range m.steps(ctx, v.folds, v.Seq()) {
				if err != nil {
					break // it was read anew, or this reader was too slow
				}
				if !yield(step) {
					return
				}
			}
		}
	}
}

// send is Follow into a channel.
func (m *Mirror) send(ctx context.Context, to chan<- Step) error {
	for step := range m.Follow(ctx) {
		send(ctx, to, step)
	}
	return nil
}

// all returns the events that the reader has not seen: of a Fresh Step one for
// every object.
func (s Step) all() []Event {
	var es []Event
	if s.Fresh {
		for e := range s.View.All() {
			es = append(es, Event{Entry: e})
		}
	}
	return append(es, s.Events...)
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
			step, changed, first := Step{View: m.view}, m.changed, m.first
			if at >= first {
				step.Events = slices.Clone(m.ring[at-first:])
			}
			m.mu.Unlock()
			switch {
			case at < first:
				yield(Step{}, events.ErrGone)
				return
			case len(step.Events) > 0 || step.View.Seq() > seen:
				if !yield(step, nil) {
					return
				}
				at, seen = at+uint64(len(step.Events)), step.View.Seq()
				continue
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}

// Run reads the log until ctx ends. A log that fails is read again; one that
// says ErrGone is read from its beginning, and the old View stays until the
// new one is complete.
func (m *Mirror) Run(ctx context.Context) error {
	for from := m.View(); ctx.Err() == nil; from = m.View() {
		if err := m.read(ctx, from); errors.Is(err, events.ErrGone) {
			_ = m.read(ctx, NewView(m.schema))
		}
		pause(ctx, rereadAfter)
	}
	return nil
}

// pause waits, at most until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// read follows the log from a View on until it fails.
func (m *Mirror) read(ctx context.Context, v *View) error {
	end, err := m.log.Last(ctx)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	read := make(chan Record, foldBatch)
	g.Go(func() error {
		for r, err := range m.log.Follow(ctx, v.Seq()) {
			if err != nil {
				return err
			}
			if m.only != nil && !slices.Contains(m.only, r.Key.Resource) {
				r = Record{Seq: r.Seq}
			}
			send(ctx, read, r)
		}
		return ctx.Err()
	})
	g.Go(func() error {
		at, fresh := v, v.Seq() == 0
		var es []Event
		for {
			if at.Seq() >= end {
				at, fresh = m.publish(at, es, fresh), false
			}
			select {
			case r := <-read:
				batch := []Record{r}
				for len(batch) < foldBatch && len(read) > 0 {
					batch = append(batch, <-read)
				}
				at, es = at.Fold(batch...)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	return g.Wait()
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
