package kernel

import (
	"context"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
)

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
	concerned := func(e Event) bool { return slices.Contains(s.Reads, e.Key.Resource) }
	for step := range m.Follow(ctx) {
		for v := step.View; step.Fresh || slices.ContainsFunc(step.Events, concerned); v = m.View() {
			goal := s.Goal(v)
			if set != nil && s.Equal(goal, *set) {
				break
			}
			err := s.Set(ctx, goal)
			if set = &goal; err == nil {
				break
			}
			lg.Warn().Err(err).Str("setter", s.Name).Msg("not set; will try again")
			if set = nil; !wait(ctx, time.After(retryAfter)) {
				return nil
			}
		}
		if s.At != nil {
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
	// thing that is to be done, at most one. It returns when to look again:
	// zero means not before something wakes it. After an error it is called
	// again.
	Step func(ctx context.Context, v *View, k Key) (again time.Time, err error)
	// Pokes are things that the world itself woke: a container that exited.
	Pokes <-chan Key
}

// Run steps until ctx ends, and returns when all steps have. One goroutine
// decides who is stepped; each thing is stepped by one goroutine at a time.
func (s Stepper) Run(ctx context.Context, m *Mirror, lg zerolog.Logger) error {
	type result struct {
		key   Key
		again time.Time
	}
	g, ctx := errgroup.WithContext(ctx)
	steps, ended, alarms := make(chan Step), make(chan result), make(chan Key)
	g.Go(func() error { return m.sendAll(ctx, steps) })
	woken := map[Key]bool{} // of each thing that is being stepped: meanwhile?
	timers := map[Key]*time.Timer{}
	wake := func(k Key) {
		if _, busy := woken[k]; busy {
			woken[k] = true
			return
		}
		woken[k] = false
		if t := timers[k]; t != nil {
			t.Stop()
			delete(timers, k)
		}
		g.Go(func() error {
			again, err := s.Step(ctx, m.View(), k)
			if err != nil && ctx.Err() == nil {
				lg.Warn().Err(err).Str("stepper", s.Name).Stringer("key", k).Msg("step failed; will try again")
				again = time.Now().Add(retryAfter)
			}
			send(ctx, ended, result{k, again})
			return nil
		})
	}
	for {
		select {
		case step := <-steps:
			for _, e := range step.Events {
				for _, k := range s.Wakes(step.View, e) {
					wake(k)
				}
			}
		case r := <-ended:
			again := woken[r.key]
			delete(woken, r.key)
			if again {
				wake(r.key)
			} else if !r.again.IsZero() {
				timers[r.key] = time.AfterFunc(time.Until(r.again), func() { send(ctx, alarms, r.key) })
			}
		case k := <-alarms:
			wake(k)
		case k := <-s.Pokes:
			wake(k)
		case <-ctx.Done():
			return g.Wait()
		}
	}
}
