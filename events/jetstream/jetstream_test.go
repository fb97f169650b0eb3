package jetstream

import (
	"testing"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// startServer starts a server in a new folder, until the test ends.
func startServer(t testing.TB, c ServerConfig) *Server {
	t.Helper()
	if c.Dir == "" {
		c.Dir = t.TempDir()
	}
	c.Log = func(level, message string) {
		if level == "error" || level == "fatal" {
			t.Logf("nats %s: %s", level, message)
		}
	}
	s, err := StartServer(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// openIn opens a server's log by a connection of this process.
func openIn(t testing.TB, s *Server) *Log {
	t.Helper()
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	l, err := Open(logtest.Context(t), nc, Options{Budget: s.Budget()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// purge forgets a log's events before first.
func purge(t testing.TB, l *Log, first events.Seq) {
	t.Helper()
	if err := l.Purge(logtest.Context(t), first); err != nil {
		t.Fatal(err)
	}
}

func TestLog(t *testing.T) {
	t.Parallel()
	logtest.Run(t, func(t *testing.T) logtest.Subject {
		l := openIn(t, startServer(t, ServerConfig{}))
		return logtest.Subject{Log: l, Archive: l, Purge: func(first events.Seq) { purge(t, l, first) }}
	})
}

func TestTalk(t *testing.T) {
	t.Parallel()
	s := startServer(t, ServerConfig{})
	logtest.Talk(logtest.Context(t), t, openIn(t, s), openIn(t, s))
}
