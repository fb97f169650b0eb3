package logtest

import (
	"errors"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rutterhq/rutter/events"
)

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
