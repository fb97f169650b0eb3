package logtest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/rutterhq/rutter/events"
)

// historyAnyState builds the state at every Seq from the newest one that was
// kept before, and compares it with that of who followed all along.
func historyAnyState(t *testing.T, l events.Archive) {
	ctx := Context(t)
	rng := rand.New(rand.NewPCG(7, 8))
	c, state, seen := &recorder{t: t, log: l}, events.State{}, events.Seq(0)
	for range 4 {
		seen = Fill(ctx, t, l, rng, state, seen, 20)
		c.catchUp(ctx)
		c.save(ctx, seen-3)
		h := seen - 8
		seen = HorizonAt(ctx, t, l, h, state, seen)
		if _, err := l.Forget(ctx, h); err != nil {
			t.Fatal(err)
		}
	}
	c.catchUp(ctx)
	want := events.State{}
	for seq := events.Seq(0); seq <= seen; seq++ {
		if seq > 0 {
			want.Fold(c.records[seq-1])
		}
		base, kept, err := l.Snapshot(ctx, seq)
		if err != nil || base > seq || seq-base > 24 && seq > 24 {
			t.Fatalf("the state at %d is based on %d, %v", seq, base, err)
		}
		got := events.State{}
		for _, r := range append(collect(t, "snapshot", kept), collect(t, "read", l.Read(ctx, base, seq))...) {
			got.Fold(r)
		}
		if diff := differ(want, got); diff != "" {
			t.Fatalf("the state at %d, based on %d: %s", seq, base, diff)
		}
	}
}

// historyPairs looks up 10,000 random objects at random Seqs, and compares them
// with what somebody had who followed the log from its first event on.
func historyPairs(t *testing.T, l events.Archive) {
	const rounds, each, objects, pairs, perRead = 8, 400, 60, 10_000, 100
	ctx := Context(t)
	rng := rand.New(rand.NewPCG(11, 12))
	live := follow(ctx, l)
	defer live.close()
	state, seen := events.State{}, events.Seq(0)
	for range rounds {
		for range each {
			r := Record(fmt.Sprintf("o%d", rng.IntN(objects)), 0)
			r.Expect, r.Seen = state[r.Key].Seq, seen
			r.Delete = r.Expect != 0 && !state[r.Key].Delete && rng.IntN(4) == 0
			seen = must(ctx, t, l, r)
			r.Seq = seen
			state.Fold(r)
		}
		if err := l.Save(ctx, seen, slices.Values(state.Records())); err != nil {
			t.Fatal(err)
		}
		seen = HorizonAt(ctx, t, l, seen-events.Seq(each/2), state, seen)
		live.wait(seen) // or it might be left behind by the purge
		if _, err := l.Forget(ctx, seen-each/2); err != nil {
			t.Fatal(err)
		}
	}
	all := live.wait(seen)
	if len(all) < int(seen) {
		t.Fatalf("who followed was shown %d of %d events: %v", len(all), seen, live.err)
	}
	type pair struct {
		at  events.Seq
		key events.Key
	}
	drawn := make([]pair, pairs)
	for i := range drawn {
		drawn[i] = pair{events.Seq(1 + rng.IntN(int(seen))), Record(fmt.Sprintf("o%d", rng.IntN(objects)), 0).Key}
	}
	slices.SortFunc(drawn, func(a, b pair) int { return int(a.at) - int(b.at) })
	for some := range slices.Chunk(drawn, perRead) {
		past, at := events.State{}, events.Seq(0)
		base, kept, err := l.Snapshot(ctx, some[0].at)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range collect(t, "snapshot", kept) {
			past.Fold(r)
		}
		more := collect(t, "read", l.Read(ctx, base, some[len(some)-1].at))
		for _, p := range some {
			for at = max(at, base); at < p.at; at++ {
				past.Fold(more[at-base])
			}
			checkPair(t, all[:p.at], p.key, past[p.key])
		}
	}
}

// checkPair compares what is read of an object at the end of some events with
// what happened to it.
func checkPair(t *testing.T, all []events.Record, k events.Key, got events.Record) {
	t.Helper()
	var want events.Record // the zero one: there never was any
	horizon := events.Seq(0)
	for _, r := range slices.Backward(all) {
		if h, ok := events.HorizonOf(r); ok {
			horizon = max(horizon, h)
		}
		if r.Key == k {
			want = r
			break
		}
	}
	if want.Delete && want.Seq < horizon {
		want = events.Record{} // it is forgotten that there was any
	}
	if diff := differ(want, got); diff != "" {
		t.Fatalf("%s at %d: %s", k, len(all), diff)
	}
}
