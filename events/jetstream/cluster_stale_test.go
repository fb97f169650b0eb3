package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// stale is a server that was cut off from the others and has just come back: it
// still believes that it leads, gets every write and every question too, and
// answers before the one that does lead has a majority's consent.
type stale struct {
	writes, looks atomic.Int64 // so many it answers until it knows
}

func newStale(t *testing.T, s *Server, subject, refusal string, writes, looks int64) *stale {
	t.Helper()
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	x := &stale{}
	x.writes.Store(writes)
	x.looks.Store(looks)
	answer := func(left *atomic.Int64, text string) nats.MsgHandler {
		return func(m *nats.Msg) {
			if left.Add(-1) >= 0 {
				_ = m.Respond([]byte(text))
			}
		}
	}
	for subject, handler := range map[string]nats.MsgHandler{
		subject:                                answer(&x.writes, refusal),
		"$JS.API.STREAM.MSG.GET." + StreamName: answer(&x.looks, `{"type":"io.nats.jetstream.api.v1.stream_msg_get_response","error":{"code":404,"err_code":10037,"description":"no message found"}}`),
	} {
		if _, err := nc.Subscribe(subject, handler); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return x
}

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
				x := newStale(t, c.servers[0], r.Key.Subject(), refusal(first, last), 1, looks)
				seq, err := l.Append(ctx, r)
				if err != nil {
					t.Errorf("the write was stored, and answered with %v", err)
				}
				if x.writes.Load() > 0 {
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
