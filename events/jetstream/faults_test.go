package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// appendLater appends in the background and gives the outcome.
func appendLater(ctx context.Context, l *Log, r events.Record) <-chan outcome {
	ch := make(chan outcome, 1)
	go func() {
		seq, err := l.Append(ctx, r)
		ch <- outcome{seq, err}
	}()
	return ch
}

type outcome struct {
	seq events.Seq
	err error
}

// TestLostAnswers loses the answer to a write, or the write, with and without
// another writer coming in between, and by a cut connection or by silence.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		deafServer bool // the write is lost, else its answer
		other      bool // somebody else writes the object in between
		want       error
	}{
		"Answer":              {false, false, nil},
		"AnswerThenOverwrite": {false, true, nil},
		"Write":               {true, false, nil},
		"WriteThenOther":      {true, true, events.ErrConflict},
	} {
		for _, cut := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/cut=%t", name, cut), func(t *testing.T) {
				t.Parallel()
				loseOne(t, c.deafServer, c.other, cut, c.want)
			})
		}
	}
}

func loseOne(t *testing.T, deafServer, other, cut bool, want error) {
	ctx := logtest.Context(t)
	s := startServer(t, ServerConfig{Listen: "127.0.0.1:0"})
	direct := openIn(t, s)
	p := newProxy(t, s.URL())
	o := Options{}
	if !cut {
		o.AckWait = 100 * time.Millisecond
	}
	faulty := dial(t, s, "nats://"+p.listener.Addr().String(), o)
	at, err := faulty.Append(ctx, logtest.Record("a", 0))
	if err != nil {
		t.Fatal(err)
	}
	lost := p.lostToUser
	if deafServer {
		p.deafServer.Store(true)
		lost = p.lostToServer
	} else {
		p.deafClient.Store(true)
	}
	r := logtest.Record("a", at)
	later := appendLater(ctx, faulty, r)
	<-lost
	top := at
	if !deafServer {
		top++ // its write was stored
	}
	if other {
		if _, err = direct.Append(ctx, logtest.Record("a", top)); err != nil {
			t.Fatal(err)
		}
	}
	if cut {
		p.cut()
	} else {
		p.deafServer.Store(false)
		p.deafClient.Store(false)
	}
	got := <-later
	if !errors.Is(got.err, want) || want == nil && got.seq != at+1 {
		t.Fatalf("got %d, %v, want %d, %v", got.seq, got.err, at+1, want)
	}
	all := readAll(ctx, t, direct)
	count := 0
	for _, e := range all {
		if e.ID == r.ID {
			count++
		}
	}
	if wanted := map[bool]int{true: 1, false: 0}[want == nil]; count != wanted {
		t.Fatalf("it is %d times in the log", count)
	}
	logtest.CheckOrder(t, all, 0)
}

func readAll(ctx context.Context, t *testing.T, l *Log) []events.Record {
	t.Helper()
	last, err := l.Last(ctx)
	if err != nil {
		t.Fatal(err)
	}
	all, err := logtest.Read(ctx, l, 0, last)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestCutConnections cuts all connections again and again under 16 writers and
// a follower: nothing is lost, doubled or out of order.
func TestCutConnections(t *testing.T) {
	t.Parallel()
	s := startServer(t, ServerConfig{Listen: "127.0.0.1:0"})
	p := newProxy(t, s.URL())
	l := dial(t, s, "nats://"+p.listener.Addr().String(), Options{AckWait: 500 * time.Millisecond})
	underLoad(t, l, func(i int) {
		p.deafClient.Store(i%2 == 0)
		p.deafServer.Store(i%3 == 0)
		p.cut()
	})
}

// TestServerRestarts stops and starts the server under the same load.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := ServerConfig{Dir: dir, Listen: logtest.Addresses(t, 1)[0], Token: "secret"}
	s, err := StartServer(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	l := dial(t, s, s.URL(), Options{})
	underLoad(t, l, func(i int) {
		if i%5 != 0 {
			return
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if s, err = StartServer(c); err != nil {
			t.Fatal(err)
		}
	})
}

// underLoad has 16 writers change an object each and a follower read, and
// calls fault every time that another 20 events have come.
func underLoad(t *testing.T, l *Log, fault func(i int)) {
	const writers, writes = 16, 25
	ctx := logtest.Context(t)
	var told sync.Map
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			at := events.Seq(0)
			for range writes {
				r := logtest.Record(fmt.Sprintf("o%d", w), at)
				var err error
				if at, err = l.Append(ctx, r); err != nil {
					t.Error(err)
					return
				}
				told.Store(r.ID, at)
			}
		})
	}
	var got []events.Record
	for r, err := range l.Follow(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r)
		if len(got)%20 == 0 {
			fault(len(got) / 20)
		}
		if len(got) == writers*writes {
			break
		}
	}
	wg.Wait()
	logtest.CheckOrder(t, got, 0)
	for _, r := range got {
		if seq, _ := told.Load(r.ID); seq != r.Seq {
			t.Fatalf("event %d: its writer was told %v", r.Seq, seq)
		}
	}
	if last, err := l.Last(ctx); err != nil || last != writers*writes {
		t.Fatalf("the log ends at %d, %v", last, err)
	}
}

// TestLostStore starts the server again on an empty folder: followers and
// writers that remember more must not go on as if nothing were.
func TestLostStore(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	c := ServerConfig{Dir: t.TempDir(), Listen: logtest.Addresses(t, 1)[0], Token: "secret"}
	s, err := StartServer(c)
	if err != nil {
		t.Fatal(err)
	}
	l := dial(t, s, s.URL(), Options{})
	at, err := l.Append(ctx, logtest.Record("a", 0))
	if err != nil {
		t.Fatal(err)
	}
	restarted := false
	var last error
	for _, err := range l.Follow(ctx, at-1) {
		if last = err; err != nil {
			break
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		c.Dir = t.TempDir()
		s = startServer(t, c)
		openIn(t, s)
		restarted = true
	}
	if !restarted || !errors.Is(last, events.ErrGone) {
		t.Fatalf("a follower whose log is another one got %v", last)
	}
	if seq, err := l.Append(ctx, logtest.Record("a", at)); !errors.Is(err, events.ErrConflict) {
		t.Fatalf("a writer got %d, %v", seq, err)
	}
}

func TestConsumerDeleted(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	l := openIn(t, startServer(t, ServerConfig{}))
	at := events.Seq(0)
	for range 3 {
		var err error
		if at, err = l.Append(ctx, logtest.Record("a", at)); err != nil {
			t.Fatal(err)
		}
	}
	seen := events.Seq(0)
	for r, err := range l.Follow(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if seen++; r.Seq != seen {
			t.Fatalf("got %d, want %d", r.Seq, seen)
		}
		if seen == 6 {
			break
		}
		if r.Seq != at {
			continue
		}
		for name := range l.stream.ConsumerNames(ctx).Name() {
			if err := l.stream.DeleteConsumer(ctx, name); err != nil {
				t.Fatal(err)
			}
		}
		if at, err = l.Append(ctx, logtest.Record("a", at)); err != nil {
			t.Fatal(err)
		}
	}
	// The follower left no consumer behind.
	for name := range l.stream.ConsumerNames(ctx).Name() {
		t.Errorf("consumer %s is still there", name)
	}
}
