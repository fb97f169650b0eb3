package memory_test

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
	"github.com/rutterhq/rutter/events/memory"
)

func TestLog(t *testing.T) {
	t.Parallel()
	logtest.Run(t, func(*testing.T) logtest.Subject {
		l := memory.New()
		return logtest.Subject{Log: l, Purge: l.Purge, Archive: l}
	})
}

func TestAfter(t *testing.T) {
	t.Parallel()
	l := memory.New()
	body := []byte(`{}`)
	r := logtest.Record("a", 0)
	r.Body = body
	for i := range 3 {
		r.Expect = events.Seq(i)
		if _, err := l.Append(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	body[0] = 'x' // the log has its own copy
	got, err := l.After(1)
	if err != nil || len(got) != 2 || got[0].Seq != 2 || string(got[0].Body) != `{}` {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := l.After(3); err != nil || len(got) != 0 {
		t.Errorf("at the end: %+v, %v", got, err)
	}
	if _, err := l.After(4); !errors.Is(err, events.ErrGone) {
		t.Errorf("after the end: %v", err)
	}
}

// TestDrop ends the past at a Seq: what needs older events is gone, what was
// kept later is not.
func TestDrop(t *testing.T) {
	t.Parallel()
	ctx, l := t.Context(), memory.New()
	state, rng := events.State{}, rand.New(rand.NewPCG(1, 1))
	seen := logtest.Fill(ctx, t, l, rng, state, 0, 20)
	l.SaveNow()
	seen = logtest.Fill(ctx, t, l, rng, state, seen, 20)
	seen = logtest.HorizonAt(ctx, t, l, 30, state, seen)
	l.SaveNow()
	if first, err := l.Forget(ctx, 30); err != nil || first != 30 {
		t.Fatal(first, err)
	}
	l.Drop(25) // the state of 20 now lacks what followed it
	w, err := l.Window(ctx)
	if err != nil || w.First != seen+1 || w.Last != seen {
		t.Fatalf("the window is %+v, %v", w, err)
	}
	if _, _, err := l.Snapshot(ctx, seen-1); !errors.Is(err, events.ErrGone) {
		t.Errorf("a state that cannot be built: %v", err)
	}
	at, records, err := l.Snapshot(ctx, seen)
	if err != nil || at != seen {
		t.Fatal(at, err)
	}
	got := events.State{}
	for r := range records {
		got.Fold(r)
	}
	if diff := cmp.Diff(state, got); diff != "" {
		t.Error(diff)
	}
	for _, err := range l.Read(ctx, 10, 20) {
		if !errors.Is(err, events.ErrGone) {
			t.Errorf("read what was dropped: %v", err)
		}
	}
	if at, err := l.SeqAt(ctx, time.Unix(1, 0)); !errors.Is(err, events.ErrGone) {
		t.Errorf("before the window: %d, %v", at, err)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	var k memory.Keys
	logtest.Keys(t, func(*testing.T) events.Keys { return &k })
}

func TestTalk(t *testing.T) {
	l := memory.New()
	logtest.Talk(logtest.Context(t), t, l, l)
}
