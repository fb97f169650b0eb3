package history_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
	"github.com/rutterhq/rutter/events/memory"
	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kernel/kerneltest"
)

// stateOf is what a View holds, without types.
func stateOf(v *kernel.View) events.State {
	s := events.State{}
	for e := range v.Records() {
		s[e.Key] = e.Record
	}
	return s
}

// replayed is the View of all events there ever were, up to a Seq.
func replayed(t *testing.T, log *memory.Log, at kernel.Seq) *kernel.View {
	t.Helper()
	v := kernel.NewView(kerneltest.Plain{})
	for r, err := range log.Read(t.Context(), 0, at) {
		if err != nil {
			t.Fatal(err)
		}
		v, _ = v.Fold(r)
	}
	return v
}

// A log that is written for a day keeps some minutes of events, and a Mirror
// that begins then has the View of one that was there all along. Every View of
// the past can be built.
func TestKeeperKeepsTheLogSmall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		log := memory.New()
		mirror := kernel.NewMirror(log, kerneltest.Plain{}, nil)
		k := history.DefaultKeeper(log, mirror, func(err error) { t.Error(err) })
		k.Events, k.Least = 300, 10
		done := make(chan error, 2)
		go func() { done <- mirror.Run(ctx) }()
		go func() { done <- k.Run(ctx) }()
		rng, state, seen := rand.New(rand.NewPCG(1, 2)), events.State{}, kernel.Seq(0)
		for i := range 2000 {
			r := logtest.Record(fmt.Sprintf("o%d", rng.IntN(30)), 0)
			r.Expect, r.Seen, r.Time = state[r.Key].Seq, seen, time.Now()
			r.Delete = r.Expect != 0 && !state[r.Key].Delete && rng.IntN(3) == 0
			seq, err := log.Append(ctx, r)
			if err != nil {
				t.Fatalf("write %d: %v", i, err)
			}
			if _, err := mirror.At(ctx, seq); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
			v := mirror.View()
			state, seen = stateOf(v), v.Seq()
		}
		late := kernel.NewMirror(log, kerneltest.Plain{}, nil)
		go func() { done <- late.Run(ctx) }()
		v, err := late.At(ctx, seen)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(stateOf(replayed(t, log, v.Seq())), stateOf(v)); diff != "" {
			t.Errorf("a Mirror that begins late has another View: %s", diff)
		}
		tail, err := log.After(seen - 1)
		if err != nil || len(tail) == 0 {
			t.Fatal(err)
		}
		if _, err := log.After(seen - 800); err == nil {
			t.Errorf("the log still holds the last 800 of %d events", seen)
		}
		for range 100 {
			at := kernel.Seq(rng.Uint64N(uint64(seen + 1)))
			past, err := history.At(ctx, log, kerneltest.Plain{}, at, nil, nil)
			if err != nil || past.Seq() != at {
				t.Fatalf("the past at %d: %v", at, err)
			}
			if diff := cmp.Diff(stateOf(replayed(t, log, at)), stateOf(past)); diff != "" {
				t.Fatalf("the past at %d: %s", at, diff)
			}
		}
		cancel()
		for range 3 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

// What is old is told by no clock that can be set: events whose times are hours
// in the past are kept for as long as others, and those of the future for no
// longer.
func TestKeeperGoesByNoWallClock(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		off  time.Duration
		used int64
	}{
		"set forward":                   {-3 * time.Hour, 0},
		"set back":                      {3 * time.Hour, 0},
		"set back, and the log is full": {3 * time.Hour, 990},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			log := &budgeted{Log: memory.New(), used: c.used}
			mirror := kernel.NewMirror(log, kerneltest.Plain{}, nil)
			done := make(chan error, 1)
			go func() { done <- mirror.Run(ctx) }()
			k := history.DefaultKeeper(log, mirror, nil)
			k.Events, k.Least = 100, 10
			now, last := time.Unix(1_790_000_000, 0), kernel.Seq(0)
			for minute := range 30 {
				for i := range 20 {
					r := logtest.Record(fmt.Sprintf("o%d-%d", minute, i), 0)
					r.Time, r.Seen = now.Add(c.off), last
					if _, err := log.Append(ctx, r); err != nil {
						t.Fatal(err)
					}
				}
				var err error
				if last, err = log.Last(ctx); err != nil {
					t.Fatal(err)
				}
				if _, err := mirror.At(ctx, last); err != nil {
					t.Fatal(err)
				}
				if err := k.Look(ctx, now); err != nil {
					t.Fatal(err)
				}
				_, err = log.After(1) // from 0 on it can always be read, by a state
				if purged := err != nil; minute < 10 && purged || minute == 29 && !purged {
					t.Fatalf("after %d minutes it was purged: %t", minute, purged)
				}
				if young := max(1, last-160); minute >= 10 { // what came in the last eight minutes, if not in ten
					if _, err := log.After(young); err != nil {
						t.Fatalf("after %d minutes event %d of %d is gone: %v", minute, young, last, err)
					}
				}
				now = now.Add(time.Minute)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// budgeted is a log whose budget is what a test says.
type budgeted struct {
	*memory.Log
	used int64
}

func (b *budgeted) Usage(context.Context) (events.Usage, error) {
	return events.Usage{Used: b.used, Budget: 1000}, nil
}

func (b *budgeted) SetKeep(context.Context, events.Keep) error { return nil }

// At 80 % of the budget nobody waits for many events, but what is too young is
// kept.
func TestKeeperUnderPressure(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log := &budgeted{Log: memory.New(), used: 799}
	mirror := kernel.NewMirror(log, kerneltest.Plain{}, nil)
	done := make(chan error, 1)
	go func() { done <- mirror.Run(ctx) }()
	k := history.DefaultKeeper(log, mirror, nil)
	k.Least = 10
	now := time.Unix(1_790_000_000, 0).Add(time.Hour)
	for i := range 40 {
		r := logtest.Record(fmt.Sprintf("o%d", i), 0)
		if r.Time = now.Add(-time.Hour); i >= 20 {
			r.Time = now.Add(-time.Minute)
		}
		if _, err := log.Append(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	look := func(used int64, first kernel.Seq) {
		t.Helper()
		log.used = used
		lookAt(ctx, t, k, log, mirror, now)
		if _, err := log.After(first - 1); err != nil {
			t.Errorf("with %d used the log does not hold event %d: %v", used, first, err)
		}
		if _, err := log.Log.After(max(first, 2) - 2); (err == nil) != (first == 1) {
			t.Errorf("with %d used the log holds more than from event %d on", used, first)
		}
	}
	look(799, 1)
	look(800, 20)
	now = now.Add(20 * time.Minute)
	look(800, 40)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// lookAt has a keeper look once the mirror has all of its log.
func lookAt(ctx context.Context, t *testing.T, k *history.Keeper, log events.Log, mirror *kernel.Mirror, now time.Time) {
	t.Helper()
	last, err := log.Last(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mirror.At(ctx, last); err != nil {
		t.Fatal(err)
	}
	if err := k.Look(ctx, now); err != nil {
		t.Fatal(err)
	}
}

// late puts off every second purge, as a log does while somebody who writes does
// not know of the horizon yet.
type late struct {
	*memory.Log
	asked int
	first kernel.Seq
}

func (l *late) Forget(ctx context.Context, h events.Seq) (events.Seq, error) {
	if l.asked++; l.asked%2 == 0 {
		return max(1, l.first), ctx.Err()
	}
	first, err := l.Log.Forget(ctx, h)
	l.first = first
	return first, err
}

// A purge that was put off is asked for again, however quiet the cluster is then
// and however often it was purged before.
func TestKeeperAsksAgain(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log := &late{Log: memory.New()}
	mirror := kernel.NewMirror(log, kerneltest.Plain{}, nil)
	done := make(chan error, 1)
	go func() { done <- mirror.Run(ctx) }()
	k := history.DefaultKeeper(log, mirror, nil)
	k.Events, k.Least = 10, 10
	now := time.Unix(1_790_000_000, 0)
	look := func() {
		t.Helper()
		lookAt(ctx, t, k, log, mirror, now)
	}
	for round := range 2 { // the first purge is done, the second is put off
		for i := range 20 {
			r := logtest.Record(fmt.Sprintf("o%d-%d", round, i), 0)
			r.Seen = mirror.View().Seq()
			if _, err := log.Append(ctx, r); err != nil {
				t.Fatal(err)
			}
		}
		look()
		now = now.Add(20 * time.Minute)
		look()
	}
	if log.asked != 2 || log.first < 2 {
		t.Fatalf("asked %d times, the log begins at %d: the test is not what it says", log.asked, log.first)
	}
	before := log.first
	now = now.Add(time.Minute)
	look()
	if log.first <= before {
		t.Errorf("the log begins at %d, as before the purge that was put off", log.first)
	}
	for range 3 { // all is done: nobody is asked any more
		now = now.Add(time.Minute)
		look()
	}
	if log.asked != 3 {
		t.Errorf("asked %d times, want 3", log.asked)
	}
	// Nor does who begins on a log that was purged take that for its own purge.
	for i := range 20 {
		r := logtest.Record(fmt.Sprintf("late-%d", i), 0)
		r.Seen = mirror.View().Seq()
		if _, err := log.Append(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	look()
	now = now.Add(20 * time.Minute)
	look() // the fourth: put off
	before, log.asked = log.first, 5
	k = history.DefaultKeeper(log, mirror, nil)
	look() // the sixth: put off
	now = now.Add(time.Minute)
	look()
	if log.first <= before {
		t.Errorf("the log begins at %d still, to a keeper that has just begun", log.first)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
