package logtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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

// differ is cmp.Diff, which takes long to say that nothing does.
func differ(want, got any) string {
	if reflect.DeepEqual(want, got) {
		return ""
	}
	return cmp.Diff(want, got)
}

// historyReads reads what Follow no longer yields.
func historyReads(t *testing.T, l events.Archive) {
	ctx := Context(t)
	if w, err := l.Window(ctx); err != nil || w.First != 1 || w.Last != 0 {
		t.Fatalf("the window of an empty log is %+v, %v", w, err)
	}
	c, _, _ := aged(ctx, t, l)
	w, err := l.Window(ctx)
	if err != nil || w.First != 1 || w.Last != 60 || w.Since.IsZero() || w.Bytes <= 0 {
		t.Fatalf("the window is %+v, %v", w, err)
	}
	for _, p := range [][2]events.Seq{{0, 60}, {0, 1}, {5, 5}, {10, 35}, {28, 31}, {29, 60}, {59, 60}} {
		got := collect(t, "read", l.Read(ctx, p[0], p[1]))
		if diff := cmp.Diff(c.records[p[0]:p[1]], got, equateEmpty); diff != "" {
			t.Fatalf("from %d to %d: %s", p[0], p[1], diff)
		}
	}
	expectGone(t, "what is not yet", l.Read(ctx, 50, 61))
	if _, _, err := l.Snapshot(ctx, 61); !errors.Is(err, events.ErrGone) {
		t.Errorf("the state at what is not yet: %v", err)
	}
	if at, err := l.SeqAt(ctx, time.Now().Add(time.Hour*24*365*100)); err != nil || at != 60 {
		t.Errorf("in a hundred years the log is at %d, %v", at, err)
	}
	if at, err := l.SeqAt(ctx, time.Unix(1, 0)); err != nil || at != 0 {
		t.Errorf("in 1970 the log was at %d, %v", at, err)
	}
	for range l.Read(ctx, 0, 60) {
		break
	}
}

// equateEmpty makes no difference between nil and nothing.
var equateEmpty = cmp.Transformer("nil", func(r []events.Record) []events.Record {
	if len(r) == 0 {
		return []events.Record{}
	}
	return slices.Clip(r)
})

func expectGone(t testing.TB, what string, read func(func(events.Record, error) bool)) {
	t.Helper()
	err := error(nil)
	for _, err = range read {
		if err == nil {
			t.Fatalf("%s: an event came", what)
		}
	}
	if !errors.Is(err, events.ErrGone) {
		t.Fatalf("%s: got %v, want gone", what, err)
	}
}

// historyFollow follows a log whose beginning was purged: first the kept
// state, then a bookmark, then what happened since, and every state on the way
// from there on is that of who followed all along.
func historyFollow(t *testing.T, l events.Archive) {
	ctx := Context(t)
	c, _, _ := aged(ctx, t, l)
	got, state, booked := []events.Record(nil), events.State{}, false
	for r, err := range l.Follow(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r)
		state.Fold(r)
		if r.Key == (events.Key{}) {
			if booked || r.Seq != 40 {
				t.Fatalf("bookmark %d", r.Seq)
			}
			booked = true
		}
		if booked {
			if diff := differ(c.at(r.Seq), state); diff != "" {
				t.Fatalf("the state at %d: %s", r.Seq, diff)
			}
		}
		if r.Seq == 60 {
			break
		}
	}
	want := append(c.at(40).Records(), events.Record{Seq: 40})
	if diff := cmp.Diff(append(want, c.records[40:60]...), got); diff != "" {
		t.Fatal(diff)
	}
	expectGone(t, "follow after 1", l.Follow(ctx, 1))
	expectGone(t, "follow after 28", l.Follow(ctx, 28))
	tail, err := Read(ctx, l, 29, 60)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c.records[29:], tail); diff != "" {
		t.Fatal(diff)
	}
}

// historyPosition follows a log whose beginning was purged, all of it and one
// resource of it: whenever the reader's Position says that it has no part of a
// state, it has what was there at that Seq, and it says so in the end. While it
// has a part, nothing says that the state was reached.
func historyPosition(t *testing.T, l events.Archive) {
	ctx := Context(t)
	c, _, _ := aged(ctx, t, l)
	for _, only := range [][]events.Resource{nil, {{Plural: "configmaps"}}, {{Plural: "secrets"}}} {
		state, at, parts := events.State{}, events.Position{}, 0
		for r, err := range events.Only(l, only).Follow(ctx, 0) {
			if err != nil {
				t.Fatal(err)
			}
			state.Fold(r)
			if at.Pass(r); at.Part {
				parts++
				continue
			}
			want := c.at(r.Seq)
			maps.DeleteFunc(want, func(k events.Key, _ events.Record) bool {
				return only != nil && k != events.HorizonKey && !slices.Contains(only, k.Resource)
			})
			if diff := differ(want, state); diff != "" {
				t.Fatalf("of %v, the state at %d: %s", only, r.Seq, diff)
			}
			if r.Seq == 60 {
				break
			}
		}
		if wanted := only == nil || only[0].Plural == "configmaps"; wanted != (parts > 0) {
			t.Errorf("of %v, %d records were of a state that was not whole", only, parts)
		}
	}
}

// historyForget is asked for more than may be purged.
func historyForget(t *testing.T, l events.Archive) {
	ctx := Context(t)
	c, state := &recorder{t: t, log: l}, events.State{}
	expect := func(what string, h, want events.Seq) {
		t.Helper()
		if first, err := l.Forget(ctx, h); err != nil || first != want {
			t.Fatalf("%s: the log begins at %d, %v, want %d", what, first, err, want)
		}
	}
	rng := rand.New(rand.NewPCG(3, 4))
	seen := Fill(ctx, t, l, rng, state, 0, 50)
	c.catchUp(ctx)
	expect("nothing is kept", 30, 1)
	c.save(ctx, 20)
	expect("no horizon", 20, 1)
	seen = HorizonAt(ctx, t, l, 40, state, seen)
	expect("what is after the newest state", 30, 20)
	c.catchUp(ctx)
	c.save(ctx, 45)
	expect("what is after the horizon", 45, 40)
	expect("less than before", 30, 40)
	Fill(ctx, t, l, rng, state, seen, 10)
}

// historyWrites creates, changes and deletes objects whose last events were
// purged.
func historyWrites(t *testing.T, l events.Archive) {
	ctx := Context(t)
	c, state := &recorder{t: t, log: l}, events.State{}
	live := must(ctx, t, l, Record("live", 0))
	going := must(ctx, t, l, Record("going", 0))
	tomb := Record("tomb", must(ctx, t, l, Record("tomb", 0)))
	tomb.Delete = true
	must(ctx, t, l, tomb)
	at := must(ctx, t, l, Record("other", 0))
	c.catchUp(ctx)
	c.save(ctx, at)
	seen := HorizonAt(ctx, t, l, at, state, at)
	if first, err := l.Forget(ctx, at); err != nil || first != at {
		t.Fatalf("forget: %d, %v", first, err)
	}
	// Who has read the horizon knows of no tombstone; who has not, does.
	for _, w := range []struct {
		name         string
		expect, seen events.Seq
		delete       bool
	}{{"live", live, seen, false}, {"going", going, seen, true}, {"tomb", 0, seen, false}} {
		r := Record(w.name, w.expect)
		r.Seen, r.Delete = w.seen, w.delete
		blind := r
		blind.ID, blind.Seen = r.ID+"-blind", w.expect
		if _, err := l.Append(ctx, blind); !errors.Is(err, events.ErrGone) {
			t.Fatalf("%s by who has not read what was purged: %v", w.name, err)
		}
		s := must(ctx, t, l, r)
		again := Record(w.name, w.expect)
		again.Seen = seen
		expectConflict(ctx, t, l, again)
		must(ctx, t, l, Record(w.name, s))
	}
}

// historyTombs creates a name whose tombstone is forgotten, but not purged.
func historyTombs(t *testing.T, l events.Archive) {
	ctx := Context(t)
	state := events.State{}
	tomb := func(name string) events.Seq {
		r := Record(name, must(ctx, t, l, Record(name, 0)))
		r.Delete = true
		return must(ctx, t, l, r)
	}
	tomb("a")
	b := tomb("b")
	must(ctx, t, l, Record("live", 0))
	late := tomb("late")
	h := HorizonAt(ctx, t, l, late, state, late)
	create := func(name string, expect, seen events.Seq) events.Record {
		r := Record(name, expect)
		r.Seen = seen
		return r
	}
	expectConflict(ctx, t, l, create("a", 0, h-1)) // it cannot know that the tombstone is forgotten
	s := must(ctx, t, l, create("a", 0, h))
	expectConflict(ctx, t, l, create("a", 0, h))
	must(ctx, t, l, create("a", s, h))
	must(ctx, t, l, create("b", b, h-1)) // it knows the tombstone still
	expectConflict(ctx, t, l, create("b", 0, h))
	expectConflict(ctx, t, l, create("live", 0, h))
	expectConflict(ctx, t, l, create("late", 0, h)) // it is not below
	must(ctx, t, l, create("late", late, h))
}

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
	if race.Lossy {
		purged = 2
	}
	ctx, cancel := context.WithCancel(Context(t))
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

// follower records what it is shown, as it comes.
type follower struct {
	mu      sync.Mutex // protects the following fields
	records []events.Record
	err     error
	more    *sync.Cond
	end     context.CancelFunc
	group   sync.WaitGroup
}

// follow follows a log from its first event on, until it is closed.
func follow(ctx context.Context, l events.Log) *follower {
	ctx, cancel := context.WithCancel(ctx)
	f := &follower{end: cancel}
	f.more = sync.NewCond(&f.mu)
	f.group.Go(func() {
		for r, err := range l.Follow(ctx, 0) {
			f.mu.Lock()
			if f.err = err; err == nil {
				f.records = append(f.records, r)
			}
			f.more.Broadcast()
			f.mu.Unlock()
		}
	})
	return f
}

func (f *follower) close() {
	f.end()
	f.group.Wait()
}

// wait returns what was shown once that goes as far as seq, or nothing more comes.
func (f *follower) wait(seq events.Seq) []events.Record {
	f.mu.Lock()
	defer f.mu.Unlock()
	for events.Seq(len(f.records)) < seq && f.err == nil {
		f.more.Wait()
	}
	return f.records
}
