package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// impostor is a server that was cut off from the others and has just come back:
// it still believes that it leads, gets what is sent to who leads too, and
// answers before the one that does lead. It does so for left times more.
func impostor(t *testing.T, s *Server, subject, text string, times int64) (left *atomic.Int64) {
	t.Helper()
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	left = &atomic.Int64{}
	left.Store(times)
	if _, err := nc.Subscribe(subject, func(m *nats.Msg) {
		if left.Add(-1) >= 0 {
			_ = m.Respond([]byte(text))
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return left
}

// noMessage is how a server says that it has no message at a Seq.
const noMessage = `{"type":"io.nats.jetstream.api.v1.stream_msg_get_response","error":{"code":404,"err_code":10037,"description":"no message found"}}`

// TestStaleLeader writes while a server that no longer leads refuses every
// write, because of what it has not heard of, before the one that leads takes
// it: who writes is told that it is written.
func TestStaleLeader(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	c.startAll()
	l := c.open(0)
	wrongLast := func(n events.Seq) string {
		return fmt.Sprintf(`{"error":{"code":400,"err_code":%d,"description":"wrong last sequence: %d"},"stream":"EV","seq":0}`, codeWrongLast, n)
	}
	for name, refusal := range map[string]func(first, last events.Seq) string{
		"ItHasAnOlderEvent": func(first, _ events.Seq) string { return wrongLast(first) },
		"ItHasNone":         func(events.Seq, events.Seq) string { return wrongLast(0) },
		"ItIsFull": func(events.Seq, events.Seq) string {
			return fmt.Sprintf(`{"error":{"code":503,"err_code":%d,"description":"maximum bytes exceeded"}}`, codeStoreFailed)
		},
	} {
		for looks := range int64(3) {
			t.Run(fmt.Sprintf("%s/%d", name, looks), func(t *testing.T) {
				ctx := logtest.Context(t)
				object := fmt.Sprintf("%s-%d", name, looks)
				first, err := l.Append(ctx, logtest.Record(object, 0))
				if err != nil {
					t.Fatal(err)
				}
				last, err := l.Append(ctx, logtest.Record(object, first))
				if err != nil {
					t.Fatal(err)
				}
				r := logtest.Record(object, last)
				r.ID = "the-write-" + object
				writes := impostor(t, c.servers[0], r.Key.Subject(), refusal(first, last), 1)
				impostor(t, c.servers[0], "$JS.API.STREAM.MSG.GET."+StreamName, noMessage, looks)
				seq, err := l.Append(ctx, r)
				if err != nil {
					t.Errorf("the write was stored, and answered with %v", err)
				}
				if writes.Load() > 0 {
					t.Fatal("it refused nothing: the test is not what it says")
				}
				var got []events.Seq
				end, err := l.Last(ctx)
				if err != nil {
					t.Fatal(err)
				}
				for r, err := range l.Read(ctx, 0, end) {
					if err != nil {
						t.Fatal(err)
					}
					if r.ID == "the-write-"+object {
						got = append(got, r.Seq)
					}
				}
				if len(got) != 1 || got[0] != seq {
					t.Errorf("it was told to be event %d, and is %v", seq, got)
				}
			})
		}
	}
}

// TestLastIsTheLeaders asks for the end of the log, at a server whose log has
// seen nothing of what came last, while one that no longer leads answers what
// it had: an event that another server has told of is not left out.
func TestLastIsTheLeaders(t *testing.T) {
	t.Parallel()
	ctx, c := logtest.Context(t), newTrio(t)
	c.startAll()
	writer := c.open(0)
	leader := c.leader(StreamName)
	at, led := (leader+1)%Servers, (leader+2)%Servers
	reader := c.open(at)
	if _, err := writer.Append(ctx, logtest.Record("a", 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Last(ctx); err != nil {
		t.Fatal(err)
	}
	const info = "$JS.API.STREAM.INFO." + StreamName
	old, err := reader.nc.RequestWithContext(ctx, info, nil)
	if err != nil {
		t.Fatal(err)
	}
	name := func(i int) string { return fmt.Sprintf(`"leader":"s%d"`, i+1) }
	if !strings.Contains(string(old.Data), name(leader)) {
		t.Fatalf("s%d leads, and says: %s", leader+1, old.Data)
	}
	want, err := writer.Append(ctx, logtest.Record("b", 0))
	if err != nil {
		t.Fatal(err)
	}
	answers := impostor(t, c.servers[at], info, strings.Replace(string(old.Data), name(leader), name(led), 1), 2)
	got, err := reader.Last(ctx)
	if err != nil || got < want {
		t.Errorf("the end of the log is %d, %v; event %d was told of before", got, err, want)
	}
	if answers.Load() > 0 {
		t.Fatal("it was not asked: the test is not what it says")
	}
}

// TestRefusedByThree has three servers refuse what can never be written: it is
// a conflict, and at once.
func TestRefusedByThree(t *testing.T) {
	t.Parallel()
	ctx, c := logtest.Context(t), newTrio(t)
	c.startAll()
	l := c.open(0)
	one, err := l.Append(ctx, logtest.Record("a", 0))
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.Append(ctx, logtest.Record("b", 0))
	if err != nil {
		t.Fatal(err)
	}
	for what, r := range map[string]events.Record{
		"an event of another object":    logtest.Record("a", other),
		"an event that is to come":      logtest.Record("a", other+1000),
		"none":                          logtest.Record("a", 0),
		"one of an object that is none": logtest.Record("c", one),
	} {
		if seq, err := l.Append(ctx, r); !errors.Is(err, events.ErrConflict) {
			t.Errorf("who expects %s: %d, %v, want a conflict", what, seq, err)
		}
	}
}

// TestNotNow knows an error that may be gone when it is asked again, from both
// packages of the client: the store of states still tells of the older one's.
func TestNotNow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want bool
	}{
		{&js.APIError{ErrorCode: codeUnavailable}, true},
		{&nats.APIError{ErrorCode: codeUnavailable}, true},
		{&nats.APIError{ErrorCode: codeNoLeader}, true},
		{&nats.APIError{ErrorCode: 10059}, false},
		{&js.APIError{ErrorCode: 10059}, false},
		{context.DeadlineExceeded, true},
		{errors.New("else"), false},
	} {
		if got := notNow(fmt.Errorf("list the states kept: %w", c.err)); got != c.want {
			t.Errorf("%T %v: %t", c.err, c.err, got)
		}
	}
}
