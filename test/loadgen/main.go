// Command loadgen is what the end-to-end tests run in pods: a client and a
// server that are told over HTTP what to do.
//
//	POST /load, a load.Target       begins to send requests; GET how it goes; DELETE ends it
//	POST /echo?address=HOST:PORT    opens one connection; GET, DELETE as above
//	POST /compare?direct=HOST:PORT&service=HOST:PORT   a load.Comparison of new connections to both
//	GET  /healthz                   503 after POST /fail, so that probes can be made to fail
//
// It echoes what is sent to port 7, and says one line to whoever connects to port 8.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/rutterhq/rutter/test/load"
)

// compareRounds is how often both addresses of a comparison have their turn.
const compareRounds = 60

func main() {
	terms := make(chan os.Signal, 1)
	signal.Notify(terms, syscall.SIGTERM)
	echo, err := net.Listen("tcp", ":7")
	if err != nil {
		log.Fatal(err)
	}
	short, err := net.Listen("tcp", ":8")
	if err != nil {
		log.Fatal(err)
	}
	failed := make(chan error, 3)
	go func() { failed <- load.ServeEcho(echo) }()
	go func() { failed <- load.ServeShort(short) }()
	go func() { failed <- http.ListenAndServe(":9000", handler()) }()
	log.Print("ready")
	select {
	case err := <-failed:
		log.Fatal(err)
	case <-terms:
		log.Print("asked to end")
	}
}

// running is at most one load and one echo.
type running struct {
	mu   sync.Mutex // protects the following
	load *load.Load
	echo *load.Echo
}

func handler() http.Handler {
	var now running
	var unwell atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if unwell.Load() {
			http.Error(w, "unwell", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("POST /fail", func(http.ResponseWriter, *http.Request) { unwell.Store(true) })
	mux.HandleFunc("POST /compare", func(w http.ResponseWriter, r *http.Request) {
		c, err := load.Compare(r.URL.Query().Get("direct"), r.URL.Query().Get("service"), compareRounds)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		answer(w, c)
	})
	mux.HandleFunc("/load", now.serveLoad)
	mux.HandleFunc("/echo", now.serveEcho)
	return mux
}

func (n *running) serveLoad(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r.Method == http.MethodPost {
		var t load.Target
		if err := json.NewDecoder(r.Body).Decode(&t); err != nil || n.load != nil {
			http.Error(w, fmt.Sprint("a load runs already, or: ", err), http.StatusBadRequest)
			return
		}
		n.load = load.Start(t)
		return
	}
	if n.load == nil {
		http.Error(w, "no load runs", http.StatusNotFound)
		return
	}
	if r.Method == http.MethodDelete {
		answer(w, n.load.Stop())
		n.load = nil
		return
	}
	answer(w, n.load.Now())
}

func (n *running) serveEcho(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r.Method == http.MethodPost {
		var err error
		if n.echo, err = load.StartEcho(r.URL.Query().Get("address")); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
		return
	}
	if n.echo == nil {
		http.Error(w, "no echo runs", http.StatusNotFound)
		return
	}
	if r.Method == http.MethodDelete {
		answer(w, n.echo.Stop())
		n.echo = nil
		return
	}
	answer(w, n.echo.Now())
}

func answer(w http.ResponseWriter, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		log.Print(err)
	}
}
