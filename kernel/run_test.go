package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/memory"
	"github.com/rutterhq/rutter/kernel"
)

// mirrored runs a Mirror of the log in a bubble of its own time.
func mirrored(t *testing.T, log events.Log, test func(ctx context.Context, m *kernel.Mirror)) {
	mirroredOnly(t, log, nil, test)
}

// mirroredOnly is mirrored with a Mirror of these resources only.
func mirroredOnly(t *testing.T, log events.Log, only []kernel.Resource, test func(ctx context.Context, m *kernel.Mirror)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		m := kernel.NewMirror(log, plain{}, only)
		var ended sync.WaitGroup
		ended.Go(func() {
			if err := m.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		test(ctx, m)
		cancel()
		ended.Wait()
	})
}

func TestRunDecidesUntilNothingIsLeft(t *testing.T) {
	log := memory.New()
	put(t, log, "a", "1", 0)
	mirrored(t, log, func(ctx context.Context, m *kernel.Mirror) {
		ctx, cancel := context.WithCancel(ctx)
		var ended sync.WaitGroup
		ended.Go(func() {
			if err := kernel.Run(ctx, log, m, zerolog.Nop(), kernel.Now, "test", "run", copier(nil)); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		put(t, log, "b", "2", 0)
		synctest.Wait()
		for name, want := range map[string]string{"copy-of-a": "1", "copy-of-b": "2"} {
			o, ok := m.View().Get(key(name))
			if !ok || o.(*corev1.ConfigMap).Data["value"] != want {
				t.Errorf("%s: %v, want %s", name, o, want)
			}
		}
		if last, _ := log.Last(ctx); last != 4 {
			t.Errorf("%d events, want 4: two from outside and two copies", last)
		}
		cancel()
		ended.Wait()
	})
}

func TestAtWaitsForWhatWasWritten(t *testing.T) {
	log := memory.New()
	mirrored(t, log, func(ctx context.Context, m *kernel.Mirror) {
		seq := put(t, log, "a", "1", 0)
		v, err := m.At(ctx, seq)
		if err != nil || v.Seq() < seq {
			t.Errorf("At(%d): a view at %d, %v", seq, v.Seq(), err)
		}
		short, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if _, err := m.At(short, seq+1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("At beyond the log's end: %v, want the context's error", err)
		}
	})
}

func TestAReaderMayLeaveAtAnyStep(t *testing.T) {
	log := memory.New()
	put(t, log, "a", "1", 0)
	mirrored(t, log, func(ctx context.Context, m *kernel.Mirror) {
		for want := range 2 {
			got := 0
			for range m.Follow(ctx) { // one that does not let go would wait for ever
				if got == want {
					break
				}
				got++
				put(t, log, fmt.Sprint("b", want), "1", 0)
			}
		}
	})
}

func TestSinceSeesEachEventOnce(t *testing.T) {
	log := memory.New()
	for i := range 5 {
		put(t, log, fmt.Sprint("o", i), "1", 0)
	}
	mirrored(t, log, func(ctx context.Context, m *kernel.Mirror) {
		for step := range m.Since(ctx, 2) {
			if !step.Fresh || len(step.Events) != 5 {
				t.Errorf("fresh: %t, %d events; want all 5 anew: the ring begins with what happens after the start", step.Fresh, len(step.Events))
			}
			break
		}
		put(t, log, "x", "1", 0)
		put(t, log, "y", "1", 0)
		synctest.Wait()
		var seen []string
		for step := range m.Since(ctx, 5) {
			if step.Fresh {
				t.Fatal("fresh, although the ring has all since then")
			}
			for _, e := range step.Events {
				seen = append(seen, e.Key.Name)
			}
			if len(seen) == 2 {
				break
			}
		}
		if seen[0] != "x" || seen[1] != "y" {
			t.Errorf("seen %v, want x, y", seen)
		}
	})
}

func TestASlowReaderOfABusyLogStartsOver(t *testing.T) {
	log := memory.New()
	mirrored(t, log, func(ctx context.Context, m *kernel.Mirror) {
		start := m.View().Seq()
		big := strings.Repeat("x", 1<<20)
		for i := range 10 { // more than the ring keeps
			put(t, log, fmt.Sprint("o", i), big, 0)
		}
		synctest.Wait()
		for step := range m.Since(ctx, start) {
			if !step.Fresh || len(step.Events) != 10 {
				t.Errorf("fresh: %t, %d events; want all 10 anew", step.Fresh, len(step.Events))
			}
			break
		}
	})
}

// flaky is a log that ends every Follow after a few events with an error.
type flaky struct {
	*memory.Log
	err   error
	after atomic.Int64
}

func newFlaky(err error, after int64) *flaky {
	f := &flaky{Log: memory.New(), err: err}
	f.after.Store(after)
	return f
}

func (f *flaky) Follow(ctx context.Context, after events.Seq) iter.Seq2[events.Record, error] {
	return func(yield func(events.Record, error) bool) {
		n := int64(0)
		for r, err := range f.Log.Follow(ctx, after) {
			if n++; n > f.after.Load() {
				yield(events.Record{}, f.err)
				return
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

func TestMirrorGoesOnAfterErrors(t *testing.T) {
	log := newFlaky(errors.New("broken off"), 3)
	for i := range 10 {
		put(t, log.Log, fmt.Sprint("o", i), "1", 0)
	}
	mirrored(t, log, func(ctx context.Context, m *kernel.Mirror) {
		select {
		case <-m.Ready():
			t.Error("ready although the log's end was not reached")
		default:
		}
		log.after.Store(100)
		if _, err := m.At(ctx, 10); err != nil {
			t.Error(err)
		}
	})
}

func TestMirrorStartsAnewWhenTheLogIsGone(t *testing.T) {
	log := newFlaky(events.ErrGone, 2)
	put(t, log.Log, "a", "1", 0)
	mirrored(t, log, func(ctx context.Context, m *kernel.Mirror) {
		var fresh int
		ctx, cancel := context.WithCancel(ctx)
		var ended sync.WaitGroup
		ended.Go(func() {
			for step := range m.Follow(ctx) {
				if step.Fresh {
					fresh++
				}
			}
		})
		synctest.Wait()
		put(t, log.Log, "b", "1", 0)
		put(t, log.Log, "c", "1", 0) // the third event: Follow ends with ErrGone
		synctest.Wait()
		log.after.Store(100)
		time.Sleep(time.Second) // of the bubble's clock
		synctest.Wait()
		if m.View().Seq() != 3 || fresh != 2 {
			t.Errorf("view at %d after %d fresh starts, want 3 after 2", m.View().Seq(), fresh)
		}
		cancel()
		ended.Wait()
	})
}

func TestSetterTriesAgainAndThenRests(t *testing.T) {
	log := memory.New()
	put(t, log, "a", "1", 0)
	mirrored(t, log, func(ctx context.Context, m *kernel.Mirror) {
		ctx, cancel := context.WithCancel(ctx)
		var got []int
		var at kernel.Seq
		s := kernel.Setter[int]{Name: "count", Reads: []kernel.Resource{configMaps},
			Goal: func(v *kernel.View) int {
				n := 0
				for range v.Entries(configMaps, "") {
					n++
				}
				return n
			},
			Equal: func(a, b int) bool { return a == b },
			Set: func(_ context.Context, n int) error {
				if got = append(got, n); len(got) < 3 {
					return errors.New("not yet")
				}
				return nil
			},
			At: func(seq kernel.Seq) { at = seq },
		}
		var ended sync.WaitGroup
		ended.Go(func() { _ = s.Run(ctx, m, zerolog.Nop()) })
		time.Sleep(10 * time.Second) // of the bubble's clock
		put(t, log, "a", "2", 1)     // the same goal
		put(t, log, "b", "1", 0)
		synctest.Wait()
		if fmt.Sprint(got) != "[1 1 1 2]" || at != 3 {
			t.Errorf("set %v up to %d, want two failures, then 1, then 2, up to 3", got, at)
		}
		cancel()
		ended.Wait()
	})
}

func TestStepperStepsOneThingAtATime(t *testing.T) {
	log := memory.New()
	mirrored(t, log, func(ctx context.Context, m *kernel.Mirror) {
		ctx, cancel := context.WithCancel(ctx)
		var mu sync.Mutex
		steps, busy := map[string]int{}, map[string]bool{}
		pokes := make(chan kernel.Key)
		s := kernel.Stepper{Name: "test",
			Pokes: func(ctx context.Context, wake func(kernel.Key)) error {
				for {
					select {
					case k := <-pokes:
						wake(k)
					case <-ctx.Done():
						return nil
					}
				}
			},
			Wakes: func(_ *kernel.View, e kernel.Event) []kernel.Key { return []kernel.Key{e.Key} },
			Step: func(ctx context.Context, _ *kernel.View, k kernel.Key) (time.Time, error) {
				mu.Lock()
				if busy[k.Name] {
					t.Errorf("%s is stepped twice at once", k.Name)
				}
				busy[k.Name] = true
				steps[k.Name]++
				n := steps[k.Name]
				mu.Unlock()
				time.Sleep(time.Second)
				mu.Lock()
				defer mu.Unlock()
				busy[k.Name] = false
				switch {
				case k.Name == "a" && n < 3:
					return time.Now().Add(time.Minute), nil // and again
				case k.Name == "b" && n < 3:
					return time.Time{}, errors.New("not yet")
				}
				return time.Time{}, nil
			}}
		var ended sync.WaitGroup
		ended.Go(func() { _ = s.Run(ctx, m, zerolog.Nop()) })
		put(t, log, "a", "1", 0)
		put(t, log, "b", "1", 0)
		put(t, log, "c", "1", 0)
		synctest.Wait()
		put(t, log, "c", "2", 3) // while c is being stepped: once more
		put(t, log, "c", "3", 4)
		time.Sleep(time.Hour)
		pokes <- key("d")
		time.Sleep(time.Hour)
		mu.Lock()
		if fmt.Sprint(steps) != "map[a:3 b:3 c:2 d:1]" {
			t.Errorf("stepped %v, want a and b three times, c twice, d once", steps)
		}
		mu.Unlock()
		cancel()
		ended.Wait()
	})
}

func TestTheHorizonForgetsTombstones(t *testing.T) {
	v, _ := kernel.NewView(plain{}).Fold(
		tombstone(t, "early", 1), tombstone(t, "late", 2), sequenced(record(t, "alive", "1", 0), 3))
	at := events.HorizonRecord(2, 0, 3, "history", time.Time{})
	at.Seq = 4
	after, es := v.Fold(at)
	if after.Entry(key("early")) != nil || after.Entry(key("late")) == nil || after.Entry(key("alive")) == nil {
		t.Error("after a horizon of 2 the View should have lost the tombstone at 1, and nothing else")
	}
	if v.Entry(key("early")) == nil || len(es) != 1 || after.Seq() != 4 {
		t.Errorf("the View before has changed, or the horizon is not one event at 4: %d events at %d", len(es), after.Seq())
	}
	live, all := 0, 0
	for range after.All() {
		live++
	}
	for range after.Records() {
		all++
	}
	if live != 1 || all != 3 {
		t.Errorf("%d live objects of %d records, want 1 of 3: the horizon is a record, and no object", live, all)
	}
}

func sequenced(r kernel.Record, seq kernel.Seq) kernel.Record {
	r.Seq = seq
	return r
}

func tombstone(t *testing.T, name string, seq kernel.Seq) kernel.Record {
	r := sequenced(record(t, name, "1", 0), seq)
	r.Delete = true
	return r
}
