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

// Step is a part of the log as Since gives it: the View and the events that
// led to it, which may be none.
type Step struct {
	View   *View
	Events []Event
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
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.view
}

// At waits until the View has the event at seq, so that a writer sees what it
// wrote, and returns the View.
func (m *Mirror) At(ctx context.Context, seq Seq) (*View, error) {
	for {
		m.mu.Lock()
		v, changed := m.view, m.changed
		m.mu.Unlock()
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

// From is Since for a reader that has a View of this Mirror. Unlike Seqs, it
// works on the door's log too, where an object that becomes visible comes with
// the Seq that it has had for long.
func (m *Mirror) From(ctx context.Context, v *View) iter.Seq2[Step, error] {
	return m.steps(ctx, v.folds, v.Seq())
}

// steps yields the ring's events from a position on, and every newer View.
func (m *Mirror) steps(ctx context.Context, at uint64, seen Seq) iter.Seq2[Step, error] {
	return func(yield func(Step, error) bool) {
		for {
			m.mu.Lock()
			step, changed, first := Step{View: m.view}, m.changed, m.first
			if at >= first {
				step.Events = slices.Clone(m.ring[at-first:])
			}
			m.mu.Unlock()
			if at < first {
				yield(Step{}, events.ErrGone)
				return
			}
			if len(step.Events) > 0 || step.View.Seq() > seen {
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
	from := m.View()
	for {
		err := m.read(ctx, from)
		if ctx.Err() != nil {
			return nil
		}
		if from = m.View(); errors.Is(err, events.ErrGone) {
			from = NewView(m.schema)
		}
		select {
		case <-time.After(rereadAfter):
		case <-ctx.Done():
			return nil
		}
	}
}

// read follows the log from a View on until it fails.
func (m *Mirror) read(ctx context.Context, v *View) error {
	end, err := m.log.Last(ctx)
	if err != nil {
		return err
	}
	read := make(chan Record, foldBatch)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for r, err := range m.log.Follow(ctx, v.Seq()) {
			if err != nil {
				return err
			}
			select {
			case read <- r:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return ctx.Err()
	})
	g.Go(func() error {
		fresh := v.Seq() == 0
		if v.Seq() >= end {
			v, fresh = m.publish(v, nil, fresh), false
		}
		for {
			batch, err := m.batch(ctx, read)
			if err != nil {
				return err
			}
			var folded []Event
			v, folded = v.Fold(batch...)
			if v.Seq() >= end {
				v, fresh = m.publish(v, folded, fresh), false
			}
		}
	})
	return g.Wait()
}

// batch takes what has been read, at least one record.
func (m *Mirror) batch(ctx context.Context, read <-chan Record) ([]Record, error) {
	var batch []Record
	for len(batch) < foldBatch {
		if len(batch) > 0 && len(read) == 0 {
			break
		}
		select {
		case r := <-read:
			if m.only != nil && !slices.Contains(m.only, r.Key.Resource) {
				r = Record{Seq: r.Seq}
			}
			batch = append(batch, r)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return batch, nil
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
