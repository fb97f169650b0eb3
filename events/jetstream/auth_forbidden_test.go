package jetstream

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// keySecret is the one that wraps keys.
var keySecret = make([]byte, events.KeySize)

// prepare makes something of everything that a service could spoil: a lease of
// another one, what another one says that it knows, a key.
func prepare(ctx context.Context, t *testing.T, owner *Log) {
	t.Helper()
	keys, err := owner.Keys(ctx, keySecret)
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.Make(ctx, "theirs"); err != nil {
		t.Fatal(err)
	}
	for bucket, key := range map[string]string{LeaseBucket: "other", SeenName: "other.y"} {
		kv, err := owner.api.CreateOrUpdateKeyValue(ctx, js.KeyValueConfig{Bucket: bucket})
		if err == nil {
			_, err = kv.PutString(ctx, key, "1")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for last := uint64(1); last > 0; {
		info, err := owner.stream.Info(ctx)
		if err != nil {
			t.Fatal(err)
		}
		last = info.State.LastSeq
		hist, err := owner.api.Stream(ctx, HistName)
		if err != nil {
			t.Fatal(err)
		}
		if hist.CachedInfo().State.LastSeq == last {
			break
		}
		if err := wait(ctx, 10*time.Millisecond); err != nil {
			t.Fatalf("%s does not come up to the log: %v", HistName, err)
		}
	}
}

// holds describes each stream of the server.
func holds(ctx context.Context, t *testing.T, owner *Log) map[string]string {
	t.Helper()
	all := map[string]string{}
	streams := owner.api.ListStreams(ctx)
	for s := range streams.Info() {
		c, err := json.Marshal(s.Config)
		if err != nil {
			t.Fatal(err)
		}
		all[s.Config.Name] = fmt.Sprintf("%d events from %d to %d, of %s", s.State.Msgs, s.State.FirstSeq, s.State.LastSeq, c)
	}
	if err := streams.Err(); err != nil || len(all) < 6 {
		t.Fatalf("%d streams: %v", len(all), err)
	}
	return all
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

// order publishes something with these headers only.
func order(subject string, headers ...string) func(*testing.T, *nats.Conn) {
	return func(_ *testing.T, nc *nats.Conn) {
		m := &nats.Msg{Subject: subject, Header: nats.Header{}, Data: []byte("99")}
		for i := 0; i < len(headers); i += 2 {
			m.Header[headers[i]] = []string{headers[i+1]}
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

// deliver makes a consumer that would have the server publish what the body of
// a message of another stream is, under a subject that is not the service's to
// write. A message with headers is another operation of the protocol, and the
// server reads what is behind them just the same.
func deliver(stream, to string) func(*testing.T, *nats.Conn) {
	return func(t *testing.T, nc *nats.Conn) {
		m := nats.NewMsg("$JS.API.CONSUMER.CREATE." + stream + ".x")
		m.Header.Set("X", "y")
		m.Data = fmt.Appendf(nil, `{"stream_name":%q,"config":{"name":"x","deliver_policy":"all","ack_policy":"none","deliver_subject":%q}}`, stream, to)
		if m, err := nc.RequestMsg(m, 300*time.Millisecond); err == nil {
			t.Errorf("%s was answered: %s", m.Subject, m.Data)
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
	"RollupOfLeases":    order("$KV.LEASE.scheduler", "Nats-Rollup", "all"),
	"RollupOfSeen":      order("$KV.SEEN.scheduler.x", "Nats-Rollup", "all"),
	"LeaseForAMoment":   order("$KV.LEASE.scheduler", "Nats-TTL", "1s"),
	"LeaseUnlikeOthers": order("$KV.LEASE.scheduler", "Nats-Expected-Last-Subject-Sequence-Subject", "$KV.LEASE.other", headerExpectLast, "1"),
	"AnothersSeen":      order("$KV.SEEN.other.x"),
	"NobodysSeen":       order("$KV.SEEN.x"),
	"MakeAKey":          order("$KV.KEYS.x"),
	"ReadAKey":          call("$JS.API.DIRECT.GET.KV_KEYS.$KV.KEYS.theirs", ""),
	"AskForAKey":        call("$JS.API.STREAM.MSG.GET.KV_KEYS", `{"last_by_subj":"$KV.KEYS.theirs"}`),
	"FollowKeys":        call("$JS.API.CONSUMER.CREATE.KV_KEYS.x", `{"stream_name":"KV_KEYS","config":{"name":"x","deliver_policy":"all","ack_policy":"none"}}`),
	"DestroyAKey":       call("$JS.API.STREAM.MSG.DELETE.KV_KEYS", `{"seq":1}`),
	"ToApiservers":      send(talkRoot+"nodes", "", ""),
	"HistoryBucket":     send("$O.SNAP.M.x", "", ""),
	"HistoryChunk":      order("$O.SNAP.C.x"),
	"ShortenHistory":    call("$JS.API.STREAM.UPDATE.HIST", `{"name":"HIST","max_msgs":1}`),
	"PurgeHistory":      call("$JS.API.STREAM.PURGE.HIST", ""),
	"PurgeStates":       call("$JS.API.STREAM.PURGE.OBJ_SNAP", ""),
	"PurgeLeases":       call("$JS.API.STREAM.PURGE.KV_LEASE", ""),
	"DeleteASeen":       call("$JS.API.STREAM.MSG.DELETE.KV_SEEN", `{"seq":1}`),
	"Purge":             call("$JS.API.STREAM.PURGE.EV", ""),
	"Delete":            call("$JS.API.STREAM.DELETE.EV", ""),
	"DeleteMessage":     call("$JS.API.STREAM.MSG.DELETE.EV", `{"seq":1}`),
	"Update":            call("$JS.API.STREAM.UPDATE.EV", `{"name":"EV","subjects":["ev.>"],"max_msgs":1}`),
	"Create":            call("$JS.API.STREAM.CREATE.X", `{"name":"X","subjects":["x"]}`),
	"StepDown":          call("$JS.API.STREAM.LEADER.STEPDOWN.EV", ""),
	"SystemAccount":     call("$SYS.REQ.SERVER.PING", ""),
	"DeliverAsEvent":    call("$JS.API.CONSUMER.CREATE.EV.x", `{"stream_name":"EV","config":{"name":"x","deliver_policy":"all","ack_policy":"none","deliver_subject":"ev.core.secrets.default.x"}}`),
	"DeliverToAnother":  call("$JS.API.CONSUMER.CREATE.EV.y", `{"stream_name":"EV","config":{"name":"y","deliver_policy":"all","ack_policy":"none","DELIVER_SUBJECT":"_INBOX_other.x"}}`),
	"HistoryAsEvent":    deliver(HistName, "ev.core.secrets.default.x"),
	"HistoryAsLease":    deliver(HistName, "$KV.LEASE.other"),
	"LeaseAsEvent":      deliver("KV_"+LeaseBucket, "ev.core.secrets.default.x"),
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
