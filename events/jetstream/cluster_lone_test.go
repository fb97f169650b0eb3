package jetstream

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// TestWhole loses a server's disk, waits until it says that its copy is whole,
// and leaves it alone: it has all that there was.
func TestWhole(t *testing.T) {
	t.Parallel()
	ctx, c := logtest.Context(t), newTrio(t)
	c.startAll()
	l := c.open(0)
	a := age(t, l)
	want, err := collect(l.Read(ctx, 0, a.seen))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Whole(ctx); err != nil {
		t.Errorf("of who led all the time: %v", err)
	}
	lacking := c.open(1)
	lacking.filling.want = map[string]uint64{StreamName: uint64(a.seen), HistName: uint64(a.seen) + 1}
	if err := lacking.Whole(ctx); err == nil || err.Error() != fmt.Sprintf("this server's copy of HIST has %d of %d messages", a.seen, a.seen+1) {
		t.Errorf("of who lacks an event: %v", err)
	}
	c.stop(2)
	if err := os.RemoveAll(c.dirs[2]); err != nil {
		t.Fatal(err)
	}
	c.start(2)
	last := c.open(2)
	for err := last.Whole(ctx); err != nil; err = last.Whole(ctx) {
		if err := wait(ctx, retryPause); err != nil {
			t.Fatal(last.Whole(logtest.Context(t)))
		}
	}
	c.stop(0)
	c.stop(1)
	for _, _, alone := last.lone(); !alone; _, _, alone = last.lone() {
		if err := wait(ctx, retryPause); err != nil {
			t.Fatalf("s3 does not find out that it is alone: %v", err)
		}
	}
	got, err := collect(last.Read(ctx, 0, a.seen))
	if diff := cmp.Diff(want, got, wholeBodies); diff != "" || err != nil {
		t.Errorf("%v: %s", err, diff)
	}
	if at, _, err := last.Snapshot(ctx, a.seen); err != nil || at != a.kept[2] {
		t.Errorf("the newest state that it has is at %d, %v, want %d", at, err, a.kept[2])
	}
	if err := last.Whole(ctx); err != nil {
		t.Errorf("alone: %v", err)
	}
}

// TestLoneServerHasThePast leaves one of three servers alone with a log that
// was purged, and whose history no longer reaches back to its beginning: every
// state of the window is still to be had, and nothing before it.
func TestLoneServerHasThePast(t *testing.T) {
	t.Parallel()
	ctx, c := logtest.Context(t), newTrio(t)
	c.startAll()
	l := c.open(0)
	a := age(t, l)
	records, err := collect(l.Read(ctx, 0, a.seen))
	if err != nil {
		t.Fatal(err)
	}
	hist, err := l.history(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := hist.Purge(ctx, js.WithPurgeSequence(uint64(a.kept[0])+10)); err != nil {
		t.Fatal(err)
	}
	snaps, err := l.api.Stream(ctx, snapStream)
	if err != nil {
		t.Fatal(err)
	}
	c.waitCopy(0, snapStream, snaps.CachedInfo().State.LastSeq)
	c.waitCopy(0, HistName, uint64(a.seen))
	for s, _ := c.servers[0].copyOf(HistName); s.FirstSeq == 1; s, _ = c.servers[0].copyOf(HistName) {
		if err := wait(ctx, retryPause); err != nil {
			t.Fatal("s1 still has all of history")
		}
	}
	m, err := hist.GetMsg(ctx, uint64(a.kept[1])+10)
	if err != nil {
		t.Fatal(err)
	}
	c.stop(1)
	c.stop(2)
	for _, _, alone := l.lone(); !alone; _, _, alone = l.lone() {
		if err := wait(ctx, retryPause); err != nil {
			t.Fatalf("s1 does not find out that it is alone: %v", err)
		}
	}
	w, err := l.Window(ctx)
	if err != nil || w.First != a.kept[1]+1 || w.Last != a.seen || w.Since.IsZero() {
		t.Errorf("the window is %+v, %v, want %d to %d", w, err, a.kept[1]+1, a.seen)
	}
	want := events.State{}
	for _, r := range records {
		if want.Fold(r); r.Seq < a.kept[1] {
			continue
		}
		from, state, err := l.Snapshot(ctx, r.Seq)
		if err != nil || from < a.kept[1] || from > r.Seq {
			t.Fatalf("the state at %d is based on %d: %v", r.Seq, from, err)
		}
		got := events.State{}
		for _, part := range [][]events.Record{must(collect(state)), must(collect(l.Read(ctx, from, r.Seq)))} {
			for _, r := range part {
				got.Fold(r)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("the state at %d: %s", r.Seq, diff)
		}
	}
	if _, _, err := l.Snapshot(ctx, a.kept[1]-1); !errors.Is(err, events.ErrGone) {
		t.Errorf("the state before the window: %v", err)
	}
	if at, err := l.SeqAt(ctx, m.Time); err != nil || at != a.kept[1]+10 {
		t.Errorf("when event %d was stored the log was at %d, %v", a.kept[1]+10, at, err)
	}
	if at, err := l.SeqAt(ctx, time.Now().Add(time.Hour)); err != nil || at != a.seen {
		t.Errorf("in an hour the log is at %d, %v", at, err)
	}
	if _, err := l.SeqAt(ctx, time.Unix(1, 0)); !errors.Is(err, events.ErrGone) {
		t.Errorf("in 1970: %v", err)
	}
}

// collect reads a finite sequence of events.
func collect(read func(func(events.Record, error) bool)) (all []events.Record, err error) {
	for r, err := range read {
		if err != nil {
			return all, err
		}
		all = append(all, r)
	}
	return all, nil
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
