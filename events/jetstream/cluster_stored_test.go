package jetstream

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// TestStored asks for the sum of what a server has on its disk: of what it does
// not have there is none, and of what cannot be read it says so.
func TestStored(t *testing.T) {
	t.Parallel()
	ctx, dir := logtest.Context(t), t.TempDir()
	s, err := StartServer(ServerConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	l, err := Open(ctx, nc, Options{Budget: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		if _, err := l.Append(ctx, logtest.Record(name, 0)); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(n int, to events.Seq) (events.Seq, string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		after, sum, err := l.Stored(ctx, n, to)
		if err != nil {
			t.Fatal(err)
		}
		return after, sum
	}
	after, want := ask(3, 5)
	if after != 2 || len(want) != 64 {
		t.Errorf("the last three are %q after %d", want, after)
	}
	if _, sum := ask(3, 6); sum != "" {
		t.Errorf("of what is not there yet: %q", sum)
	}
	purge(t, l, 3)
	if after, sum := ask(10, 5); after != 2 || sum != want {
		t.Errorf("what a purge left is %q after %d, not %q", sum, after, want)
	}
	path := blockPath(filepath.Join(dir, "jetstream", "$G", "streams", StreamName, "msgs"), 1)
	b, err := os.ReadFile(path)
	if err == nil {
		b[bytes.LastIndex(b, []byte("ConfigMap"))] ^= 1 // behind it may be a mark of the purge
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if after, sum := ask(3, 5); after != 2 || sum != "event 5 cannot be read" {
		t.Errorf("with the last one broken: %q after %d", sum, after)
	}
}
