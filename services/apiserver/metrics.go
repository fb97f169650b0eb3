package apiserver

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/rutterhq/rutter/kernel"
)

// metrics counts requests by method and code, in the text format of
// Prometheus, under kube-apiserver's names.
type metrics struct {
	mu       sync.Mutex // protects the following
	requests map[requestKind]*requestCount
	inflight int
}

type requestKind struct {
	method string
	code   int
}

type requestCount struct {
	n       uint64
	seconds float64
}

func newMetrics() *metrics { return &metrics{requests: map[requestKind]*requestCount{}} }

// begin counts a request as in flight until the returned function is called
// with what was answered.
func (m *metrics) begin(r *http.Request) func(code int) {
	start := time.Now()
	m.mu.Lock()
	m.inflight++
	m.mu.Unlock()
	return func(code int) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.inflight--
		k := requestKind{r.Method, code}
		c := m.requests[k]
		if c == nil {
			if len(m.requests) > 256 { // methods are the client's to invent
				return
			}
			c = &requestCount{}
			m.requests[k] = c
		}
		c.n++
		c.seconds += time.Since(start).Seconds()
	}
}

func (s *Server) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	m := s.metrics
	m.mu.Lock()
	defer m.mu.Unlock()
	fmt.Fprintln(w, "# HELP apiserver_request_total Requests answered, by method and code.")
	fmt.Fprintln(w, "# TYPE apiserver_request_total counter")
	var all []requestKind
	for k := range m.requests {
		all = append(all, k)
	}
	slices.SortFunc(all, func(a, b requestKind) int {
		if a.method != b.method {
			return map[bool]int{true: -1, false: 1}[a.method < b.method]
		}
		return a.code - b.code
	})
	for _, k := range all {
		fmt.Fprintf(w, "apiserver_request_total{verb=%q,code=\"%d\"} %d\n", k.method, k.code, m.requests[k].n)
	}
	fmt.Fprintln(w, "# HELP apiserver_request_seconds_total Time spent on answers, watches included.")
	fmt.Fprintln(w, "# TYPE apiserver_request_seconds_total counter")
	for _, k := range all {
		fmt.Fprintf(w, "apiserver_request_seconds_total{verb=%q,code=\"%d\"} %g\n", k.method, k.code, m.requests[k].seconds)
	}
	fmt.Fprintln(w, "# TYPE apiserver_current_inflight_requests gauge")
	fmt.Fprintf(w, "apiserver_current_inflight_requests %d\n", m.inflight)
	fmt.Fprintln(w, "# HELP rutter_view_seq The position in the log that this server has read.")
	fmt.Fprintln(w, "# TYPE rutter_view_seq gauge")
	var seq kernel.Seq = s.cfg.Mirror.View().Seq()
	fmt.Fprintf(w, "rutter_view_seq %d\n", seq)
	fmt.Fprintln(w, "# HELP rutter_history_replays Positions from which old history is read for watches.")
	fmt.Fprintln(w, "# TYPE rutter_history_replays gauge")
	fmt.Fprintf(w, "rutter_history_replays %d\n", s.replays.count())
	if u := s.usage.Load(); u != nil {
		fmt.Fprintln(w, "# HELP rutter_log_bytes What the log, its history and its snapshots take of the disk.")
		fmt.Fprintln(w, "# TYPE rutter_log_bytes gauge")
		fmt.Fprintf(w, "rutter_log_bytes %d\n", u.Used)
		fmt.Fprintln(w, "# HELP rutter_log_budget_bytes What they may take; from 90 % on nothing new can be created.")
		fmt.Fprintln(w, "# TYPE rutter_log_budget_bytes gauge")
		fmt.Fprintf(w, "rutter_log_budget_bytes %d\n", u.Budget)
	}
	if s.cfg.Metrics != nil {
		s.cfg.Metrics(w)
	}
}
