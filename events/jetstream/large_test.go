package jetstream

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// TestManyLargeEvents reads and follows 200 MiB of large events: more of
// them on their way at once than a connection may hold back would end it.
func TestManyLargeEvents(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	s := startServer(t, ServerConfig{})
	l := openIn(t, s)
	const n = 200
	body := bytes.Repeat([]byte("x"), 1<<20)
	for i := range n {
		r := logtest.Record(fmt.Sprint("o", i), 0)
		r.Body = body
		if _, err := l.Append(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	for what, records := range map[string]func(func(events.Record, error) bool){
		"read": l.Read(ctx, 0, n), "followed": l.Follow(ctx, 0),
	} {
		seen := 0
		for r, err := range records {
			if err != nil || len(r.Body) != len(body) {
				t.Fatalf("event %d, %s: %d bytes, %v", seen+1, what, len(r.Body), err)
			}
			if seen++; seen == n {
				break
			}
		}
	}
}
