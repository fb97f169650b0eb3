package kernel_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/rutterhq/rutter/events/memory"
	"github.com/rutterhq/rutter/kernel"
)

// alarmed wants to look at every object again after a time.
func alarmed(after time.Duration, looked func(now time.Time)) kernel.Decider {
	return kernel.Decider{Name: "alarmed", Reads: []kernel.Resource{configMaps},
		Wakes: func(_ *kernel.View, e kernel.Event) []kernel.Key { return []kernel.Key{e.Key} },
		Decide: func(_ *kernel.View, _ kernel.Key, now time.Time) kernel.Decision {
			looked(now)
			return kernel.Decision{Revisit: now.Add(after)}
		}}
}

func TestWhatAWrongClockPutOffIsDecidedAgain(t *testing.T) {
	looks := 0
	w := newWorld(t, alarmed(30*time.Second, func(time.Time) { looks++ }))
	w.put("a", "1", 0)
	w.core.Ready(noon.Add(3 * time.Hour)) // by a clock that is three hours ahead
	if w.core.Ready(noon); looks != 2 {
		t.Fatalf("looked %d times once the clock was set back, want 2", looks)
	}
	if next := w.core.Next(); !next.Equal(noon.Add(30 * time.Second)) {
		t.Errorf("next at %v, want 30 s later by the right clock", next)
	}
	if w.core.Ready(noon.Add(time.Second)); looks != 2 {
		t.Errorf("looked %d times, want 2: it is not yet time", looks)
	}
}

// TestRunFollowsTheClockThatIs runs deciders by a clock that jumps, either way. It
// is never behind the bubble's, by which Run waits.
func TestRunFollowsTheClockThatIs(t *testing.T) {
	for _, c := range []struct {
		name        string
		first, then time.Duration // by how much the clock is wrong, before and after it jumps
		revisit     time.Duration
	}{
		{"forward to after the time", 0, 3 * time.Hour, 2 * time.Hour},
		{"back after it was ahead", 3 * time.Hour, 0, 2 * time.Minute},
		{"back, but not by all", 3 * time.Hour, time.Hour, 2 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			log := memory.New()
			put(t, log, "a", "1", 0)
			mirrored(t, log, func(ctx context.Context, m *kernel.Mirror) {
				ctx, cancel := context.WithCancel(ctx)
				var wrong atomic.Int64
				wrong.Store(int64(c.first))
				clock := func() time.Time { return kernel.Now().Add(time.Duration(wrong.Load())) }
				var looks atomic.Int64
				var ended sync.WaitGroup
				ended.Go(func() {
					err := kernel.Run(ctx, log, m, zerolog.Nop(), clock, "test", "run", alarmed(c.revisit, func(time.Time) { looks.Add(1) }))
					if err != nil {
						t.Error(err)
					}
				})
				time.Sleep(30 * time.Second) // of the bubble's clock
				if looks.Load() != 1 {
					t.Errorf("looked %d times, want once", looks.Load())
				}
				wrong.Store(int64(c.then))
				time.Sleep(time.Minute + time.Second)
				synctest.Wait()
				if looks.Load() != 2 {
					t.Errorf("a minute after the clock jumped it has looked %d times, want twice", looks.Load())
				}
				cancel()
				ended.Wait()
			})
		})
	}
}

// TestAStepperLooksAtTheClockEveryMinute: what a step said of a later time was by
// a clock that may have been wrong.
func TestAStepperLooksAtTheClockEveryMinute(t *testing.T) {
	log := memory.New()
	put(t, log, "a", "1", 0)
	mirrored(t, log, func(ctx context.Context, m *kernel.Mirror) {
		ctx, cancel := context.WithCancel(ctx)
		var steps atomic.Int64
		s := kernel.Stepper{Name: "test",
			Pokes: func(ctx context.Context, _ func(kernel.Key)) error { <-ctx.Done(); return nil },
			Wakes: func(_ *kernel.View, e kernel.Event) []kernel.Key { return []kernel.Key{e.Key} },
			Step: func(context.Context, *kernel.View, kernel.Key) (time.Time, error) {
				steps.Add(1)
				return time.Now().Add(3 * time.Hour).Round(0), nil
			}}
		var ended sync.WaitGroup
		ended.Go(func() { _ = s.Run(ctx, m, zerolog.Nop()) })
		time.Sleep(10*time.Minute + time.Second) // of the bubble's clock
		if n := steps.Load(); n != 11 {
			t.Errorf("stepped %d times in ten minutes, want at the beginning and every minute", n)
		}
		cancel()
		ended.Wait()
	})
}
