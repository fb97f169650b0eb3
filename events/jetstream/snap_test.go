package jetstream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

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

func (s *lagging) GetBytes(ctx context.Context, name string, o ...js.GetObjectOpt) ([]byte, error) {
	if s.lacks.Add(-1) >= 0 {
		return nil, js.ErrObjectNotFound
	}
	return s.ObjectStore.GetBytes(ctx, name, o...)
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
