package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// TestRestarts stops and starts the server again and again while clients of
// two processes write, one of them over a network that does everything.
func TestRestarts(t *testing.T) {
	t.Parallel()
	for i := range *seeds {
		seed := *first + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			ctx := logtest.Context(t)
			s := startServer(t, t.TempDir())
			r := newRelay(t, s.URL())
			l := &load{history: newHistory(), writers: 4, writes: 40, objects: 4, seed: seed,
				readers: []*reader{newReader(s.open(t, s.URL())), newReader(s.open(t, r.url()))}}
			r.follow(dice(seed<<8, everything))
			loaded, over := context.WithCancel(ctx)
			var restarts errgroup.Group
			times := 0
			restarts.Go(func() error { return s.restart(loaded, l.readers[0], 60, &times) })
			l.run(ctx, t)
			over()
			if err := restarts.Wait(); err != nil {
				t.Fatal(err)
			}
			if times == 0 {
				t.Error("the server was never restarted")
			}
			l.verify(ctx, t, s.open(t, s.URL()))
			report(t, l.history, []*relay{r})
		})
	}
}

// restart restarts the server with every so many events, until ctx ends, and
// counts how often.
func (s *server) restart(ctx context.Context, r *reader, every int, times *int) error {
	for seen := every; r.at(ctx, events.Seq(seen)) == nil; seen += every {
		if err := errors.Join(s.Close(), s.begin()); err != nil {
			return err
		}
		*times++
	}
	return nil // it is over, or the reader says itself what is wrong
}

// TestBudgetReached has many writers fill a small log over a network that does
// everything: whoever is told that it is full has written nothing, and what
// was acknowledged stays.
func TestBudgetReached(t *testing.T) {
	t.Parallel()
	const room = 16 << 20
	ctx := logtest.Context(t)
	s := &server{config: startConfig(t, t.TempDir())}
	s.config.Budget = room
	s.serve(t)
	r := newRelay(t, s.URL())
	h := newHistory()
	var writers errgroup.Group
	for w := range 4 {
		l := s.open(t, r.url())
		writers.Go(func() error {
			at := events.Seq(0)
			for full := 0; full < 5; {
				rec := logtest.Record(fmt.Sprint("o", w), at)
				rec.Body = []byte(strings.Repeat("x", 200<<10))
				seq, err := h.append(ctx, w, l, rec)
				switch {
				case err == nil:
					at = seq
				case errors.Is(err, events.ErrFull):
					full++
				case !unknown(err) || ctx.Err() != nil:
					return err // nobody else writes this object
				default:
					return nil // it may be there: this writer cannot go on without a look
				}
			}
			return nil
		})
	}
	r.follow(dice(*first, everything))
	if err := writers.Wait(); err != nil {
		t.Error(err)
	}
	all := whole(ctx, t, s.open(t, s.URL()))
	h.check(t, all)
	if !slices.ContainsFunc(h.calls, func(c call) bool { return errors.Is(c.err, events.ErrFull) }) {
		t.Error("nobody was told that the log is full")
	}
	if size := len(all) * 200 << 10; size < room/2 || size > room {
		t.Errorf("%d KiB of %d were written", size>>10, room>>10)
	}
	report(t, h, []*relay{r})
}

// TestFarSlower has the server answer every write later than its writer waits.
func TestFarSlower(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	s := startServer(t, t.TempDir())
	r := newRelay(t, s.URL())
	r.lateness = 2 * ackWait
	l := &load{history: newHistory(), writers: 8, writes: 6, objects: 3, seed: *first,
		readers: []*reader{newReader(s.open(t, r.url()))}}
	r.follow(func(k kind) fault {
		if k == ack || k == write {
			return late
		}
		return pass
	})
	began := time.Now()
	l.run(ctx, t)
	l.verify(ctx, t, s.open(t, s.URL()))
	report(t, l.history, []*relay{r})
	t.Logf("took %s", time.Since(began))
}

// TestBlindWriteWaits writes an object whose last event was purged, over a
// connection that is cut while the writer asks what it needs to know for that.
func TestBlindWriteWaits(t *testing.T) {
	t.Parallel()
	for n := range 2 {
		t.Run(fmt.Sprint("cut at question ", n), func(t *testing.T) {
			t.Parallel()
			ctx := logtest.Context(t)
			s := startServer(t, t.TempDir())
			direct := s.open(t, s.URL())
			var at events.Seq
			for _, name := range []string{"a", "b", "c"} {
				var err error
				if at, err = direct.Append(ctx, logtest.Record(name, 0)); err != nil {
					t.Fatal(err)
				}
			}
			if err := direct.Purge(ctx, at); err != nil {
				t.Fatal(err)
			}
			r := newRelay(t, s.URL())
			l := s.open(t, r.url())
			var steps []step
			for range n {
				steps = append(steps, step{question, pass})
			}
			plan, left := script(append(steps, step{question, cutBefore})...)
			r.follow(plan)
			rec := logtest.Record("a", 1)
			rec.Seen = at
			if seq, err := l.Append(ctx, rec); err != nil || seq != at+1 {
				t.Errorf("got %d, %v, want %d", seq, err, at+1)
			}
			if left() > 0 {
				t.Errorf("it asked less than %d questions", n+1)
			}
		})
	}
}

// TestFollowerDoesNotWait has a server that takes nothing of what a follower
// says about itself: events come all the same.
func TestFollowerDoesNotWait(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	s := startServer(t, t.TempDir())
	direct := s.open(t, s.URL())
	r := newRelay(t, s.URL())
	reader := newReader(s.open(t, r.url()))
	r.follow(func(k kind) fault {
		if k == saying {
			return drop
		}
		return pass
	})
	const written = 20
	for i := range written {
		if _, err := direct.Append(ctx, logtest.Record(fmt.Sprint("o", i), 0)); err != nil {
			t.Fatal(err)
		}
	}
	follow, stop := context.WithCancel(ctx)
	var following errgroup.Group
	following.Go(func() error { reader.run(follow); return nil })
	patient, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := reader.at(patient, written); err != nil {
		t.Error(err)
	}
	stop()
	_ = following.Wait()
}
