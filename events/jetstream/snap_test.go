package jetstream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// lagging is the states' store of three servers, of which the one that answers
// has not heard of the last write yet, or stops leading before it answers.
type lagging struct {
	js.ObjectStore
	lacks, silent atomic.Int32 // answers that are still to be like that
}

func (s *lagging) GetInfo(ctx context.Context, name string, o ...js.GetObjectInfoOpt) (*js.ObjectInfo, error) {
	if s.lacks.Add(-1) >= 0 {
		return nil, js.ErrObjectNotFound
	}
	return s.ObjectStore.GetInfo(ctx, name, o...)
}

func (s *lagging) List(ctx context.Context, o ...js.ListObjectsOpt) ([]*js.ObjectInfo, error) {
	if s.silent.Add(-1) >= 0 {
		return nil, fmt.Errorf("nobody answered: %w", context.DeadlineExceeded)
	}
	return s.ObjectStore.List(ctx, o...)
}

// TestStatesOfServersThatLag keeps and finds a state while the servers answer
// like those of which one has just begun to lead.
func TestStatesOfServersThatLag(t *testing.T) {
	ctx := logtest.Context(t)
	l := openIn(t, startServer(t, ServerConfig{}))
	state := events.State{}
	end := logtest.Fill(ctx, t, l, rand.New(rand.NewPCG(1, 1)), state, 0, 20)
	store, err := l.snaps(ctx)
	if err != nil {
		t.Fatal(err)
	}
	lag := &lagging{ObjectStore: store}
	l.past.snaps = lag

	lag.lacks.Store(2)
	lag.silent.Store(1)
	if err := l.Save(ctx, end, slices.Values(state.Records())); err != nil {
		t.Fatalf("a state is not kept: %v", err)
	}
	lag.silent.Store(1)
	at, records, err := l.Snapshot(ctx, end)
	if err != nil || at != end {
		t.Fatalf("the state at %d was kept, and that at %d is found: %v", end, at, err)
	}
	got := events.State{}
	for r, err := range records {
		if err != nil {
			t.Fatal(err)
		}
		got.Fold(r)
	}
	if !slices.EqualFunc(got.Records(), state.Records(), func(a, b events.Record) bool {
		return a.Key == b.Key && a.Seq == b.Seq && string(a.Body) == string(b.Body)
	}) {
		t.Errorf("%d objects are read back of %d, or others", len(got), len(state))
	}
}

// TestLoadEndsWithItsContext stops the server's answers in the middle of a state
// that is read, and then the reader: it does not wait for what does not come.
func TestLoadEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	s := startServer(t, ServerConfig{Listen: "127.0.0.1:0"})
	owner := openIn(t, s)
	noise, state := rand.NewChaCha8([32]byte{}), events.State{}
	for i := range 20 {
		r := logtest.Record(fmt.Sprintf("o%d", i), 0)
		body := make([]byte, 400<<10)
		_, _ = noise.Read(body)
		r.Body = fmt.Appendf(nil, `{"data":"%x"}`, body)
		seq, err := owner.Append(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		r.Seq = seq
		state.Fold(r)
	}
	if err := owner.Save(ctx, 20, slices.Values(state.Records())); err != nil {
		t.Fatal(err)
	}
	p := newProxy(t, s.URL())
	l := dial(t, s, "nats://"+p.listener.Addr().String(), Options{})
	saved, err := l.listSaved(ctx)
	if err != nil || len(saved) != 1 {
		t.Fatal(saved, err)
	}
	for range 20 { // at times it has read all before it is stopped
		reading, stop := context.WithCancel(context.WithoutCancel(ctx)) // it ends by stop alone
		done, had := make(chan error, 1), l.nc.Stats().InBytes
		go func() {
			_, err := l.load(reading, saved[0])
			done <- err
		}()
		for l.nc.Stats().InBytes < had+1<<20 {
			runtime.Gosched()
		}
		p.deafClient.Store(true)
		select {
		case err = <-done:
		case <-p.lostToUser:
			// What has come already is to be read first: then the reader waits.
			for still, was := 0, uint64(0); still < 20; still++ {
				if has := l.nc.Stats().InBytes; has != was {
					still, was = 0, has
				}
				if err := wait(ctx, 20*time.Millisecond); err != nil {
					t.Fatal(err)
				}
			}
			stop()
			select {
			case err = <-done:
			case <-ctx.Done():
				t.Fatal("who reads a state waits on when it is to end")
			}
		}
		stop()
		p.deafClient.Store(false)
		if err != nil {
			return
		}
	}
	t.Fatal("each time the whole state was read: the test is not what it says")
}
