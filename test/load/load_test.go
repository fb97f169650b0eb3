package load

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// TestLoad counts what a server sees and what the client says: the same number,
// nothing twice, and every failure.
func TestLoad(t *testing.T) {
	var seen, enough atomic.Int64
	done := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := seen.Add(1)
		switch {
		case n%10 == 3:
			w.Header().Set("Connection", "close")
		case n%10 == 7:
			http.Error(w, "no", http.StatusServiceUnavailable)
			return
		case n%10 == 9:
			panic(http.ErrAbortHandler) // the connection breaks
		}
		fmt.Fprint(w, "yes")
		if n > 200 && enough.CompareAndSwap(0, 1) {
			close(done)
		}
	}))
	defer s.Close()
	l := Start(Target{Address: strings.TrimPrefix(s.URL, "http://"), Host: "shop", Path: "/", Rate: 1000})
	<-done
	r := l.Stop()
	n := int(seen.Load())
	if want := (n+3)/10 + (n+1)/10; r.Sent != n || r.Failed != want || r.Bodies["yes"] != n-want || r.New == 0 || r.Kept == 0 {
		t.Errorf("the server saw %d and failed %d: %s %v", n, want, &r, r.Failures)
	}
}

// TestEcho follows one connection until it breaks.
func TestEcho(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- ServeEcho(l) }()
	e, err := StartEcho(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for e.Now().Lines < 3 {
		if e.Now().Broken != "" {
			break
		}
	}
	if r := e.Stop(); r.Lines < 3 || r.Broken != "" || r.Peer != l.Addr().String() {
		t.Errorf("%+v", r)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
}

// TestCompare counts connections that were answered, and no others.
func TestCompare(t *testing.T) {
	var addresses []string
	for range 2 {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- ServeShort(l) }()
		t.Cleanup(func() {
			if err := errors.Join(l.Close(), <-served); err != nil {
				t.Error(err)
			}
		})
		addresses = append(addresses, l.Addr().String())
	}
	r, err := Compare(addresses[0], addresses[1], 3)
	if err != nil || r.Direct <= 0 || r.Service <= 0 || r.Ratio <= 0 {
		t.Errorf("%+v, %v", r, err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { // says nothing
		if c, err := l.Accept(); err == nil {
			c.Close()
		}
	}()
	if err := short(l.Addr().String()); err == nil {
		t.Error("a connection without an answer counts")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
