package logtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rutterhq/rutter/events"
)

// patience bounds how long a test waits for what must happen.
const patience = 60 * time.Second

// Subject is a new, empty log under test.
type Subject struct {
	Log events.Log
	// Purge forgets all events before first, whatever else is kept.
	Purge func(first events.Seq)
	// Archive is Log, if it has a history; else nil.
	Archive events.Archive
}

// Run runs the suite. open is called once per test.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	for name, test := range map[string]func(*testing.T, Subject){
		"Life":          life,
		"OneWinner":     oneWinner,
		"ManyObjects":   manyObjects,
		"FollowAnySeq":  followAnySeq,
		"FollowTail":    followTail,
		"FollowStops":   followStops,
		"Gone":          gone,
		"PurgedObjects": purgedObjects,
		"RoundTrip":     roundTrip,
		"LargeBodies":   largeBodies,
		"Refused":       refused,
		"Cancelled":     cancelled,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
	for name, test := range map[string]func(*testing.T, events.Archive){
		"HistoryReads":    historyReads,
		"HistoryFollow":   historyFollow,
		"HistoryPosition": historyPosition,
		"HistoryForget":   historyForget,
		"HistoryWrites":   historyWrites,
		"HistoryTombs":    historyTombs,
		"HistoryRace":     historyRace,
		"HistoryAnyState": historyAnyState,
		"HistoryPairs":    historyPairs,
	} {
		t.Run(name, func(t *testing.T) {
			if s := open(t); s.Archive != nil {
				test(t, s.Archive)
			}
		})
	}
}

// Context returns one that ends with the test or when patience does.
func Context(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// Record returns a small record of a ConfigMap, which no other call's equals.
func Record(name string, expect events.Seq) events.Record {
	n := serial.Add(1)
	return events.Record{
		Key:    events.Key{Resource: events.Resource{Plural: "configmaps"}, Namespace: "default", Name: name},
		Expect: expect,
		Envelope: events.Envelope{
			ID: fmt.Sprintf("write-%d", n), Source: "user:test", Type: "object.updated",
			Time: time.Unix(1_790_000_000, n).UTC(), Seen: expect,
		},
		Body: fmt.Appendf(nil, `{"kind":"ConfigMap","metadata":{"name":%q},"data":{"n":"%d"}}`, name, n),
	}
}

var serial atomic.Int64

// Read follows the log from after up to and including the Seq.
func Read(ctx context.Context, l events.Log, after, upTo events.Seq) ([]events.Record, error) {
	var out []events.Record
	if after >= upTo {
		return nil, nil
	}
	for r, err := range l.Follow(ctx, after) {
		if err != nil {
			return out, err
		}
		out = append(out, r)
		if r.Seq >= upTo {
			return out, nil
		}
	}
	return out, errors.New("follow ended")
}

// must returns the Seq of a record that the log must take.
func must(ctx context.Context, t testing.TB, l events.Log, r events.Record) events.Seq {
	t.Helper()
	s, err := l.Append(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// expectLast fails the test if the log does not end at want.
func expectLast(ctx context.Context, t testing.TB, l events.Log, want events.Seq) {
	t.Helper()
	if got, err := l.Last(ctx); err != nil || got != want {
		t.Fatalf("last: got %d, %v, want %d", got, err, want)
	}
}

// expectConflict fails the test unless the log refuses the record.
func expectConflict(ctx context.Context, t testing.TB, l events.Log, r events.Record) {
	t.Helper()
	if s, err := l.Append(ctx, r); !errors.Is(err, events.ErrConflict) {
		t.Fatalf("append of %s expecting %d: got %d, %v, want a conflict", r.Key, r.Expect, s, err)
	}
}

// life creates, changes, deletes and re-creates an object.
func life(t *testing.T, s Subject) {
	ctx, l := Context(t), s.Log
	expectLast(ctx, t, l, 0)
	expectConflict(ctx, t, l, Record("a", 1))
	one := must(ctx, t, l, Record("a", 0))
	if one != 1 {
		t.Fatalf("the first event has the seq %d", one)
	}
	expectConflict(ctx, t, l, Record("a", 0))
	two := must(ctx, t, l, Record("a", one))
	expectConflict(ctx, t, l, Record("a", one))
	tomb := Record("a", two)
	tomb.Delete = true
	three := must(ctx, t, l, tomb)
	expectConflict(ctx, t, l, Record("a", 0))
	expectConflict(ctx, t, l, Record("a", two))
	four := must(ctx, t, l, Record("a", three))
	expectLast(ctx, t, l, 4)
	got, err := Read(ctx, l, 0, four)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []events.Record{{Seq: 1}, {Seq: 2, Expect: 1}, {Seq: 3, Expect: 2, Delete: true}, {Seq: 4, Expect: 3}} {
		r := got[i]
		if r.Seq != want.Seq || r.Expect != want.Expect || r.Delete != want.Delete || r.Key.Name != "a" {
			t.Errorf("event %d: %+v", i+1, r)
		}
	}
}

// oneWinner lets 16 writers race for every next state of one object.
func oneWinner(t *testing.T, s Subject) {
	const writers, rounds = 16, 40
	ctx, l := Context(t), s.Log
	at := events.Seq(0)
	for range rounds {
		seqs, errs := make([]events.Seq, writers), make([]error, writers)
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() { seqs[w], errs[w] = l.Append(ctx, Record("contested", at)) })
		}
		wg.Wait()
		won := events.Seq(0)
		for w := range writers {
			switch {
			case errs[w] == nil && won == 0:
				won = seqs[w]
			case errs[w] == nil:
				t.Fatalf("expecting %d, both %d and %d were written", at, won, seqs[w])
			case !errors.Is(errs[w], events.ErrConflict):
				t.Fatal(errs[w])
			}
		}
		if won != at+1 {
			t.Fatalf("expecting %d, %d was written", at, won)
		}
		at = won
	}
	expectLast(ctx, t, l, rounds)
}

// manyObjects has 16 writers change an object each while somebody follows:
// every event comes once, in order, each object's chain is whole, and what
// Append said is what the log holds.
func manyObjects(t *testing.T, s Subject) {
	const writers, writes = 16, 50
	ctx, l := Context(t), s.Log
	var told sync.Map // id -> Seq
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			at := events.Seq(0)
			for range writes {
				r := Record(fmt.Sprintf("object-%d", w), at)
				var err error
				if at, err = l.Append(ctx, r); err != nil {
					t.Error(err)
					return
				}
				told.Store(r.ID, at)
			}
		})
	}
	got, err := Read(ctx, l, 0, writers*writes)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	expectLast(ctx, t, l, writers*writes)
	CheckOrder(t, got, 0)
	for _, r := range got {
		if seq, ok := told.Load(r.ID); !ok || seq != r.Seq {
			t.Fatalf("event %d: its writer was told %v", r.Seq, seq)
		}
	}
}

// CheckOrder fails the test unless the records are the ones after the Seq,
// each once, and every object's events expect one another.
func CheckOrder(t testing.TB, records []events.Record, after events.Seq) {
	t.Helper()
	last := map[events.Key]events.Seq{}
	for _, r := range records {
		after++
		if r.Seq != after {
			t.Fatalf("event %d came where %d was due", r.Seq, after)
		}
		if at, ok := last[r.Key]; ok && at != r.Expect {
			t.Fatalf("event %d of %s expected %d, the one before it is %d", r.Seq, r.Key, r.Expect, at)
		}
		last[r.Key] = r.Seq
	}
}

// followAnySeq reads a finished log from every position.
func followAnySeq(t *testing.T, s Subject) {
	const n = 30
	ctx, l := Context(t), s.Log
	for i := range n {
		must(ctx, t, l, Record(fmt.Sprintf("o%d", i), 0))
	}
	all, err := Read(ctx, l, 0, n)
	if err != nil {
		t.Fatal(err)
	}
	CheckOrder(t, all, 0)
	for after := events.Seq(1); after < n; after++ {
		part, err := Read(ctx, l, after, n)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(all[after:], part); diff != "" {
			t.Fatalf("after %d: %s", after, diff)
		}
	}
}

// followTail follows from the end, where events come one by one.
func followTail(t *testing.T, s Subject) {
	const n = 50
	ctx, l := Context(t), s.Log
	at := must(ctx, t, l, Record("a", 0))
	start := at
	for r, err := range l.Follow(ctx, at-1) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Seq != at {
			t.Fatalf("got %d, want %d", r.Seq, at)
		}
		if at == start+n {
			return
		}
		at = must(ctx, t, l, Record("a", at))
	}
	t.Fatal("follow ended")
}

// followStops ends a follower that waits, by its context, and one that gets
// events, by its reader.
func followStops(t *testing.T, s Subject) {
	ctx, l := Context(t), s.Log
	must(ctx, t, l, Record("a", 0))
	must(ctx, t, l, Record("b", 0))
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	var last error
	for r, err := range l.Follow(inner, 0) {
		last = err
		if r.Seq == 2 {
			cancel()
		}
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("a follower whose context ended got %v", last)
	}
	for range l.Follow(ctx, 0) {
		break
	}
}

// gone follows from where there is nothing: before what was purged, and after
// the end.
func gone(t *testing.T, s Subject) {
	ctx, l := Context(t), s.Log
	expect := func(after events.Seq) {
		t.Helper()
		for r, err := range l.Follow(ctx, after) {
			if !errors.Is(err, events.ErrGone) {
				t.Fatalf("after %d: got event %d, %v, want gone", after, r.Seq, err)
			}
		}
	}
	expect(1)
	for i := range 10 {
		must(ctx, t, l, Record(fmt.Sprintf("o%d", i), 0))
	}
	expect(11)
	s.Purge(6)
	if s.Archive == nil { // else the beginning may still be known
		expect(0)
	}
	expect(4)
	got, err := Read(ctx, l, 5, 10)
	if err != nil {
		t.Fatal(err)
	}
	CheckOrder(t, got, 5)
	s.Purge(11)
	expectLast(ctx, t, l, 10)
	expect(9)
	next := Record("later", 0)
	next.Seen = 10
	must(ctx, t, l, next)
	if got, err := Read(ctx, l, 10, 11); err != nil || len(got) != 1 || got[0].ID != next.ID {
		t.Fatalf("got %v, %v", got, err)
	}
}

// purgedObjects writes objects whose last events the log no longer holds: who
// has read them may, who has not must start again.
func purgedObjects(t *testing.T, s Subject) {
	ctx, l := Context(t), s.Log
	a := must(ctx, t, l, Record("a", 0))
	b := must(ctx, t, l, Record("b", 0))
	b = must(ctx, t, l, Record("b", b))
	c := must(ctx, t, l, Record("c", 0))
	s.Purge(c)

	blind := Record("a", a) // it has seen a only
	if _, err := l.Append(ctx, blind); !errors.Is(err, events.ErrGone) {
		t.Fatalf("a writer that has not read what was purged got %v", err)
	}
	for _, r := range []events.Record{Record("a", a), Record("b", b)} {
		r.Seen = c
		at := must(ctx, t, l, r)
		again := Record(r.Key.Name, r.Expect)
		again.Seen = c
		expectConflict(ctx, t, l, again)
		must(ctx, t, l, Record(r.Key.Name, at))
	}
	must(ctx, t, l, Record("c", c))
}

// roundTrip writes envelopes with everything in them and keys of all forms.
func roundTrip(t *testing.T, s Subject) {
	ctx, l := Context(t), s.Log
	core, rbac := events.Resource{Plural: "nodes"}, events.Resource{Group: "rbac.authorization.k8s.io", Plural: "clusterroles"}
	var want []events.Record
	for _, k := range []events.Key{
		{Resource: core, Name: "n1.example.com"},
		{Resource: rbac, Name: "system:controller:deployment *>= \t ü"},
		{Resource: rbac, Namespace: "_", Name: "_"},
		{Resource: events.Resource{Group: "core", Plural: "pods"}, Namespace: "default", Name: "a"},
		{Resource: events.Resource{Plural: "pods"}, Namespace: "default", Name: "a"},
	} {
		r := Record("", 0)
		r.Key = k
		want = append(want, r)
	}
	full := Record("full", 0)
	full.Delete = true
	full.Envelope = events.Envelope{
		ID: "id with \"quotes\"\r\nce-id: other", Source: "user:Ünïcode %41", Type: "pod.bound",
		Time: time.Date(2026, 11, 23, 18, 30, 0, 1, time.FixedZone("x", 3600)), Seen: 3, Cause: []events.Seq{1, 2, 3},
		Decision: &events.DecisionRef{Decider: "scheduler;", Key: "queue", Index: 2, Count: 512, Build: "v1 %"},
		Trace:    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		Note:     "line one\nline two\r\n\x00 — 100% \xff " + strings.Repeat("é", events.MaxNote/4),
	}
	want = append(want, full)
	for i := range want {
		want[i].Seq = must(ctx, t, l, want[i])
	}
	want[len(want)-1].Time = full.Time.UTC()
	got, err := Read(ctx, l, 0, events.Seq(len(want)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// largeBodies writes bodies of up to the limit, and one that is larger.
func largeBodies(t *testing.T, s Subject) {
	ctx, l := Context(t), s.Log
	sizes := []int{0, 1, 1 << 10, 64 << 10, 1 << 20, events.MaxRecord}
	for i, n := range sizes {
		r := Record(fmt.Sprintf("size-%d", i), 0)
		r.Body = []byte(strings.Repeat("x", n))
		must(ctx, t, l, r)
	}
	got, err := Read(ctx, l, 0, events.Seq(len(sizes)))
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range sizes {
		if string(got[i].Body) != strings.Repeat("x", n) {
			t.Errorf("a body of %d bytes came back as one of %d", n, len(got[i].Body))
		}
	}
	r := Record("too-large", 0)
	r.Body = make([]byte, events.MaxRecord+1)
	if _, err := l.Append(ctx, r); !errors.Is(err, events.ErrTooLarge) {
		t.Errorf("a body of %d bytes: %v", len(r.Body), err)
	}
	expectLast(ctx, t, l, events.Seq(len(sizes)))
}

// refused appends what is not a record.
func refused(t *testing.T, s Subject) {
	ctx, l := Context(t), s.Log
	for _, k := range []events.Key{{}, {Resource: events.Resource{Plural: "pods"}}, {Name: "a"}, {Resource: events.Resource{Plural: "pods"}, Name: "a/b"}} {
		r := Record("", 0)
		r.Key = k
		if seq, err := l.Append(ctx, r); err == nil {
			t.Errorf("the key %+v was appended as %d", k, seq)
		}
	}
	anonymous := Record("anonymous", 0)
	anonymous.ID = ""
	must(ctx, t, l, anonymous)
	got, err := Read(ctx, l, 0, 1)
	if err != nil || got[0].ID == "" {
		t.Errorf("an event without an id is %+v, %v", got, err)
	}
}

// cancelled asks with a context that has ended.
func cancelled(t *testing.T, s Subject) {
	ctx, l := Context(t), s.Log
	over, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := l.Last(over); !errors.Is(err, context.Canceled) {
		t.Errorf("last: %v", err)
	}
	if _, err := l.Append(over, Record("a", 0)); !errors.Is(err, context.Canceled) {
		t.Errorf("append: %v", err)
	}
	var last error
	for _, last = range l.Follow(over, 0) {
		if last == nil {
			t.Fatal("an event came")
		}
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("follow: %v", last)
	}
}
