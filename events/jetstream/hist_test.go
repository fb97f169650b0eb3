package jetstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	js "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// aged is a log whose beginning was purged, with three states kept.
type aged struct {
	log   *Log
	state events.State // at the end
	seen  events.Seq   // the end
	kept  []events.Seq
	first events.Seq
}

// age writes to a log, keeps states of it, and purges.
func age(t testing.TB, l *Log) aged {
	t.Helper()
	ctx, rng := logtest.Context(t), rand.New(rand.NewPCG(5, 6))
	a := aged{log: l, state: events.State{}}
	for range 3 {
		a.seen = logtest.Fill(ctx, t, l, rng, a.state, a.seen, 50)
		if err := l.Save(ctx, a.seen, slices.Values(a.state.Records())); err != nil {
			t.Fatal(err)
		}
		a.kept = append(a.kept, a.seen)
		a.seen = logtest.HorizonAt(ctx, t, l, a.seen-10, a.state, a.seen)
	}
	a.seen = logtest.Fill(ctx, t, l, rng, a.state, a.seen, 20)
	want := a.kept[2] - 10
	first, err := l.Forget(ctx, want)
	if err != nil || first != want {
		t.Fatalf("the log begins at %d, %v, want %d", first, err, want)
	}
	a.first = first
	return a
}

// check follows the log from its beginning, which must begin with the state
// that was kept at a Seq (0: with the first event), and compares its end.
func (a aged) check(t testing.TB, l *Log, kept events.Seq) {
	t.Helper()
	ctx, state, at := logtest.Context(t), events.State{}, events.Seq(0)
	for r, err := range l.Follow(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if state.Fold(r); r.Key == (events.Key{}) {
			at = r.Seq
		}
		if r.Seq == a.seen {
			break
		}
	}
	if at != kept {
		t.Errorf("the log was read from the state at %d, want %d", at, kept)
	}
	if diff := cmp.Diff(a.state, state, wholeBodies); diff != "" {
		t.Error(diff)
	}
}

// wholeBodies has bodies compared as a whole: byte by byte takes minutes.
var wholeBodies = cmp.Comparer(func(a, b []byte) bool { return bytes.Equal(a, b) })

// TestStateThatDoesNotVerify spoils one kept state after the other: the next
// older one is used, with what history has since, and in the end all of it.
func TestStateThatDoesNotVerify(t *testing.T) {
	t.Parallel()
	a := age(t, openIn(t, startServer(t, ServerConfig{})))
	ctx := logtest.Context(t)
	store, err := a.log.snaps(ctx)
	if err != nil {
		t.Fatal(err)
	}
	a.check(t, a.log, a.kept[2])
	other, _, err := encodeState(1, slices.Values([]events.Record{{Seq: 1, Key: events.HorizonKey}}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.PutBytes(ctx, objectName(stateObject, a.kept[2]), other); err != nil {
		t.Fatal(err)
	}
	a.check(t, a.log, a.kept[1])
	if err := store.Delete(ctx, objectName(stateObject, a.kept[1])); err != nil {
		t.Fatal(err)
	}
	a.check(t, a.log, a.kept[0])
	if _, err := store.PutBytes(ctx, objectName(stateObject, a.kept[0]), nil); err != nil {
		t.Fatal(err)
	}
	a.check(t, a.log, 0)
}

// TestStateCodec reads states of all sizes, and none that was cut or changed.
func TestStateCodec(t *testing.T) {
	t.Parallel()
	state, rng := events.State{}, rand.New(rand.NewPCG(9, 9))
	for i := range 300 {
		r := logtest.Record("o", 0)
		r.Key.Name, r.Seq, r.Body = time.Unix(rng.Int64N(1e9), 0).String(), events.Seq(i+1), make([]byte, rng.IntN(5000))
		for i := range r.Body {
			r.Body[i] = byte(rng.Uint32())
		}
		if len(r.Body) == 0 {
			r.Body = nil
		}
		state.Fold(r)
	}
	want := state.Records()
	data, n, err := encodeState(300, slices.Values(want))
	if err != nil || n != len(want) {
		t.Fatal(n, err)
	}
	read := func(data []byte) (got []events.Record, err error) {
		for r, err := range decodeState(data) {
			if err != nil {
				return got, err
			}
			got = append(got, r)
		}
		return got, nil
	}
	got, err := read(data)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Fatalf("%v: %s", err, diff)
	}
	for range 50 {
		if _, err := read(data[:rng.IntN(len(data))]); err == nil {
			t.Error("a state that was cut is read without an error")
		}
		bad := slices.Clone(data)
		bad[rng.IntN(len(bad))] ^= 1 << rng.IntN(8)
		if got, err := read(bad); err == nil && cmp.Diff(want, got) != "" {
			t.Error("a state that was changed is read as another one")
		}
	}
	if _, _, err := encodeState(299, slices.Values(want)); err == nil {
		t.Error("a state at 299 has event 300")
	}
	slices.Reverse(want)
	if _, _, err := encodeState(300, slices.Values(want)); err == nil {
		t.Error("a state out of order is written")
	}
}

// TestAgedLogRestarts starts a purged log again: after an orderly end, and on
// what a killed server leaves.
func TestAgedLogRestarts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := StartServer(ServerConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	a := age(t, openIn(t, s))
	killed := t.TempDir()
	if err := os.CopyFS(filepath.Join(killed, "log"), os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{"orderly": dir, "killed": filepath.Join(killed, "log")} {
		l := openIn(t, startServer(t, ServerConfig{Dir: dir}))
		a.check(t, l, a.kept[2])
		w, err := l.Window(logtest.Context(t))
		if err != nil || w.First != 1 || w.Last != a.seen {
			t.Errorf("%s: the window is %+v, %v, want 1 to %d", name, w, err, a.seen)
		}
		next := a
		next.log, next.state = l, events.State{}
		for k, r := range a.state {
			next.state[k] = r
		}
		next.seen = logtest.Fill(logtest.Context(t), t, l, rand.New(rand.NewPCG(1, 1)), next.state, a.seen, 30)
		next.check(t, l, a.kept[2])
	}
}

// TestKeep bounds the past while the log runs: what exceeds it can no longer
// be read, and what is left can.
func TestKeep(t *testing.T) {
	t.Parallel()
	a := age(t, openIn(t, startServer(t, ServerConfig{})))
	ctx, l := logtest.Context(t), a.log
	u, err := l.Usage(ctx)
	if err != nil || u.Keep.Age != defaultAge || u.Keep.Bytes != 0 || len(u.Saved) != 3 || u.Used <= 0 || u.Budget <= 0 {
		t.Fatalf("%+v, %v", u, err)
	}
	if err := l.SetKeep(ctx, events.Keep{Age: -1}); err == nil {
		t.Error("a negative age is kept")
	}
	want := events.Keep{Age: 200 * time.Millisecond, Bytes: 1 << 20}
	if err := l.SetKeep(ctx, want); err != nil {
		t.Fatal(err)
	}
	if u, err = l.Usage(ctx); err != nil || u.Keep != want {
		t.Errorf("kept is %+v, %v, want %+v", u.Keep, err, want)
	}
	for {
		w, err := l.Window(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if w.First == a.kept[2]+1 {
			break
		}
		if err := wait(ctx, 10*time.Millisecond); err != nil {
			t.Fatalf("the window still begins at %d: %v", w.First, err)
		}
	}
	if _, _, err := l.Snapshot(ctx, a.kept[1]); !errors.Is(err, events.ErrGone) {
		t.Errorf("a state before the window: %v", err)
	}
	for _, err := range l.Read(ctx, a.kept[0], a.kept[1]) {
		if !errors.Is(err, events.ErrGone) {
			t.Errorf("events before the window: %v", err)
		}
	}
	if _, err := l.SeqAt(ctx, time.Now().Add(-time.Hour)); !errors.Is(err, events.ErrGone) {
		t.Errorf("a time before the window: %v", err)
	}
	a.check(t, l, a.kept[2])
	if err := l.Tend(ctx); err != nil {
		t.Error(err)
	}
}

// TestKeepBytes bounds the bytes of the past while the log runs, and then no
// more.
func TestKeepBytes(t *testing.T) {
	t.Parallel()
	const rounds, writers, each, body, bound, block = 6, 16, 16, 16 << 10, 4 << 20, 8 << 20
	ctx, l := logtest.Context(t), openIn(t, startServer(t, ServerConfig{}))
	state, kept := events.State{}, []events.Seq{}
	seen := events.Seq(0)
	// write adds 4 MiB that cannot be compressed, keeps the state, and purges.
	write := func(round int) {
		t.Helper()
		var group errgroup.Group
		all := make([]events.Record, writers*each)
		for w := range writers {
			rng := rand.New(rand.NewPCG(uint64(round), uint64(w)))
			group.Go(func() error {
				for i := range each {
					r := logtest.Record(fmt.Sprintf("r%d-%d-%d", round, w, i), 0)
					r.Seen, r.Body = seen, make([]byte, body)
					for i := range r.Body {
						r.Body[i] = byte(rng.Uint32())
					}
					var err error
					if r.Seq, err = l.Append(ctx, r); err != nil {
						return err
					}
					all[w*each+i] = r
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		for _, r := range all {
			state.Fold(r)
			seen = max(seen, r.Seq)
		}
		if err := l.Save(ctx, seen, slices.Values(state.Records())); err != nil {
			t.Fatal(err)
		}
		kept = append(kept, seen)
		seen = logtest.HorizonAt(ctx, t, l, seen, state, seen)
		if _, err := l.Forget(ctx, kept[len(kept)-1]); err != nil {
			t.Fatal(err)
		}
	}
	for round := range rounds {
		write(round)
	}
	window := func() events.Window {
		t.Helper()
		w, err := l.Window(ctx)
		if err != nil || w.Last != seen {
			t.Fatalf("the window is %+v, %v, want the end %d", w, err, seen)
		}
		return w
	}
	all := window()
	if all.First != 1 || all.Bytes < rounds*writers*each*body {
		t.Errorf("at first the window is %+v", all)
	}
	if err := l.SetKeep(ctx, events.Keep{Bytes: bound}); err != nil {
		t.Fatal(err)
	}
	w := window()
	if w.First <= kept[rounds-3] || w.Bytes > bound+2*block || w.Bytes >= all.Bytes {
		t.Errorf("%d bytes are kept: the window is %+v, it was %+v", bound, w, all)
	}
	for _, err := range l.Read(ctx, 0, kept[0]) {
		if !errors.Is(err, events.ErrGone) {
			t.Errorf("events before the window: %v", err)
		}
	}
	if _, _, err := l.Snapshot(ctx, w.First-2); !errors.Is(err, events.ErrGone) {
		t.Errorf("a state before the window: %v", err)
	}
	u, err := l.Usage(ctx)
	if err != nil || len(u.Saved) != keptStates {
		t.Errorf("states are left to which nothing leads: %+v, %v", u.Saved, err)
	}
	if err := l.SetKeep(ctx, events.Keep{}); err != nil {
		t.Fatal(err)
	}
	write(rounds)
	write(rounds + 1)
	if now := window(); now.First != w.First {
		t.Errorf("with no bound any more the window went from %d to %d", w.First, now.First)
	}
	aged{log: l, state: state, seen: seen}.check(t, l, kept[len(kept)-1])
}

// TestSeqAt finds events by the time at which they were stored.
func TestSeqAt(t *testing.T) {
	t.Parallel()
	l := openIn(t, startServer(t, ServerConfig{}))
	a := age(t, l)
	ctx := logtest.Context(t)
	hist, err := l.history(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, seq := range []uint64{1, 2, 70, uint64(a.first), uint64(a.seen)} {
		var m *js.RawStreamMsg
		if seq < uint64(a.first) {
			m, err = hist.GetMsg(ctx, seq)
		} else {
			m, err = l.stream.GetMsg(ctx, seq)
		}
		if err != nil {
			t.Fatal(err)
		}
		if at, err := l.SeqAt(ctx, m.Time); err != nil || at != events.Seq(seq) {
			t.Errorf("when event %d was stored the log was at %d, %v", seq, at, err)
		}
		if at, err := l.SeqAt(ctx, m.Time.Add(-1)); err != nil || at != events.Seq(seq)-1 {
			t.Errorf("just before event %d was stored the log was at %d, %v", seq, at, err)
		}
	}
}

// TestSeqAtOfWhatIsNotPurged: of a log of which nothing was purged, history may
// have forgotten what the log itself still has.
func TestSeqAtOfWhatIsNotPurged(t *testing.T) {
	t.Parallel()
	l := openIn(t, startServer(t, ServerConfig{}))
	ctx, rng := logtest.Context(t), rand.New(rand.NewPCG(2, 2))
	state := events.State{}
	seen := logtest.Fill(ctx, t, l, rng, state, 0, 20)
	hist, err := l.history(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.SetKeep(ctx, events.Keep{Age: 100 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	for {
		info, err := hist.Info(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if info.State.FirstSeq > uint64(seen) {
			break
		}
		if err := wait(ctx, 10*time.Millisecond); err != nil {
			t.Fatalf("history still begins at %d: %v", info.State.FirstSeq, err)
		}
	}
	if err := l.SetKeep(ctx, events.Keep{Age: time.Hour}); err != nil {
		t.Fatal(err)
	}
	end := logtest.Fill(ctx, t, l, rng, state, seen, 20)
	for seq := events.Seq(1); seq <= end; seq++ {
		m, err := l.stream.GetMsg(ctx, uint64(seq))
		if err != nil {
			t.Fatal(err)
		}
		if at, err := l.SeqAt(ctx, m.Time); err != nil || at != seq {
			t.Errorf("when event %d was stored the log was at %d, %v", seq, at, err)
		}
	}
	if at, err := l.SeqAt(ctx, time.Now().Add(-time.Hour)); err != nil || at != 0 {
		t.Errorf("before there was an event the log was at %d, %v", at, err)
	}
}

// TestReadKey reads one object's events, of which some were purged.
func TestReadKey(t *testing.T) {
	t.Parallel()
	l := openIn(t, startServer(t, ServerConfig{}))
	a := age(t, l)
	ctx := logtest.Context(t)
	all := map[events.Key][]events.Record{}
	for r, err := range l.Read(ctx, 0, a.seen) {
		if err != nil {
			t.Fatal(err)
		}
		all[r.Key] = append(all[r.Key], r)
	}
	all[events.Key{Resource: events.Resource{Plural: "configmaps"}, Namespace: "default", Name: "never"}] = nil
	for k, want := range all {
		var got []events.Record
		for r, err := range l.ReadKey(ctx, k, 0, a.seen) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, r)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%s: %s", k, diff)
		}
	}
}

// TestPurgeWaitsForWriters has a writer in a process of its own that does not
// read: nothing is purged until it knows of the horizon, or says nothing any
// more.
func TestPurgeWaitsForWriters(t *testing.T) {
	t.Parallel()
	s := startServer(t, ServerConfig{Listen: "127.0.0.1:0"})
	a := age(t, openIn(t, s))
	ctx := logtest.Context(t)
	nc, err := Connect(ctx, s.URL(), credentialsOf(t, s))
	if err != nil {
		t.Fatal(err)
	}
	other, err := Open(ctx, nc, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	r := logtest.Record("never-seen", 0) // so it may have been purged
	r.Seen = a.seen
	if a.seen, err = other.Append(ctx, r); err != nil {
		t.Fatal(err)
	}
	r.Seq = a.seen
	a.state.Fold(r)
	if err := a.log.Save(ctx, a.seen, slices.Values(a.state.Records())); err != nil {
		t.Fatal(err)
	}
	h := a.seen
	a.seen = logtest.HorizonAt(ctx, t, a.log, h, a.state, a.seen)
	if first, err := a.log.Forget(ctx, h); err != nil || first != a.first {
		t.Fatalf("the log begins at %d, %v, want %d: a writer does not know of the horizon", first, err, a.first)
	}
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	for r := range other.Follow(inner, 0) {
		if r.Seq == a.seen {
			break
		}
	}
	if first, err := a.log.Forget(ctx, h); err != nil || first != h {
		t.Fatalf("the log begins at %d, %v, want %d", first, err, h)
	}
	late := logtest.Record("o1", a.state[logtest.Record("o1", 0).Key].Seq)
	late.Seen = h - 2
	if _, err := other.Append(ctx, late); !errors.Is(err, events.ErrGone) {
		t.Errorf("a write of who has not read what was purged: %v", err)
	}
}

// TestASilentWriterIsForgotten: a purge waits for a writer that says nothing for
// two minutes of who purges, whatever the time of day.
func TestASilentWriterIsForgotten(t *testing.T) {
	t.Parallel()
	s := startServer(t, ServerConfig{Listen: "127.0.0.1:0"})
	a := age(t, openIn(t, s))
	ctx := logtest.Context(t)
	kv, err := a.log.bucket(ctx)
	if err != nil {
		t.Fatal(err)
	}
	status, err := kv.Status(ctx)
	if err != nil || status.TTL() != 0 {
		t.Fatalf("the server forgets writers after %s by its wall clock (%v)", status.TTL(), err)
	}
	say := func() {
		t.Helper()
		if _, err := kv.PutString(ctx, "other.x", "1"); err != nil {
			t.Fatal(err)
		}
	}
	least := func(what string, want events.Seq) {
		t.Helper()
		if got, err := a.log.leastSeen(ctx); err != nil || got != want {
			t.Errorf("%s: writers know the horizon of %d, %v, want %d", what, got, err, want)
		}
	}
	later := func() { // who purges has waited for so long
		for k, one := range a.log.past.heard {
			one.since = one.since.Add(-seenAge)
			a.log.past.heard[k] = one
		}
	}
	const nobody = ^events.Seq(0)
	say()
	least("it has spoken", 1)
	later()
	say()
	least("it has spoken again", 1)
	later()
	least("it is silent", nobody)
	if _, err := kv.Get(ctx, "other.x"); !errors.Is(err, js.ErrKeyNotFound) {
		t.Errorf("what it said is still there: %v", err)
	}
	say()
	least("it speaks after it was forgotten", 1)
}

// TestWhatAServerForgot: a bucket of a build that had the server forget writers
// is changed.
func TestWhatAServerForgot(t *testing.T) {
	t.Parallel()
	s := startServer(t, ServerConfig{Listen: "127.0.0.1:0"})
	ctx := logtest.Context(t)
	l := openIn(t, s)
	if _, err := l.api.UpdateKeyValue(ctx, js.KeyValueConfig{Bucket: SeenName, TTL: time.Minute}); err != nil {
		t.Fatal(err)
	}
	kv, err := openIn(t, s).bucket(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if status, err := kv.Status(ctx); err != nil || status.TTL() != 0 {
		t.Errorf("the server forgets after %s (%v)", status.TTL(), err)
	}
}

// credentialsOf writes a server's credentials to a file.
func credentialsOf(t testing.TB, s *Server) string {
	file := filepath.Join(t.TempDir(), "credentials")
	if err := s.WriteCredentials(file); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestSurplus(t *testing.T) {
	t.Parallel()
	state := func(seq events.Seq, hours int) saved {
		return saved{Saved: events.Saved{Seq: seq, Time: time.Unix(int64(hours)*3600, 0)}}
	}
	for name, c := range map[string]struct {
		all    []saved
		oldest events.Seq
		want   []events.Seq
	}{
		"few":                 {[]saved{state(1, 1), state(2, 2), state(3, 3)}, 1, nil},
		"the oldest stays":    {[]saved{state(1, 1), state(2, 2), state(3, 3), state(4, 4)}, 1, nil},
		"close to neighbours": {[]saved{state(1, 1), state(2, 2), state(3, 3), state(4, 4), state(5, 5)}, 1, []events.Seq{2}},
		"many events between": {[]saved{state(1, 1), state(100_000, 2), state(300_000, 3), state(300_001, 4), state(300_002, 5)}, 1, nil},
		"much time between":   {[]saved{state(1, 1), state(2, 8), state(3, 14), state(4, 15), state(5, 16)}, 1, nil},
		"nothing left of it":  {[]saved{state(1, 1), state(20, 2), state(30, 3), state(40, 4), state(50, 5)}, 21, []events.Seq{1}},
	} {
		if diff := cmp.Diff(c.want, surplus(c.all, c.oldest, 7*24*time.Hour)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
