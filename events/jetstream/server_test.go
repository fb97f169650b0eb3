package jetstream

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events/logtest"
)

func TestRefusesOtherStreams(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	for name, spoil := range map[string]func(*js.StreamConfig){
		"age":         func(c *js.StreamConfig) { c.MaxAge = time.Hour },
		"discard":     func(c *js.StreamConfig) { c.Discard = js.DiscardOld },
		"compression": func(c *js.StreamConfig) { c.Compression = js.S2Compression },
		"delete":      func(c *js.StreamConfig) { c.DenyDelete = false },
		"memory":      func(c *js.StreamConfig) { c.Storage = js.MemoryStorage },
		"subjects":    func(c *js.StreamConfig) { c.Subjects = []string{"ev.core.>"} },
		"republish":   func(c *js.StreamConfig) { c.RePublish = &js.RePublish{Source: ">", Destination: "x.>"} },
	} {
		s := startServer(t, ServerConfig{Budget: minBudget})
		nc, err := s.Connect()
		if err != nil {
			t.Fatal(err)
		}
		api, err := js.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		c := config(minBudget)
		spoil(&c)
		if _, err := api.CreateStream(ctx, c); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := Open(ctx, nc, Options{Budget: minBudget}); err == nil {
			t.Errorf("%s: the stream was taken", name)
		}
		nc.Close()
	}
}

func TestServerKeepsOthersOut(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	dir := filepath.Join(t.TempDir(), "log")
	s := startServer(t, ServerConfig{Dir: dir, Listen: "127.0.0.1:0"})
	if _, err := StartServer(ServerConfig{Dir: dir}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second server on the same folder: %v", err)
	}
	if _, err := Connect(ctx, s.URL(), ""); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("without credentials: %v", err)
	}
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Connect(ctx, s.URL(), file); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("with wrong credentials: %v", err)
	}
	if err := s.WriteCredentials(file); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{file: 0o600, dir: 0o700 | os.ModeDir} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s has the mode %v, %v", path, info.Mode(), err)
		}
	}
	for _, address := range []string{"0.0.0.0:4222", "192.0.2.1:0", "example.com:1", ":4222", "127.0.0.1"} {
		if s, err := StartServer(ServerConfig{Dir: t.TempDir(), Listen: address}); err == nil {
			t.Errorf("it listens on %s", address)
			_ = s.Close()
		}
	}
	if silent := startServer(t, ServerConfig{}); silent.URL() != "" {
		t.Errorf("a server that should listen on nothing is at %s", silent.URL())
	}
}

// TestWhoListensSyncsAll: a server that others reach, over TCP or as one of
// three, syncs what it writes before it answers; one that is alone leaves that to
// the committer, and one that was told so to the clock.
func TestWhoListensSyncsAll(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	c.start(0)
	for name, one := range map[string]struct {
		s        *Server
		always   bool
		interval time.Duration
	}{
		"alone":    {startServer(t, ServerConfig{}), false, 0},
		"listens":  {startServer(t, ServerConfig{Listen: "127.0.0.1:0"}), true, 0},
		"of three": {c.servers[0], true, 0},
		"interval": {startServer(t, ServerConfig{Listen: "127.0.0.1:0", Durability: Interval}), false, syncInterval},
	} {
		js := one.s.server.JetStreamConfig()
		if js.SyncAlways != one.always || one.interval > 0 && js.SyncInterval != one.interval {
			t.Errorf("%s: it syncs always: %t, otherwise every %s", name, js.SyncAlways, js.SyncInterval)
		}
	}
}
