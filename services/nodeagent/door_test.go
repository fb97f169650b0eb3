package nodeagent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
)

// fakeDoor serves one node's door from a script of lines.
func fakeDoor(t *testing.T, h http.HandlerFunc) events.Log {
	t.Helper()
	log, _, _ := fakeDoors(t, h)
	return log
}

// fakeDoors serves it at several servers.
func fakeDoors(t *testing.T, hs ...http.HandlerFunc) (events.Log, *Servers, []*httptest.Server) {
	t.Helper()
	roots := x509.NewCertPool()
	var servers []*httptest.Server
	var urls []string
	for _, h := range hs {
		s := httptest.NewUnstartedServer(h)
		s.EnableHTTP2 = true
		s.StartTLS()
		t.Cleanup(s.Close)
		roots.AddCert(s.Certificate())
		servers, urls = append(servers, s), append(urls, s.URL)
	}
	s, err := NewServers(urls, &tls.Config{RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	return DialDoor(s, "n1"), s, servers
}

// line writes a line that comes after the one of event prev.
func line(w http.ResponseWriter, r kernel.Record, prev kernel.Seq) {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(w, "%s,\"prev\":%d}\n", b[:len(b)-1], prev)
	http.NewResponseController(w).Flush()
}

func record(name string, seq kernel.Seq) kernel.Record {
	return kernel.Record{Key: kernel.Key{Resource: podsResource, Namespace: "default", Name: name}, Seq: seq, Body: []byte("{}")}
}

// TestDoorFollow: Last reads all that there is, Follow goes on with the same
// stream, and a stream that breaks is gone.
func TestDoorFollow(t *testing.T) {
	var opened atomic.Int32
	log := fakeDoor(t, func(w http.ResponseWriter, r *http.Request) {
		opened.Add(1)
		if r.URL.Path != "/rutter/v1/nodes/n1/log" || r.URL.Query().Get("after") != "0" {
			t.Errorf("asked for %s", r.URL)
		}
		line(w, record("a", 3), 0)
		line(w, record("b", 5), 3)
		line(w, kernel.Record{Seq: 7}, 5)
		line(w, record("late", 2), 7) // became visible now, and has stood there for long
	})
	ctx := t.Context()
	last, err := log.Last(ctx)
	if err != nil || last != 7 {
		t.Fatalf("last: %d %v", last, err)
	}
	for _, err := range log.Follow(ctx, 7) {
		if !errors.Is(err, events.ErrGone) {
			t.Errorf("following from elsewhere than 0: %v", err)
		}
	}
	var got []kernel.Seq
	for r, err := range log.Follow(ctx, 0) {
		if err != nil {
			if !errors.Is(err, events.ErrGone) {
				t.Errorf("the stream broke: %v", err)
			}
			break
		}
		got = append(got, r.Seq)
	}
	if d := cmp.Diff([]kernel.Seq{3, 5, 7, 2}, got); d != "" {
		t.Errorf("records (-want +got):\n%s", d)
	}
	if opened.Load() != 1 {
		t.Errorf("%d streams were opened for one reading", opened.Load())
	}
}

// TestDoorFollowMissesNothing: a stream that lacks a line is read anew.
func TestDoorFollowMissesNothing(t *testing.T) {
	log := fakeDoor(t, func(w http.ResponseWriter, r *http.Request) {
		line(w, record("a", 3), 0)
		line(w, record("b", 5), 4)
	})
	var got []kernel.Seq
	for r, err := range log.Follow(t.Context(), 0) {
		if err != nil {
			if !errors.Is(err, events.ErrGone) {
				t.Errorf("a line is missing: %v", err)
			}
			break
		}
		got = append(got, r.Seq)
	}
	if d := cmp.Diff([]kernel.Seq{3}, got); d != "" {
		t.Errorf("records (-want +got):\n%s", d)
	}
}

// TestDoorFollowEnds: a reader that ends its context is let go, though the door says nothing.
func TestDoorFollowEnds(t *testing.T) {
	log := fakeDoor(t, func(w http.ResponseWriter, r *http.Request) {
		line(w, kernel.Record{Seq: 1}, 0)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for r := range log.Follow(ctx, 0) {
		if r.Seq == 1 {
			cancel()
		}
	}
}

// TestDoorAppend: what the API server refuses comes as the log's own errors,
// and an answer that was lost is asked for again with the same record.
func TestDoorAppend(t *testing.T) {
	var asked atomic.Int32
	log := fakeDoor(t, func(w http.ResponseWriter, r *http.Request) {
		var in kernel.Record
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		switch in.Key.Name {
		case "ok":
			fmt.Fprint(w, `{"seq":9}`)
		case "lost":
			if asked.Add(1) == 1 {
				panic(http.ErrAbortHandler)
			}
			fmt.Fprint(w, `{"seq":10}`)
		case "conflict":
			w.WriteHeader(http.StatusConflict)
			fmt.Fprint(w, `{"kind":"Status","status":"Failure","code":409,"reason":"Conflict","message":"changed"}`)
		default:
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, "not json")
		}
	})
	for _, c := range []struct {
		name string
		seq  kernel.Seq
		err  error
	}{{"ok", 9, nil}, {"lost", 10, nil}, {"conflict", 0, events.ErrConflict}} {
		seq, err := log.Append(t.Context(), record(c.name, 0))
		if seq != c.seq || !errors.Is(err, c.err) {
			t.Errorf("%s: %d %v", c.name, seq, err)
		}
	}
	if _, err := log.Append(t.Context(), record("other", 0)); err == nil {
		t.Error("a forbidden write was taken")
	}
	big := record("big", 0)
	big.Body = make([]byte, events.MaxRecord+1)
	if _, err := log.Append(t.Context(), big); !errors.Is(err, events.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
}
