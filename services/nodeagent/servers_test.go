package nodeagent

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
)

// TestServers: a node uses one server until that does not answer, breaks off
// or says that it cannot serve; then the next, and stays there.
func TestServers(t *testing.T) {
	serve := func(seq kernel.Seq, end func(http.ResponseWriter, *http.Request)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				fmt.Fprintf(w, `{"seq":%d}`, seq)
				return
			}
			line(w, kernel.Record{Seq: seq}, 0)
			end(w, r)
		}
	}
	inOrder := func(http.ResponseWriter, *http.Request) {}
	breaks := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	closed := false
	cannot := func(w http.ResponseWriter, r *http.Request) {
		closed = true
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(w, `{"kind":"Status","status":"Failure","code":503,"message":"cut off"}`)
	}
	log, servers, all := fakeDoors(t, serve(1, inOrder), serve(2, breaks), cannot, serve(4, inOrder))
	// read follows the log until it ends, and returns the server that it came from.
	read := func() (seq kernel.Seq) {
		t.Helper()
		if _, err := log.Last(t.Context()); err != nil {
			t.Fatal(err)
		}
		for r, err := range log.Follow(t.Context(), 0) {
			if err != nil {
				if !errors.Is(err, events.ErrGone) {
					t.Errorf("the stream broke: %v", err)
				}
				return seq
			}
			seq = r.Seq
		}
		return seq
	}
	for i, want := range []kernel.Seq{1, 1} {
		if got := read(); got != want {
			t.Errorf("reading %d: server %d, want %d: it ended in order", i, got, want)
		}
	}
	all[0].Close()
	if got := read(); got != 2 {
		t.Errorf("the first one is gone: server %d", got)
	}
	if got := read(); got != 4 || !closed {
		t.Errorf("the second one broke off, the third one cannot serve: server %d", got)
	}
	if seq, err := log.Append(t.Context(), record("a", 0)); seq != 4 || err != nil {
		t.Errorf("append: at server %d, %v", seq, err)
	}
	all[3].Close()
	if seq, err := log.Append(t.Context(), record("a", 0)); seq != 2 || err != nil {
		t.Errorf("append, when that one is gone: at server %d, %v", seq, err)
	}
	res, err := (&http.Client{Transport: servers}).Post(servers.URL()+"/api/v1", "", nil) // a request for a token
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); string(b) != `{"seq":2}` || err != nil {
		t.Errorf("another request: %s %v", b, err)
	}
	all[1].Close()
	if _, err := log.Last(t.Context()); err == nil {
		t.Error("nobody is left, and it is read")
	}
	if _, err := log.Append(t.Context(), record("a", 0)); err == nil {
		t.Error("nobody is left, and it is written")
	}
}

func TestServersRefused(t *testing.T) {
	for _, urls := range [][]string{nil, {"http://a:1"}, {"https://"}, {"a:6443"}, {"https://a/b"}, {"https://a", ""}} {
		if _, err := NewServers(urls, nil); err == nil {
			t.Errorf("%q is taken", urls)
		}
	}
}
