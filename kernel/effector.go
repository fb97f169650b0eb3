package kernel

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
)

// setRetry bounds the wait before a failed Set or Step is tried again: it
// doubles from the first to the second.
const setRetryMin, setRetryMax = 50 * time.Millisecond, 5 * time.Second

// Setter makes a part of the world that is configured as a whole (a routing
// table, eBPF maps) match the View.
type Setter[C any] struct {
	Name  string
	Reads []Resource
	Goal  func(v *View) C // pure: the configuration that the View asks for
	Equal func(a, b C) bool
	// Set makes the configuration the one in force. It is called again with
	// the newest goal after an error, and must be idempotent.
	Set func(ctx context.Context, c C) error
	// At, if not nil, is told up to which Seq the configuration in force is.
	At func(Seq)
}

// Run keeps the world as the Mirror's View asks for, until ctx ends.
func (s Setter[C]) Run(ctx context.Context, m *Mirror, lg zerolog.Logger) error {
	select {
	case <-m.Ready():
	case <-ctx.Done():
		return nil
	}
	var set C
	done, retry := false, setRetryMin
	for v := m.View(); ctx.Err() == nil; {
		if goal := s.Goal(v); !done || !s.Equal(goal, set) {
			if err := s.Set(ctx, goal); err != nil {
				lg.Warn().Err(err).Str("setter", s.Name).Msg("not set; will try again")
				select {
				case <-time.After(retry):
				case <-ctx.Done():
					return nil
				}
				v, done, retry = m.View(), false, min(2*retry, setRetryMax)
				continue
			}
			set, done, retry = goal, true, setRetryMin
		}
		if s.At != nil {
			s.At(v.Seq())
		}
		v = s.next(ctx, m, v)
	}
	return nil
}

// next waits for a View that may ask for another configuration.
func (s Setter[C]) next(ctx context.Context, m *Mirror, v *View) *View {
	for step, err := range m.From(ctx, v) {
		if err != nil {
			return m.View()
		}
		if slices.ContainsFunc(step.Events, func(e Event) bool { return slices.Contains(s.Reads, e.Key.Resource) }) {
			return step.View
		}
		if s.At != nil {
			s.At(step.View.Seq())
		}
	}
	return v
}

// Stepper makes a part of the world that consists of many things match the
// View, one action on one thing at a time: things do not wait for one another.
type Stepper struct {
	Name string
	// Wakes names the things that an event may concern.
	Wakes func(v *View, e Event) []Key
	// Step looks at one thing, in the View and in the world, and does the next
	// thing that is to be done, at most one. It returns when to look again:
	// zero means not before something wakes it. An error is tried again.
	Step func(ctx context.Context, v *View, k Key) (again time.Time, err error)
	// Pokes are things that the world itself woke: a container that exited.
	Pokes <-chan Key
}

// Run steps until ctx ends, and returns when all steps have.
func (s Stepper) Run(ctx context.Context, m *Mirror, lg zerolog.Logger) error {
	select {
	case <-m.Ready():
	case <-ctx.Done():
		return nil
	}
	w := &stepping{Stepper: s, mirror: m, lg: lg, awake: map[Key]chan struct{}{}}
	w.g, ctx = errgroup.WithContext(ctx)
	w.g.Go(func() error { return w.follow(ctx) })
	w.g.Go(func() error {
		for {
			select {
			case k := <-s.Pokes:
				w.wake(ctx, k)
			case <-ctx.Done():
				return nil
			}
		}
	})
	return w.g.Wait()
}

type stepping struct {
	Stepper
	mirror *Mirror
	lg     zerolog.Logger
	g      *errgroup.Group

	mu    sync.Mutex
	awake map[Key]chan struct{} // of each thing that has a worker: buffered 1, poked to look again
}

func (w *stepping) follow(ctx context.Context) error {
	for ctx.Err() == nil {
		v := w.mirror.View()
		for e := range v.All() {
			w.wakeAll(ctx, v, Event{Entry: e})
		}
		for step, err := range w.mirror.From(ctx, v) {
			if err != nil {
				break // start over with a new View
			}
			for _, e := range step.Events {
				w.wakeAll(ctx, step.View, e)
			}
		}
	}
	return nil
}

func (w *stepping) wakeAll(ctx context.Context, v *View, e Event) {
	for _, k := range w.Wakes(v, e) {
		w.wake(ctx, k)
	}
}

// wake has the thing looked at, by the worker it has or by a new one.
func (w *stepping) wake(ctx context.Context, k Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if poke, ok := w.awake[k]; ok {
		select {
		case poke <- struct{}{}:
		default:
		}
		return
	}
	poke := make(chan struct{}, 1)
	w.awake[k] = poke
	w.g.Go(func() error { w.work(ctx, k, poke); return nil })
}

// work steps one thing until there is nothing to wait for.
func (w *stepping) work(ctx context.Context, k Key, poke chan struct{}) {
	retry := setRetryMin
	for {
		again, err := w.Step(ctx, w.mirror.View(), k)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			w.lg.Warn().Err(err).Str("stepper", w.Name).Stringer("key", k).Msg("step failed; will try again")
			again, retry = time.Now().Add(retry), min(2*retry, setRetryMax)
		} else {
			retry = setRetryMin
		}
		if again.IsZero() && w.rest(k, poke) {
			return
		}
		var alarm <-chan time.Time
		if !again.IsZero() {
			alarm = time.After(time.Until(again))
		}
		select {
		case <-poke:
		case <-alarm:
		case <-ctx.Done():
			return
		}
	}
}

// rest ends a worker, unless it was poked in the meantime.
func (w *stepping) rest(k Key, poke chan struct{}) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(poke) > 0 {
		return false
	}
	delete(w.awake, k)
	return true
}
