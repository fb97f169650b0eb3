package logtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rutterhq/rutter/events"
)

func historyRace(t *testing.T, l events.Archive) {
	Race{Log: l, Writers: []events.Log{l, l, l, l, l, l}, Attempts: 120}.Run(t)
}

// Race is of writers of a new log with one another, and with purges.
type Race struct {
	Log      events.Archive // purges
	Writers  []events.Log   // each the way of one writer to it
	Attempts int            // to write, of each at least
	Lossy    bool           // it may stay unknown what became of a write
}

// Run fails the test if anybody overwrites what it has not seen.
func (race Race) Run(t *testing.T) {
	t.Helper()
	purged := int64(5)
	ctx, cancel := context.WithCancel(Context(t))
	if race.Lossy { // each question that is lost puts a purge off by seconds
		purged = 2
		ctx, cancel = context.WithTimeout(t.Context(), 5*patience)
	}
	l := race.Log
	seen := must(ctx, t, l, Record("begin", 0))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var told sync.Map
	var busy, forgot atomic.Int64
	busy.Add(int64(len(race.Writers)))
	for w, of := range race.Writers {
		wg.Go(func() {
			defer busy.Add(-1)
			race.write(ctx, t, of, uint64(w), func(written int) bool { return written < race.Attempts || forgot.Load() < purged }, &told)
		})
	}
	var purges []purge
	forget := func() {
		t.Helper()
		if race.Lossy {
			// A purge may wait for long for what got lost; writers wait for events.
			for range 20 {
				last, err := l.Last(ctx)
				if err != nil {
					t.Fatal(err)
				}
				r := Record("begin", seen)
				r.Seen = last
				seen = must(ctx, t, l, r)
			}
		}
		first := racePurge(ctx, t, l)
		end, err := l.Last(ctx)
		if err != nil {
			t.Fatal(err)
		}
		purges = append(purges, purge{first, end})
		if first > 1 {
			forgot.Add(1)
		}
	}
	for busy.Load() > 0 { // its events also wake the last writers
		forget()
	}
	wg.Wait()
	// It may be that nobody was slow enough to write what was purged.
	forget()
	writePurged(ctx, t, l, purges[len(purges)-1], &told)
	last, err := l.Last(ctx)
	if err != nil {
		t.Fatal(err)
	}
	records := collect(t, "read", l.Read(ctx, 0, last))
	n, ids := 0, map[string]events.Seq{}
	for _, r := range records {
		if before, twice := ids[r.ID]; twice {
			t.Errorf("%s was written twice, as %d and %d", r.ID, before, r.Seq)
		}
		ids[r.ID] = r.Seq
	}
	told.Range(func(id, seq any) bool {
		if r := records[seq.(events.Seq)-1]; r.ID != id {
			t.Errorf("the writer of %s was told %d, which is %s", id, seq, r.ID)
		}
		n++
		return true
	})
	blind := 0 // writes of what had been purged before
	for _, p := range purges {
		for _, r := range records[p.end:] {
			if r.Expect > 0 && r.Expect < p.first {
				blind++
			}
		}
	}
	t.Logf("%d events, %d of the racing writers, %d purges, %d writes of what was purged", last, n, len(purges), blind)
	if blind == 0 {
		t.Error("nobody wrote what had been purged")
	}
	checkChains(t, records)
}

// purge is when a log began at first: from the event after end on.
type purge struct{ first, end events.Seq }

// checkChains fails the test unless every event expected the state that its
// writer had seen, and nothing came between.
func checkChains(t testing.TB, records []events.Record) {
	t.Helper()
	last := map[events.Key]events.Record{}
	type told struct{ horizon, since events.Seq }
	var horizons []told
	for _, r := range records {
		before := last[r.Key]
		forgotten := r.Expect == 0 && before.Delete && slices.ContainsFunc(horizons, func(h told) bool {
			return before.Seq < h.horizon && r.Seen >= h.since
		})
		if r.Expect != before.Seq && !forgotten {
			t.Errorf("event %d of %s, seen %d, expected %d: it overwrote %d", r.Seq, r.Key, r.Seen, r.Expect, before.Seq)
		}
		if h, ok := events.HorizonOf(r); ok {
			horizons = append(horizons, told{h, r.Seq})
		}
		last[r.Key] = r
	}
}

// write writes what is right by the state that it has read, after every
// event that it reads or some events later.
func (race Race) write(ctx context.Context, t testing.TB, l events.Log, seed uint64, more func(written int) bool, told *sync.Map) {
	rng := rand.New(rand.NewPCG(seed, 5))
	for written := 0; more(written) && ctx.Err() == nil; {
		state, at := events.State{}, events.Position{}
		for r, err := range l.Follow(ctx, 0) {
			if errors.Is(err, events.ErrGone) {
				break
			}
			if err != nil {
				t.Error(err)
				return
			}
			state.Fold(r)
			if at.Pass(r); at.Part || rng.IntN(3) > 0 {
				continue
			}
			name := fmt.Sprintf("o%d", rng.IntN(12))
			if rng.IntN(3) == 0 { // one that is seldom written, so that its last event has been purged
				name = fmt.Sprintf("seldom%d", rng.IntN(60))
			}
			w := change(rng, state, r.Seq, name)
			seq, err := l.Append(ctx, w)
			switch {
			case err == nil:
				told.Store(w.ID, seq)
				written++
			case errors.Is(err, events.ErrConflict):
				written++
			case errors.Is(err, events.ErrGone): // it has to read on
			case !race.Lossy:
				t.Error(err)
				return
			}
			if !more(written) {
				break
			}
		}
	}
}

// writePurged writes objects whose last events have been purged, each at first
// as one who has not seen that event, and in the end as one who was overtaken.
func writePurged(ctx context.Context, t *testing.T, l events.Archive, p purge, told *sync.Map) {
	t.Helper()
	at, kept, err := l.Snapshot(ctx, p.end)
	if err != nil {
		t.Fatal(err)
	}
	state := events.State{}
	for _, r := range append(collect(t, "snapshot", kept), collect(t, "read", l.Read(ctx, at, p.end))...) {
		state.Fold(r)
	}
	for k, has := range state {
		if has.Seq >= p.first || !strings.HasPrefix(k.Name, "seldom") {
			continue
		}
		w := Record(k.Name, has.Seq)
		w.Seen = has.Seq - 1
		if _, err := l.Append(ctx, w); !errors.Is(err, events.ErrGone) {
			t.Errorf("%s by who has not read what was purged: %v", k, err)
		}
		w.Seen = p.end
		told.Store(w.ID, must(ctx, t, l, w))
		w = Record(k.Name, has.Seq)
		w.Seen = p.end
		expectConflict(ctx, t, l, w)
	}
}

// racePurge keeps the state at the end, forgets all before it, and purges.
func racePurge(ctx context.Context, t testing.TB, l events.Archive) (first events.Seq) {
	t.Helper()
	at, err := l.Last(ctx)
	if err != nil {
		t.Fatal(err)
	}
	state := events.State{}
	for _, r := range collect(t, "read", l.Read(ctx, 0, at)) {
		state.Fold(r)
	}
	if err := l.Save(ctx, at, slices.Values(state.Records())); err != nil {
		t.Fatal(err)
	}
	HorizonAt(ctx, t, l, at, state, at)
	first, err = l.Forget(ctx, at)
	if err != nil || first > at {
		t.Fatalf("the log begins at %d, %v, want at most %d", first, err, at)
	}
	return first
}
