package logtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/rutterhq/rutter/events"
)

// recorder is who followed the log from its first event on.
type recorder struct {
	t       testing.TB
	log     events.Archive
	records []events.Record
}

// catchUp reads what is new.
func (c *recorder) catchUp(ctx context.Context) {
	c.t.Helper()
	last, err := c.log.Last(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	more, err := Read(ctx, c.log, events.Seq(len(c.records)), last)
	if err != nil {
		c.t.Fatal(err)
	}
	c.records = append(c.records, more...)
}

// at returns the state at a Seq.
func (c *recorder) at(seq events.Seq) events.State {
	s := events.State{}
	for _, r := range c.records[:seq] {
		s.Fold(r)
	}
	return s
}

// Fill writes n events on few objects: creates, updates, deletes, and creates
// again. It is one writer that has read everything.
func Fill(ctx context.Context, t testing.TB, l events.Log, rng *rand.Rand, state events.State, seen events.Seq, n int) events.Seq {
	t.Helper()
	for range n {
		r := next(rng, state, seen)
		seq, err := l.Append(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		r.Seq, seen = seq, seq
		state.Fold(r)
	}
	return seen
}

// next is a write that is right for who has the state.
func next(rng *rand.Rand, state events.State, seen events.Seq) events.Record {
	return change(rng, state, seen, fmt.Sprintf("o%d", rng.IntN(12)))
}

// change is a write of one object.
func change(rng *rand.Rand, state events.State, seen events.Seq, name string) events.Record {
	r := Record(name, 0)
	has := state[r.Key]
	r.Expect, r.Seen = has.Seq, seen
	r.Delete = has.Seq != 0 && !has.Delete && rng.IntN(3) == 0
	return r
}

// HorizonAt appends the event that tombstones below h are forgotten.
func HorizonAt(ctx context.Context, t testing.TB, l events.Log, h events.Seq, state events.State, seen events.Seq) events.Seq {
	t.Helper()
	r := events.HorizonRecord(h, state[events.HorizonKey].Seq, seen, "history", time.Unix(1_790_000_000, 0))
	r.ID = fmt.Sprintf("horizon-%d", h)
	seq := must(ctx, t, l, r)
	r.Seq = seq
	state.Fold(r)
	return seq
}

// collect reads a finite sequence.
func collect(t testing.TB, what string, read func(func(events.Record, error) bool)) []events.Record {
	t.Helper()
	var out []events.Record
	for r, err := range read {
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		out = append(out, r)
	}
	return out
}

// save keeps the recorder's state at a Seq.
func (c *recorder) save(ctx context.Context, at events.Seq) {
	c.t.Helper()
	if err := c.log.Save(ctx, at, slices.Values(c.at(at).Records())); err != nil {
		c.t.Fatal(err)
	}
}

// aged makes a log of 60 events, a state kept at 40, a horizon of 30, and
// purges what is before 30.
func aged(ctx context.Context, t *testing.T, l events.Archive) (*recorder, events.State, events.Seq) {
	rng := rand.New(rand.NewPCG(1, 2))
	c, state := &recorder{t: t, log: l}, events.State{}
	Fill(ctx, t, l, rng, state, 0, 40)
	c.catchUp(ctx)
	c.save(ctx, 40)
	seen := HorizonAt(ctx, t, l, 30, state, 40)
	seen = Fill(ctx, t, l, rng, state, seen, 19)
	c.catchUp(ctx)
	if first, err := l.Forget(ctx, 30); err != nil || first != 30 {
		t.Fatalf("forget: the log begins at %d, %v, want 30", first, err)
	}
	return c, state, seen
}
