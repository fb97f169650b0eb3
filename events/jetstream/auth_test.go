package jetstream

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// services are some that may write different things.
var services = map[string]Rights{
	"scheduler": {Writes: []events.Resource{{Plural: "configmaps"}}},
	"apiserver": {All: true},
	"other":     {Writes: []events.Resource{{Group: "apps", Plural: "deployments"}}},
	"ingress":   {Writes: []events.Resource{{Plural: "ingresses"}}, Keys: true},
}

// TestServiceRights has a service do what it may, then all that it must not:
// no stream of the server is then other than it was.
func TestServiceRights(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	s := startServer(t, ServerConfig{Listen: "127.0.0.1:0", Secret: "s3cret", Services: services})
	owner := openIn(t, s)
	dir := t.TempDir()
	if err := s.WriteServiceCredentials(dir); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "scheduler.credentials")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("credentials: %v, %v", info, err)
	}
	l := dialFile(t, s.URL(), file, Options{AckWait: time.Second})
	if _, err := l.Append(ctx, logtest.Record("a", 0)); err != nil {
		t.Fatal(err)
	}
	if all, err := logtest.Read(ctx, l, 0, 1); err != nil || len(all) != 1 {
		t.Fatalf("a service cannot read: %v, %v", all, err)
	}
	held := make(chan bool, 1)
	leading, stop := context.WithCancel(ctx)
	if err := l.Hold(leading, "scheduler", "me", func(context.Context) error { held <- true; stop(); return nil }); err != nil || !<-held {
		t.Errorf("a service cannot hold its lease: %v", err)
	}
	logtest.Talk(ctx, t, owner, dialFile(t, s.URL(), filepath.Join(dir, "apiserver.credentials"), Options{}))
	hears, err := owner.nc.SubscribeSync(talkRoot + ">")
	if err != nil {
		t.Fatal(err)
	}
	prepare(ctx, t, owner)
	for name, try := range forbidden {
		t.Run(name, func(t *testing.T) {
			nc, err := Connect(ctx, s.URL(), file)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			before := holds(ctx, t, owner)
			try(t, nc)
			_ = nc.FlushTimeout(time.Second) // it may have been thrown out
			for stream, was := range holds(ctx, t, owner) {
				if was != before[stream] {
					t.Errorf("%s was %s, is %s", stream, before[stream], was)
				}
			}
		})
	}
	deaf, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	told := time.AfterFunc(100*time.Millisecond, func() { _ = owner.Tell("nodes", []byte("x")) })
	defer told.Stop()
	for words := range l.Listen(deaf, "nodes") {
		t.Errorf("a service that is no apiserver hears %q", words)
	}
	for m, err := hears.NextMsg(100 * time.Millisecond); err == nil; m, err = hears.NextMsg(100 * time.Millisecond) {
		if string(m.Data) == string(logtest.Record("x", 0).Body) {
			t.Error("a service that is no apiserver tells them something")
		}
	}
}

// TestServiceThatReadsKeys: one that has the right to keys reads them, and
// makes and destroys none.
func TestServiceThatReadsKeys(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	s := startServer(t, ServerConfig{Listen: "127.0.0.1:0", Secret: "s3cret", Services: services})
	owner := openIn(t, s)
	prepare(ctx, t, owner)
	dir := t.TempDir()
	if err := s.WriteServiceCredentials(dir); err != nil {
		t.Fatal(err)
	}
	k, err := dialFile(t, s.URL(), filepath.Join(dir, "ingress.credentials"), Options{}).Keys(ctx, keySecret)
	if err != nil {
		t.Fatal(err)
	}
	if len(k.Key("theirs")) != events.KeySize {
		t.Error("it cannot read a key")
	}
	before := holds(ctx, t, owner)
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := errors.Join(k.Make(short, "mine"), k.Destroy(short, "theirs")); err == nil || holds(ctx, t, owner)[keysStream] != before[keysStream] {
		t.Errorf("it makes or destroys keys: %v", err)
	}
}

// TestGuardReadsTheProtocol says what no client library would.
func TestGuardReadsTheProtocol(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		said string
		ok   bool
	}{
		"Good":           {"CONNECT {\"user\":\"a\"}\r\nPING\r\nSUB _INBOX_a.> 1\r\nPUB x _INBOX_a.1 2\r\nhi\r\n", true},
		"LowerCase":      {"connect {\"user\":\"a\"}\r\npub x _INBOX_a.1 0\r\n\r\n", true},
		"NoGreeting":     {"PUB x 0\r\n\r\n", false},
		"TwoGreetings":   {"CONNECT {\"user\":\"a\"}\r\nCONNECT {\"user\":\"\"}\r\n", false},
		"LowerCaseReply": {"CONNECT {\"user\":\"a\"}\r\npub x y 0\r\n\r\n", false},
		"TabReply":       {"CONNECT {\"user\":\"a\"}\r\nPUB\tx\ty\t0\r\n\r\n", false},
		"Return":         {"CONNECT {\"user\":\"a\"}\r\nPING\rPUB x y 0\r\n\r\n", false},
		"LeadingSpace":   {"CONNECT {\"user\":\"a\"}\r\n PUB x y 0\r\n\r\n", false},
		"HugeHeader":     {"CONNECT {\"user\":\"a\"}\r\nHPUB x 9 3\r\nabc\r\n", false},
		"Negative":       {"CONNECT {\"user\":\"a\"}\r\nPUB x -1\r\n\r\n", false},
		"Unknown":        {"CONNECT {\"user\":\"a\"}\r\nRMSG $G x 0\r\n\r\n", false},
		"LongLine":       {"CONNECT {\"user\":\"" + strings.Repeat("a", maxLine) + "\"}\r\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			f := newFilter(strings.NewReader(c.said), &out)
			err := f.run()
			if ok := errors.Is(err, errEnd); ok != c.ok || ok && !strings.EqualFold(out.String(), c.said) {
				t.Errorf("%v; passed on: %q", err, out.String())
			}
		})
	}
}

// TestServersAreClosedToClients: a server of several listens because NATS
// wants to, and lets nobody in there.
func TestServersAreClosedToClients(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	c.start(0)
	nc, err := nats.Connect("nats://"+c.servers[0].server.Addr().String(), nats.Token("secret"), nats.NoReconnect())
	if err == nil {
		nc.Close()
	}
	if !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("a client with the owner's own token: %v", err)
	}
}
