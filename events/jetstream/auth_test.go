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
}

// TestServiceRights has a service do what it may, then all that it must not:
// afterwards nothing else is in the log.
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
	for name, try := range forbidden {
		t.Run(name, func(t *testing.T) {
			nc, err := Connect(ctx, s.URL(), file)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			try(t, nc)
			_ = nc.FlushTimeout(time.Second) // it may have been thrown out
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
	next, err := owner.Append(ctx, logtest.Record("b", 0))
	if err != nil || next != 2 {
		t.Errorf("the next event is %d, %v: somebody wrote before", next, err)
	}
	info, err := owner.stream.Info(ctx)
	if err != nil || info.State.FirstSeq != 1 || !info.Config.DenyDelete {
		t.Errorf("the stream was changed: %+v, %v", info, err)
	}
}

// send publishes with headers.
func send(subject, reply, expect string, more ...string) func(*testing.T, *nats.Conn) {
	return func(_ *testing.T, nc *nats.Conn) {
		r := logtest.Record("x", 0)
		m := &nats.Msg{Subject: subject, Reply: reply, Header: r.Headers(), Data: r.Body}
		if expect != "" {
			m.Header[headerExpectLast] = []string{expect}
		}
		for i := 0; i < len(more); i += 2 {
			m.Header[more[i]] = []string{more[i+1]}
		}
		_ = nc.PublishMsg(m)
	}
}

// call asks the server, and must not be answered.
func call(subject, body string) func(*testing.T, *nats.Conn) {
	return func(t *testing.T, nc *nats.Conn) {
		if m, err := nc.Request(subject, []byte(body), 300*time.Millisecond); err == nil {
			t.Errorf("%s was answered: %s", subject, m.Data)
		}
	}
}

// forbidden is what a service that may write ConfigMaps tries.
var forbidden = map[string]func(*testing.T, *nats.Conn){
	"AnotherResource":   send("ev.core.secrets.default.x", "", "0"),
	"AnotherGroup":      send("ev.apps.configmaps.default.x", "", "0"),
	"TheHorizon":        send(events.HorizonKey.Subject(), "", "0"),
	"WithoutExpecting":  send("ev.core.configmaps.default.x", "", ""),
	"WithoutHeaders":    func(_ *testing.T, nc *nats.Conn) { _ = nc.Publish("ev.core.configmaps.default.x", nil) },
	"AnswerAsEvent":     send("ev.core.configmaps.default.x", "ev.core.secrets.default.x", "7"),
	"ExpectsOfAnother":  send("ev.core.configmaps.default.x", "", "0", "Nats-Expected-Last-Subject-Sequence-Subject", "ev.core.secrets.>"),
	"Rollup":            send("ev.core.configmaps.default.x", "", "0", "Nats-Rollup", "all"),
	"Batch":             send("ev.core.configmaps.default.x", "", "0", "Nats-Batch-Id", "1", "Nats-Batch-Sequence", "1", "Nats-Batch-Commit", "1"),
	"AnothersLease":     send("$KV.LEASE.other", "", ""),
	"ToApiservers":      send(talkRoot+"nodes", "", ""),
	"HistoryBucket":     send("$O.SNAP.M.x", "", ""),
	"Purge":             call("$JS.API.STREAM.PURGE.EV", ""),
	"Delete":            call("$JS.API.STREAM.DELETE.EV", ""),
	"DeleteMessage":     call("$JS.API.STREAM.MSG.DELETE.EV", `{"seq":1}`),
	"Update":            call("$JS.API.STREAM.UPDATE.EV", `{"name":"EV","subjects":["ev.>"],"max_msgs":1}`),
	"Create":            call("$JS.API.STREAM.CREATE.X", `{"name":"X","subjects":["x"]}`),
	"StepDown":          call("$JS.API.STREAM.LEADER.STEPDOWN.EV", ""),
	"SystemAccount":     call("$SYS.REQ.SERVER.PING", ""),
	"DeliverAsEvent":    call("$JS.API.CONSUMER.CREATE.EV.x", `{"stream_name":"EV","config":{"name":"x","deliver_policy":"all","ack_policy":"none","deliver_subject":"ev.core.secrets.default.x"}}`),
	"DeliverToAnother":  call("$JS.API.CONSUMER.CREATE.EV.y", `{"stream_name":"EV","config":{"name":"y","deliver_policy":"all","ack_policy":"none","DELIVER_SUBJECT":"_INBOX_other.x"}}`),
	"ReadWhatIsWritten": func(t *testing.T, nc *nats.Conn) { listen(t, nc, "ev.>") },
	"AnothersAnswers":   func(t *testing.T, nc *nats.Conn) { listen(t, nc, "_INBOX_other.>") },
	"AllAnswers":        func(t *testing.T, nc *nats.Conn) { listen(t, nc, ">") },
}

// listen subscribes, and must hear nothing.
func listen(t *testing.T, nc *nats.Conn, subject string) {
	sub, err := nc.SubscribeSync(subject)
	if err != nil {
		return
	}
	send("ev.core.configmaps.default.a", "", "99")(t, nc) // a conflict: nothing is stored
	if m, err := sub.NextMsg(200 * time.Millisecond); err == nil {
		t.Errorf("%s: heard %s", subject, m.Subject)
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
