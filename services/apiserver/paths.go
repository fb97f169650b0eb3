package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	stdlog "log"
	"net/http"
	"runtime"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"k8s.io/apimachinery/pkg/version"
)

// The version of the Kubernetes API that is spoken.
const (
	apiMajor   = "1"
	apiMinor   = "37"
	apiVersion = "v1.37.0"
)

// specialPaths are the fixed paths that are not discovery.
func (s *Server) specialPaths() map[string]http.HandlerFunc {
	m := map[string]http.HandlerFunc{
		"/version":                          s.serveVersion,
		"/healthz":                          s.serveAlive,
		"/livez":                            s.serveAlive,
		"/readyz":                           s.serveReady,
		"/healthz/ping":                     s.serveAlive,
		"/livez/ping":                       s.serveAlive,
		"/readyz/ping":                      s.serveAlive,
		"/metrics":                          s.serveMetrics,
		"/.well-known/openid-configuration": s.serveIssuer,
		"/openid/v1/jwks":                   s.serveKeys,
	}
	return m
}

// paths are all that the root lists.
func (s *Server) paths() []string {
	out := []string{"/api", "/apis", "/openapi/v2", "/openapi/v3"}
	for _, v := range s.routes.versions[""] {
		out = append(out, "/api/"+v)
	}
	for _, g := range s.routes.groups {
		out = append(out, "/apis/"+g)
		for _, v := range s.routes.versions[g] {
			out = append(out, "/apis/"+g+"/"+v)
		}
	}
	for p := range s.special {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}

func (s *Server) serveVersion(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, version.Info{Major: apiMajor, Minor: apiMinor, GitVersion: apiVersion + "+rutter-" + s.cfg.Version,
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: fmt.Sprintf("%s/%s", runtime.GOOS, runtime.GOARCH)})
}

func (s *Server) serveAlive(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, "ok") // the client may have left
}

// readyTimeout bounds how long the log may take to answer.
const readyTimeout = 2 * time.Second

// serveReady answers ok once the log was read, the first objects are there, and
// this server's own copy of the log is whole, for as long as the log answers.
// Who stops servers one after the other waits for it in between.
func (s *Server) serveReady(w http.ResponseWriter, r *http.Request) {
	select {
	case <-s.started:
		ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
		defer cancel()
		if _, err := s.cfg.Log.Last(ctx); err != nil {
			http.Error(w, "[-]log: does not answer\nreadyz check failed", http.StatusInternalServerError)
			return
		}
		if s.cfg.Copier != nil {
			if err := s.cfg.Copier.Whole(ctx); err != nil {
				http.Error(w, fmt.Sprintf("[+]log ok\n[-]log-copy: %v\nreadyz check failed", err), http.StatusInternalServerError)
				return
			}
		}
		s.serveAlive(w, r)
	default:
		http.Error(w, "[-]log: not read to its end yet\nreadyz check failed", http.StatusInternalServerError)
	}
}

func writeJSON(w http.ResponseWriter, v any) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", typeJSON)
	_, _ = w.Write(body) // the client may have left
}

func (r *request) writePlain(v any) error {
	writeJSON(r.w, v)
	return nil
}

// quietLog sends what net/http has to say to the service's log: mostly
// handshakes that were broken off.
func quietLog(l zerolog.Logger) *stdlog.Logger {
	return stdlog.New(debugWriter{l}, "", 0)
}

type debugWriter struct{ l zerolog.Logger }

// Write implements io.Writer.
func (w debugWriter) Write(p []byte) (int, error) {
	level := zerolog.DebugLevel
	if bytes.Contains(p, []byte("panic")) {
		level = zerolog.ErrorLevel // a broken invariant: net/http has caught it
	}
	w.l.WithLevel(level).Bytes("said", p).Msg("http server")
	return len(p), nil
}
