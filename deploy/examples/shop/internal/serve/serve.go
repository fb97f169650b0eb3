// Package serve runs an HTTP server as a good tenant of an orchestrator does:
// when it is asked to end, it goes on answering, tells its clients to come back
// on another connection, and ends once they have left.
package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// drainTime bounds how long clients are given to leave by themselves.
	drainTime = 5 * time.Second
	// closeTime bounds how long requests in flight may take after that.
	closeTime = 5 * time.Second
)

// Version is set by the linker: what /version answers.
var Version = "dev"

// Run serves until SIGTERM or SIGINT, and returns when everybody has left.
func Run(addr string, mux *http.ServeMux) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		host, _ := os.Hostname() // "" is as good an answer as any
		JSON(w, map[string]string{"version": Version, "pod": host})
	})
	var draining atomic.Bool
	var open atomic.Int64
	left := make(chan struct{}, 1)
	s := &http.Server{Addr: addr, ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if draining.Load() {
				w.Header().Set("Connection", "close")
			}
			mux.ServeHTTP(w, r)
		}),
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				open.Add(1)
			case http.StateClosed, http.StateHijacked:
				if open.Add(-1) == 0 && draining.Load() {
					select {
					case left <- struct{}{}:
					default:
					}
				}
			}
		},
	}
	failed := make(chan error, 1)
	go func() { failed <- s.ListenAndServe() }()
	log.Printf("version %s listens on %s", Version, addr)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	draining.Store(true)
	if open.Load() > 0 {
		select {
		case <-left:
		case <-time.After(drainTime):
		}
	}
	end, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	if err := s.Shutdown(end); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// JSON answers with a value.
func JSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		log.Print(err)
	}
}

// Fail answers with an error that the client can do nothing about.
func Fail(w http.ResponseWriter, err error) {
	log.Print(err)
	http.Error(w, err.Error(), http.StatusBadGateway)
}

// Env is an environment variable, or a default.
func Env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// client is for calls between the services.
var client = &http.Client{Timeout: 5 * time.Second}

// Get asks another service and decodes its answer.
func Get(ctx context.Context, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}
