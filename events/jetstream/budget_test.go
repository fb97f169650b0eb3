package jetstream

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// TestFullLogForgets fills the log up: the horizon must find room all the same,
// or nothing could be purged any more, and nothing written for good.
func TestFullLogForgets(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	l := openIn(t, startServer(t, ServerConfig{Budget: minBudget}))
	state, last := events.State{}, events.Seq(0)
	for i, size := 0, 1<<20; ; i++ { // until there is no room for the horizon either
		r := logtest.Record(fmt.Sprintf("o%d", i%3), 0)
		r.Expect, r.Seen = state[r.Key].Seq, last
		r.Body = []byte(strings.Repeat("x", size))
		seq, err := l.Append(ctx, r)
		if errors.Is(err, events.ErrFull) {
			if size == 0 {
				break
			}
			size /= 16
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		r.Seq, last = seq, seq
		state.Fold(r)
	}
	if err := l.Save(ctx, last, slices.Values(state.Records())); err != nil {
		t.Fatal(err)
	}
	r := events.HorizonRecord(last, 0, last, "history", time.Unix(1_790_000_000, 0))
	r.ID = "horizon"
	since, err := l.Append(ctx, r)
	if err != nil {
		t.Fatalf("the horizon: %v", err)
	}
	if first, err := l.Forget(ctx, last); err != nil || first < 4 {
		t.Fatalf("the log begins at %d, %v", first, err)
	}
	if err := l.Tend(ctx); err != nil {
		t.Fatal(err)
	}
	after := logtest.Record("after", 0)
	after.Seen = since
	if _, err := l.Append(ctx, after); err != nil {
		t.Errorf("a write after the purge: %v", err)
	}
}

// TestFull fills the log up.
func TestFull(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	dir := t.TempDir()
	s, err := StartServer(ServerConfig{Dir: dir, Budget: minBudget})
	if err != nil {
		t.Fatal(err)
	}
	l := openIn(t, s)
	large := func(i int) events.Record {
		r := logtest.Record(fmt.Sprintf("o%d", i), 0)
		r.Body = []byte(strings.Repeat("x", 1<<20))
		return r
	}
	written := 0
	for ; err == nil; written++ {
		_, err = l.Append(ctx, large(written))
	}
	written--
	if !errors.Is(err, events.ErrFull) || written < 8 || written > 16 {
		t.Fatalf("after %d MiB: %v", written, err)
	}
	if got := readAll(ctx, t, l); len(got) != written {
		t.Fatalf("%d of %d are there", len(got), written)
	}
	l.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	l = openIn(t, startServer(t, ServerConfig{Dir: dir, Budget: 2 * minBudget}))
	if _, err := l.Append(ctx, large(written)); err != nil {
		t.Fatalf("with more room: %v", err)
	}
}

// TestBudgetChanges opens a log with less room than it was made with, and then
// with more: what is free on a disk changes from start to start.
func TestBudgetChanges(t *testing.T) {
	dir := t.TempDir()
	for i, budget := range []int64{8 << 30, 64 << 20, 4 << 30} {
		s, err := StartServer(ServerConfig{Dir: dir, Budget: budget})
		if err != nil {
			t.Fatal(err)
		}
		nc, err := s.Connect()
		if err != nil {
			t.Fatal(err)
		}
		l, err := Open(logtest.Context(t), nc, Options{Budget: s.Budget()})
		if err != nil {
			t.Fatalf("with a budget of %d MiB, start %d: %v", budget>>20, i+1, err)
		}
		if _, err := l.Append(logtest.Context(t), logtest.Record(fmt.Sprint("o", i), 0)); err != nil {
			t.Errorf("start %d: %v", i+1, err)
		}
		l.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
