// Package load sends HTTP requests at a steady rate and counts what became of
// each. It is a client on the level of connections, so that nothing is ever
// sent twice: a request that fails has failed. It does what HTTP/1.1 asks of
// any client, no more: it leaves a connection after an answer that says
// "Connection: close".
//
// Half of the requests go over connections of their own, half over a few that
// are kept open.
package load

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// kept is how many connections are kept open.
	kept = 10
	// requestTimeout bounds one request, from dialing to the end of the answer.
	requestTimeout = 5 * time.Second
	// inFlight bounds the requests on new connections that wait for answers.
	inFlight = 512
	// failuresTold bounds Report.Failures.
	failuresTold = 20
)

// Target is what is asked, and how often.
type Target struct {
	Address string      `json:"address"` // host:port to dial; a name is looked up for every connection
	Host    string      `json:"host"`    // header
	Path    string      `json:"path"`
	Rate    int         `json:"rate"` // requests per second
	TLS     *tls.Config `json:"-"`    // nil: plain
}

// Report counts requests. Sent are all, whatever became of them.
type Report struct {
	Sent     int            `json:"sent"`
	Failed   int            `json:"failed"`
	New      int            `json:"new"`      // on connections of their own
	Kept     int            `json:"kept"`     // on connections kept open
	Dialed   int            `json:"dialed"`   // connections made to be kept
	Slowest  time.Duration  `json:"slowest"`  // of those that did not fail, in ns
	Bodies   map[string]int `json:"bodies"`   // short answers, counted
	Failures []string       `json:"failures"` // the first ones
}

// String is one line for people.
func (r *Report) String() string {
	return fmt.Sprintf("sent %d (%d on new connections, %d on %d kept ones), failed %d, slowest %s",
		r.Sent, r.New, r.Kept, r.Dialed, r.Failed, r.Slowest.Round(time.Millisecond))
}

// Load is a load that runs.
type Load struct {
	target Target
	stop   context.CancelFunc
	g      errgroup.Group

	mu sync.Mutex // protects the following
	r  Report
}

// Start begins to send, until Stop.
func Start(t Target) *Load {
	ctx, stop := context.WithCancel(context.Background())
	l := &Load{target: t, stop: stop, r: Report{Bodies: map[string]int{}}}
	l.g.Go(func() error { l.fresh(ctx); return nil })
	for i := range kept {
		// Each begins at its own time, so that they do not send in step.
		begin := time.Now().Add(time.Duration(i) * time.Second / time.Duration(max(1, t.Rate/2)))
		l.g.Go(func() error { l.keep(ctx, begin); return nil })
	}
	return l
}

// Stop sends nothing more, waits for what is on its way, and returns the counts.
func (l *Load) Stop() Report {
	l.stop()
	_ = l.g.Wait() // they return nil
	return l.Now()
}

// Now returns the counts so far.
func (l *Load) Now() Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.r
	r.Bodies = map[string]int{}
	for k, v := range l.r.Bodies {
		r.Bodies[k] = v
	}
	r.Failures = append([]string(nil), l.r.Failures...)
	return r
}

// fresh sends half of the requests, each on a connection of its own.
func (l *Load) fresh(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(inFlight)
	each(ctx, time.Now(), time.Second/time.Duration(max(1, l.target.Rate/2)), func() {
		g.Go(func() error {
			c, err := l.dial()
			if err == nil {
				_, err = l.request(c, true)
				c.Close()
			}
			if err != nil {
				l.failed("new", err)
			}
			return nil
		})
	})
	_ = g.Wait() // they return nil
}

// keep sends its part of the other half on one connection, for as long as the
// server lets it.
func (l *Load) keep(ctx context.Context, begin time.Time) {
	var c *conn
	each(ctx, begin, kept*time.Second/time.Duration(max(1, l.target.Rate/2)), func() {
		var err error
		if c == nil {
			if c, err = l.dial(); err != nil {
				l.failed("kept", fmt.Errorf("dial: %w", err))
				return
			}
			l.mu.Lock()
			l.r.Dialed++
			l.mu.Unlock()
		}
		leave, err := l.request(c, false)
		if err != nil {
			l.failed("kept", fmt.Errorf("request %d on this connection: %w", c.requests, err))
		}
		if err != nil || leave {
			c.Close()
			c = nil
		}
	})
	if c != nil {
		c.Close()
	}
}

// each calls do at regular times until ctx ends. What is late is made up for.
func each(ctx context.Context, next time.Time, every time.Duration, do func()) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ; ; next = next.Add(every) {
		timer.Reset(time.Until(next))
		select {
		case <-timer.C:
			do()
		case <-ctx.Done():
			return
		}
	}
}

type conn struct {
	net.Conn
	r        *bufio.Reader
	requests int
}

func (l *Load) dial() (*conn, error) {
	d := net.Dialer{Timeout: requestTimeout, FallbackDelay: -1}
	raw, err := d.Dial("tcp4", l.target.Address)
	if err != nil {
		return nil, err
	}
	if l.target.TLS != nil {
		raw = tls.Client(raw, l.target.TLS)
	}
	return &conn{Conn: raw, r: bufio.NewReader(raw)}, nil
}

// request sends one request and reads its answer. leave tells that the
// connection takes no more.
func (l *Load) request(c *conn, last bool) (leave bool, err error) {
	begun := time.Now()
	c.requests++
	req, err := http.NewRequest(http.MethodGet, "http://"+l.target.Host+l.target.Path, nil)
	if err != nil {
		return true, err
	}
	req.Close = last
	if err := c.SetDeadline(begun.Add(requestTimeout)); err != nil {
		return true, err
	}
	if err := req.Write(c); err != nil {
		return true, fmt.Errorf("write: %w", err)
	}
	res, err := http.ReadResponse(c.r, req)
	if err != nil {
		return true, fmt.Errorf("read, %s after sending: %w", time.Since(begun).Round(time.Millisecond), err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return true, fmt.Errorf("read the body: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return res.Close, fmt.Errorf("%s: %.200s", res.Status, body)
	}
	l.answered(last, time.Since(begun), body)
	return res.Close, nil
}

func (l *Load) answered(fresh bool, took time.Duration, body []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.r.Sent++
	l.count(fresh)
	l.r.Slowest = max(l.r.Slowest, took)
	if len(body) < 100 && len(l.r.Bodies) < 100 {
		l.r.Bodies[string(body)]++
	}
}

func (l *Load) count(fresh bool) {
	if fresh {
		l.r.New++
	} else {
		l.r.Kept++
	}
}

func (l *Load) failed(on string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.r.Sent++
	l.r.Failed++
	l.count(on == "new")
	if len(l.r.Failures) < failuresTold {
		l.r.Failures = append(l.r.Failures, fmt.Sprintf("%s on a %s connection: %v", time.Now().Format("15:04:05.000"), on, err))
	}
}
