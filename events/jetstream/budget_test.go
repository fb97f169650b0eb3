package jetstream

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// TestFullLogForgets fills the log up: the horizon must find room all the same,
// or nothing could be purged any more, and nothing written for good.
func TestFullLogForgets(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	l := openIn(t, startServer(t, ServerConfig{Budget: minBudget}))
	state, last := events.State{}, events.Seq(0)
	for i, size := 0, 1<<20; ; i++ { // until there is no room for the horizon either
		r := logtest.Record(fmt.Sprintf("o%d", i%3), 0)
		r.Expect, r.Seen = state[r.Key].Seq, last
		r.Body = []byte(strings.Repeat("x", size))
		seq, err := l.Append(ctx, r)
		if errors.Is(err, events.ErrFull) {
			if size == 0 {
				break
			}
			size /= 16
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		r.Seq, last = seq, seq
		state.Fold(r)
	}
	if err := l.Save(ctx, last, slices.Values(state.Records())); err != nil {
		t.Fatal(err)
	}
	r := events.HorizonRecord(last, 0, last, "history", time.Unix(1_790_000_000, 0))
	r.ID = "horizon"
	since, err := l.Append(ctx, r)
	if err != nil {
		t.Fatalf("the horizon: %v", err)
	}
	if first, err := l.Forget(ctx, last); err != nil || first < 4 {
		t.Fatalf("the log begins at %d, %v", first, err)
	}
	if err := l.Tend(ctx); err != nil {
		t.Fatal(err)
	}
	after := logtest.Record("after", 0)
	after.Seen = since
	if _, err := l.Append(ctx, after); err != nil {
		t.Errorf("a write after the purge: %v", err)
	}
}
