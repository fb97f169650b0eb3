//go:build e2e

package r3

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/services/nodeagent"
)

const (
	nodeName = "walker"
	// spared is for how long a node without a stream is not called silent.
	spared = 3 * time.Second
)

var nodeKey = events.Key{Resource: events.Resource{Plural: "nodes"}, Name: nodeName}

// node is what an agent is to the servers: its streams and its Node. It goes to
// another server when the one it is at is lost.
type node struct {
	t       *testing.T
	servers *nodeagent.Servers
	log     events.Log
	stop    context.CancelFunc
	done    chan struct{}

	mu    sync.Mutex // protects the following field
	spans []span
}

// span is a time in which it was connected.
type span struct{ from, to time.Time } // to is zero while it is

// newNode starts one that lives until end, or the test's end.
func (c *control) newNode() *node {
	c.t.Helper()
	issue := c.machine[0].command(c.bin, "node-credentials", "--data", c.data(0), "--run", c.data(0)+".run", "--node", nodeName, "--node-address", "198.51.100.254")
	if out, err := issue.CombinedOutput(); err != nil {
		c.t.Fatalf("node-credentials: %v: %s", err, out)
	}
	dir := filepath.Join(c.data(0), "nodes", nodeName)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "node.crt"), filepath.Join(dir, "node.key"))
	c.must(err)
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	c.must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	var urls []string
	for _, client := range c.load.clients {
		urls = append(urls, client.Host)
	}
	servers, err := nodeagent.NewServers(urls, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: []tls.Certificate{pair}})
	c.must(err)
	ctx, stop := context.WithCancel(c.t.Context())
	n := &node{t: c.t, servers: servers, log: nodeagent.DialDoor(servers, nodeName), stop: stop, done: make(chan struct{})}
	go func() { defer close(n.done); n.run(ctx) }()
	c.t.Cleanup(n.end)
	return n
}

// at is the server that it is at.
func (n *node) at(c *control) int {
	for i, client := range c.load.clients {
		if client.Host == "https://"+n.servers.Current() {
			return i
		}
	}
	c.t.Fatalf("the node is at %s", n.servers.Current())
	return 0
}

func (n *node) end() { n.stop(); <-n.done }

// run connects, and again, as an agent's Mirror does.
func (n *node) run(ctx context.Context) {
	for ctx.Err() == nil {
		if _, err := n.log.Last(ctx); err != nil {
			pause(ctx, 200*time.Millisecond)
			continue
		}
		n.mu.Lock()
		n.spans = append(n.spans, span{from: time.Now()})
		n.mu.Unlock()
		n.follow(ctx)
		n.mu.Lock()
		n.spans[len(n.spans)-1].to = time.Now()
		n.mu.Unlock()
		pause(ctx, 200*time.Millisecond)
	}
}

// follow reads the stream until it breaks, and makes the Node if there is none.
func (n *node) follow(ctx context.Context) {
	exists, asked := false, false
	for r, err := range n.log.Follow(ctx, 0) {
		if err != nil {
			return
		}
		exists = exists || r.Key == nodeKey
		if r.Key != (events.Key{}) || exists || asked {
			continue
		}
		asked = true
		body := fmt.Sprintf(`{"kind":"Node","apiVersion":"v1","metadata":{"name":%q},"status":{"conditions":[{"type":"Ready","status":"True"}]}}`, nodeName)
		if _, err := n.log.Append(ctx, events.Record{Key: nodeKey, Body: []byte(body),
			Envelope: events.Envelope{ID: uuid.NewString(), Time: time.Now(), Seen: r.Seq}}); err != nil && ctx.Err() == nil && !errors.Is(err, events.ErrConflict) {
			n.t.Errorf("the Node is not made: %v", err)
		}
	}
}

// connected tells since when it had been connected at a time, if it was.
func (n *node) connected(at time.Time) (since time.Duration, is bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.spans {
		if !at.Before(s.from) && (s.to.IsZero() || !at.After(s.to)) {
			return at.Sub(s.from), true
		}
	}
	return 0, false
}

// called are the times at which the node was called silent.
func (c *control) called() (silent []time.Time, err error) {
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, c.load.clients[0].Host+"/rutter/v1/log?from=0&key="+nodeKey.String(), nil)
	if err != nil {
		return nil, err
	}
	res, err := c.load.client(0).Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, errors.New(res.Status)
	}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		var r events.Record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, err
		}
		if r.Type == "node.silent" {
			silent = append(silent, r.Time)
		}
	}
	return silent, lines.Err()
}

// check ends the node and looks at what was said of it: it was never called
// silent while it had been connected for long enough, and once when it ended.
func (n *node) check(c *control) {
	c.t.Helper()
	c.poll("the node to be connected for long", func() bool {
		since, is := n.connected(time.Now())
		return is && since > spared
	})
	before, err := c.called()
	if err != nil {
		c.t.Fatal(err)
	}
	n.end()
	ended := time.Now()
	if *jumps {
		c.poll("the node to be called silent", func() bool {
			silent, err := c.called()
			return err == nil && len(silent) > len(before)
		})
		return // when it was, nobody knows
	}
	var silent []time.Time
	var last time.Time
	c.poll("the node to be called silent", func() bool {
		if silent, err = c.called(); err != nil || len(silent) == 0 {
			return false
		}
		last = silent[len(silent)-1]
		return last.After(ended)
	})
	wrong := 0
	for _, at := range silent[:len(silent)-1] {
		since, is := n.connected(at)
		if is && since > spared {
			wrong++
			c.t.Errorf("the node was called silent at %s, when it had been connected for %s", at.Format("15:04:05.000"), since)
		}
		if at.After(ended) {
			c.t.Errorf("the node was called silent at %s and again", at.Format("15:04:05.000"))
		}
	}
	for i, s := range n.spans[1:] {
		if gap := s.from.Sub(n.spans[i].to); gap > time.Second {
			c.t.Logf("it was not connected from %s for %.1f s", n.spans[i].to.Format("15:04:05.000"), gap.Seconds())
		}
	}
	for _, at := range silent {
		c.t.Logf("called silent at %s", at.Local().Format("15:04:05.000"))
	}
	c.t.Logf("a node was connected %d times, called silent %d times before its end, %d of them wrongly; and %.1f s after it",
		len(n.spans), len(silent)-1, wrong, last.Sub(ended).Seconds())
	if len(n.spans) < 2 {
		c.t.Error("it never had to move")
	}
}
