package jetstream

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// growBodies is how many bodies of 200 KiB the log has in TestGrow.
const growBodies = 60

// TestGrow brings the log of one server, which was purged, to three: each event
// has its Seq, each state and each key is there, and writes go on, at all three.
// Before, an attempt is broken off, and nobody opens what that leaves; and a
// log that is another one's is left alone.
func TestGrow(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	alone := startServer(t, ServerConfig{})
	l := openIn(t, alone)
	a := age(t, l)
	noise := rand.NewChaCha8([32]byte{1})
	for n := range growBodies { // so that it comes in many pieces
		r := logtest.Record(fmt.Sprint("large", n), 0)
		r.Body, r.Seen = make([]byte, 200<<10), a.seen
		noise.Read(r.Body)
		var err error
		if a.seen, err = l.Append(ctx, r); err != nil {
			t.Fatal(err)
		}
		r.Seq = a.seen
		a.state.Fold(r)
	}
	secret := slices.Repeat([]byte{7}, events.KeySize)
	keys := must(l.Keys(ctx, secret))
	for _, id := range []string{"kept", "gone"} {
		if err := keys.Make(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := keys.Destroy(ctx, "gone"); err != nil {
		t.Fatal(err)
	}
	kept := keys.Key("kept")
	records := must(collect(l.Read(ctx, 0, a.seen)))
	if _, err := l.mirrored(ctx, a.seen); err != nil {
		t.Fatal(err)
	}
	l.Close()

	c := newTrio(t)
	c.startAll()
	nc := must(c.servers[0].Connect())
	defer nc.Close()
	breakOff(t, alone, c.servers[0])
	api := must(js.New(nc))
	for err := error(nil); !errors.Is(err, errAwaited); { // until the servers answer
		if _, err = ensureStream(ctx, api, Options{}); err == nil || ctx.Err() != nil {
			t.Fatalf("a log that is not complete is opened: %v", err)
		}
	}
	for range 2 { // the second time it is there
		if err := Grow(ctx, alone, c.servers[0]); err != nil {
			t.Fatal(err)
		}
	}
	other := startServer(t, ServerConfig{})
	openIn(t, other)
	if err := Grow(ctx, other, c.servers[1]); !errors.Is(err, errOther) {
		t.Errorf("another log over the one that is there: %v", err)
	}

	state, seen := maps.Clone(a.state), a.seen
	for i := range c.servers {
		l := c.open(i)
		if diff := cmp.Diff(records, must(collect(l.Read(ctx, 0, a.seen))), wholeBodies); diff != "" {
			t.Fatalf("s%d: %s", i+1, diff)
		}
		if i == 0 {
			a.check(t, l, a.kept[2])
		}
		keys := must(l.Keys(ctx, secret))
		if !slices.Equal(keys.Key("kept"), kept) || keys.Key("gone") != nil {
			t.Errorf("s%d has other keys", i+1)
		}
		seen = logtest.Fill(ctx, t, l, rand.New(rand.NewPCG(3, uint64(i))), state, seen, 20)
	}
	next := a
	next.state, next.seen = state, seen
	for i := range c.servers {
		next.check(t, c.open(i), a.kept[2])
	}
}

// breakOff does what Grow does until nearly all has come.
func breakOff(t *testing.T, from, to *Server) {
	t.Helper()
	ctx := logtest.Context(t)
	m := must(newMover(ctx, from, to))
	defer m.close()
	for _, name := range []string{snapStream, StreamName} {
		if err := m.move(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
}
