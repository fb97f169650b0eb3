package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"github.com/rutterhq/rutter/services/nodeagent/logs"
)

// readHeader bounds how long a client of the streams may take to say what it
// wants.
const readHeader = 10 * time.Second

// serveStreams serves logs, exec, attach and port-forward to the API server.
func (a *Agent) serveStreams(ctx context.Context) error {
	l, err := net.Listen("tcp", a.cfg.Listen)
	if err != nil {
		return fmt.Errorf("node streams: %w", err)
	}
	s := &http.Server{Handler: a.StreamHandler(), TLSConfig: a.cfg.StreamTLS, ReadHeaderTimeout: readHeader,
		// Upgraded connections end with the agent.
		BaseContext: func(net.Listener) context.Context { return ctx }}
	a.work.Go(func() error { <-ctx.Done(); return s.Close() })
	if a.cfg.StreamTLS != nil {
		err = s.ServeTLS(l, "", "")
	} else {
		err = s.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("node streams: %w", err)
}

// StreamHandler serves kubelet's paths.
func (a *Agent) StreamHandler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", a.serveLogs)
	m.HandleFunc("/exec/{namespace}/{pod}/{container}", a.serveExec)
	m.HandleFunc("/attach/{namespace}/{pod}/{container}", a.serveAttach)
	m.HandleFunc("/portForward/{namespace}/{pod}", a.servePortForward)
	m.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A client that goes away is nothing to log; the libraries below would.
		m.ServeHTTP(w, r.WithContext(klog.NewContext(r.Context(), logr.Discard())))
	})
}

// target finds the pod and the container that a request is about.
func (a *Agent) target(w http.ResponseWriter, r *http.Request) (*pod, *corev1.Container, Container, bool) {
	key := podsResource
	a.mu.Lock()
	p := a.pods[keyOf(key, r.PathValue("namespace"), r.PathValue("pod"))]
	a.mu.Unlock()
	if p == nil {
		http.Error(w, fmt.Sprintf("pod %q not found", r.PathValue("pod")), http.StatusNotFound)
		return nil, nil, Container{}, false
	}
	name := r.PathValue("container")
	if name == "" {
		return p, nil, Container{}, true
	}
	p.mu.Lock()
	spec := findContainer(p.spec, name)
	c := *p.world.peek(name)
	p.mu.Unlock()
	if spec == nil {
		http.Error(w, fmt.Sprintf("container %q not found in pod %q", name, r.PathValue("pod")), http.StatusNotFound)
		return nil, nil, Container{}, false
	}
	return p, spec, c, true
}

// serveLogs writes a container's log.
func (a *Agent) serveLogs(w http.ResponseWriter, r *http.Request) {
	p, spec, c, ok := a.target(w, r)
	if !ok {
		return
	}
	o, previous, err := logOptions(r.URL.Query(), a.now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	p.mu.Lock()
	pod := p.spec
	p.mu.Unlock()
	attempt := c.Attempt
	if previous {
		attempt--
	}
	path := a.logPath(pod, spec.Name, attempt)
	if _, err := os.Stat(path); attempt < 0 || err != nil {
		switch {
		case previous:
			http.Error(w, fmt.Sprintf("previous terminated container %q in pod %q not found", spec.Name, pod.Name), http.StatusBadRequest)
			return
		case c.Phase == Absent:
			http.Error(w, fmt.Sprintf("container %q in pod %q is waiting to start: %s", spec.Name, pod.Name, waiting(pod, spec, &c, a.now()).Reason), http.StatusBadRequest)
			return
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	out := &flushWriter{w: w}
	w.WriteHeader(http.StatusOK)
	out.flush()
	logs.Read(r.Context(), path, o, out, func() bool {
		now := p.container(spec.Name)
		return p.ctx.Err() != nil || now.Attempt != attempt || now.Phase != Running && now.Phase != Ended
	})
}

// logOptions reads v1.PodLogOptions from a query.
func logOptions(q url.Values, now time.Time) (o logs.Options, previous bool, err error) {
	o = logs.Options{Tail: -1, LimitBytes: -1}
	boolean := func(name string) bool {
		s := q.Get(name)
		if s == "" {
			return false
		}
		b, e := strconv.ParseBool(s)
		err = errors.Join(err, e)
		return b
	}
	number := func(name string, into *int64) {
		if s := q.Get(name); s != "" {
			n, e := strconv.ParseInt(s, 10, 64)
			if e == nil && n < 0 {
				e = fmt.Errorf("%s must not be negative", name)
			}
			*into, err = n, errors.Join(err, e)
		}
	}
	o.Follow, o.Timestamps, previous = boolean("follow"), boolean("timestamps"), boolean("previous")
	number("tailLines", &o.Tail)
	number("limitBytes", &o.LimitBytes)
	since := int64(-1)
	if number("sinceSeconds", &since); since >= 0 {
		o.Since = now.Add(-time.Duration(since) * time.Second)
	}
	if s := q.Get("sinceTime"); s != "" {
		t, e := time.Parse(time.RFC3339, s)
		o.Since, err = t, errors.Join(err, e)
	}
	switch s := q.Get("stream"); s {
	case "Stdout":
		o.Stream = "stdout"
	case "Stderr":
		o.Stream = "stderr"
	}
	return o, previous, err
}

// flushWriter sends every write on at once.
type flushWriter struct{ w http.ResponseWriter }

func (f *flushWriter) Write(b []byte) (int, error) {
	n, err := f.w.Write(b)
	f.flush()
	return n, err
}

func (f *flushWriter) flush() { http.NewResponseController(f.w).Flush() }
