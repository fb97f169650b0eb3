package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// echoEvery is how often a line goes over the connection.
const echoEvery = 10 * time.Millisecond

// Echo is one connection over which a line goes there and back, again and
// again, for as long as it lasts.
type Echo struct {
	stop context.CancelFunc
	g    errgroup.Group

	mu sync.Mutex // protects the following
	r  EchoReport
}

// EchoReport tells how a connection fared.
type EchoReport struct {
	Peer   string        `json:"peer"`   // as the socket sees it
	Lines  int           `json:"lines"`  // that came back
	Pause  time.Duration `json:"pause"`  // the longest that a line took, in ns
	Broken string        `json:"broken"` // why it ended; empty: it did not
}

// StartEcho connects to an address where ServeEcho answers.
func StartEcho(address string) (*Echo, error) {
	c, err := net.DialTimeout("tcp4", address, requestTimeout)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	e := &Echo{stop: stop, r: EchoReport{Peer: c.RemoteAddr().String()}}
	e.g.Go(func() error { return e.run(ctx, c) })
	return e, nil
}

func (e *Echo) run(ctx context.Context, c net.Conn) error {
	defer c.Close()
	r := bufio.NewReader(c)
	var broken error
	for n := 0; broken == nil && ctx.Err() == nil; n++ {
		begun := time.Now()
		line := fmt.Sprintf("line %d\n", n)
		_, err := io.WriteString(c, line)
		back := ""
		if err == nil {
			back, err = r.ReadString('\n')
		}
		if err == nil && back != line {
			err = fmt.Errorf("sent %q, got %q", line, back)
		}
		broken = err
		e.mu.Lock()
		if err == nil {
			e.r.Lines++
			e.r.Pause = max(e.r.Pause, time.Since(begun))
		} else {
			e.r.Broken = err.Error()
		}
		e.mu.Unlock()
		pause(ctx, begun.Add(echoEvery))
	}
	return broken
}

func pause(ctx context.Context, until time.Time) {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Now tells how the connection fares.
func (e *Echo) Now() EchoReport {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.r
}

// Stop closes the connection.
func (e *Echo) Stop() EchoReport {
	e.stop()
	_ = e.g.Wait() // it is in the report
	return e.Now()
}

// ServeEcho sends back what comes in, until the listener is closed.
func ServeEcho(l net.Listener) error {
	var g errgroup.Group
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return g.Wait()
		}
		if err != nil {
			return err
		}
		g.Go(func() error {
			defer c.Close()
			_, _ = io.Copy(c, c) // the other side went
			return nil
		})
	}
}
