package jetstream

import (
	"testing"

	"github.com/rutterhq/rutter/events/logtest"
)

// TestALeaseIsHeldByNoWallClock looks at what a clock that is set could move: the
// time until which a lease is trusted, and the server's memory of it. No test
// can set a clock.
func TestALeaseIsHeldByNoWallClock(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	l := openIn(t, startServer(t, ServerConfig{Dir: t.TempDir()}))
	h, err := l.acquire(ctx, "test", "p0")
	if err != nil {
		t.Fatal(err)
	}
	if h.until == h.until.Round(0) {
		t.Error("a lease is trusted until a time of the wall clock")
	}
	status, err := h.kv.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if status.TTL() != 0 {
		t.Errorf("the server forgets leases after %s by its wall clock", status.TTL())
	}
}
