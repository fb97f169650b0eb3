package jetstream

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"iter"
	"math/big"
	"sync/atomic"
	"testing"
	"time"

	js "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// trio are three servers in this process that keep one log.
type trio struct {
	t       testing.TB
	keys    *tls.Config
	addrs   [3]string
	dirs    [3]string
	servers [3]*Server
}

// newTrio reserves addresses and folders; start starts the servers.
func newTrio(t testing.TB) *trio {
	t.Helper()
	c := &trio{t: t, keys: newKeys(t), addrs: [3]string(logtest.Addresses(t, 3))}
	for i := range c.dirs {
		c.dirs[i] = t.TempDir()
	}
	t.Cleanup(func() {
		for i := range c.servers {
			c.stop(i)
		}
	})
	return c
}

// newKeys makes what servers show to each other and ask of each other.
func newKeys(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "server"}, DNSNames: []string{"server"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, RootCAs: pool, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, ServerName: "server",
	}
}

func (c *trio) start(i int) {
	c.t.Helper()
	join := append(append([]string{}, c.addrs[:i]...), c.addrs[i+1:]...)
	s, err := StartServer(ServerConfig{Dir: c.dirs[i], Token: "secret",
		Cluster: &ClusterConfig{Name: fmt.Sprintf("s%d", i+1), Listen: c.addrs[i], Join: join, TLS: c.keys},
		Log: func(level, m string) {
			if level == "fatal" {
				c.t.Logf("%s s%d %s %s", time.Now().Format("05.000"), i+1, level, m)
			}
		}})
	if err != nil {
		c.t.Fatal(err)
	}
	c.servers[i] = s
}

func (c *trio) stop(i int) {
	if c.servers[i] == nil {
		return
	}
	if err := c.servers[i].Close(); err != nil {
		c.t.Error(err)
	}
	c.servers[i] = nil
}

// open opens the log at one of the servers by a connection of this process.
func (c *trio) open(i int) *Log {
	c.t.Helper()
	return c.openWith(i, 1<<30)
}

func (c *trio) openWith(i int, budget int64) *Log {
	c.t.Helper()
	nc, err := c.servers[i].Connect()
	if err != nil {
		c.t.Fatal(err)
	}
	l, err := Open(logtest.Context(c.t), nc, Options{Budget: budget, Replicas: Servers, GiveUp: 5 * time.Second})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(l.Close)
	return l
}

// waitCopy waits until a server itself has a stream's message: what the others
// have it has a little later.
func (c *trio) waitCopy(i int, stream string, want uint64) {
	c.t.Helper()
	for s, ok := c.servers[i].copyOf(stream); !ok || s.LastSeq < want; s, ok = c.servers[i].copyOf(stream) {
		if err := wait(logtest.Context(c.t), retryPause); err != nil {
			c.t.Fatalf("%s of s%d: %+v, want %d: %v", stream, i+1, s, want, err)
		}
	}
}

// leader waits until one server leads a stream, and returns which.
func (c *trio) leader(stream string) int {
	c.t.Helper()
	for ctx := logtest.Context(c.t); ; {
		var all []int
		for i, s := range c.servers {
			if s == nil {
				continue
			}
			for _, own := range s.OwnCopies() {
				if own.Stream == stream && own.Leads {
					all = append(all, i)
				}
			}
		}
		if len(all) == 1 {
			return all[0]
		}
		if err := wait(ctx, retryPause); err != nil {
			c.t.Fatalf("%v lead %s", all, stream)
		}
	}
}

// startAll starts all three, which settle at once: one after the other they
// would wait for each other.
func (c *trio) startAll() {
	c.t.Helper()
	for i := range c.servers {
		c.start(i)
	}
}

// anyOf is a log that is reached by three servers in turn.
type anyOf struct {
	*Log // of one of them: all but Append and Follow
	logs [3]*Log
	next atomic.Uint64
}

func (a *anyOf) Append(ctx context.Context, r events.Record) (events.Seq, error) {
	return a.logs[a.next.Add(1)%3].Append(ctx, r)
}

func (a *anyOf) Follow(ctx context.Context, after events.Seq) iter.Seq2[events.Record, error] {
	return a.logs[a.next.Add(1)%3].Follow(ctx, after)
}

// TestLogOfThree runs the log's suite and its history's on three servers, with
// every write and the next one at different ones.
func TestLogOfThree(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	c.startAll()
	first := c.open(0)
	logtest.Run(t, func(t *testing.T) logtest.Subject {
		c := &trio{t: t, keys: c.keys, addrs: c.addrs, dirs: c.dirs, servers: c.servers}
		for name := range first.api.StreamNames(logtest.Context(t)).Name() {
			if err := first.api.DeleteStream(logtest.Context(t), name); err != nil {
				t.Fatal(err)
			}
		}
		a := &anyOf{}
		for i := range a.logs {
			a.logs[i] = c.open(i)
			done := make(chan struct{})
			go func() { // as every server does: who writes must know of purges
				defer close(done)
				for range a.logs[i].Follow(t.Context(), 0) {
				}
			}()
			t.Cleanup(func() { <-done })
		}
		a.Log = a.logs[2]
		return logtest.Subject{Log: a, Archive: a, Purge: func(first events.Seq) {
			// The past, which the suite does not ask for here, comes to all
			// three servers in its own time.
			if _, err := a.logs[0].mirrored(logtest.Context(t), first-1); err != nil {
				t.Fatal(err)
			}
			purge(t, a.logs[0], first)
			if err := a.logs[0].past.hist.Purge(logtest.Context(t), js.WithPurgeSequence(uint64(first))); err != nil {
				t.Fatal(err)
			}
		}}
	})
}

// TestLeastBudget opens the log at servers with disks of different sizes, the
// smallest neither first nor last: its budget is that of all.
func TestLeastBudget(t *testing.T) {
	t.Parallel()
	ctx, c := logtest.Context(t), newTrio(t)
	c.startAll()
	for n, step := range []struct {
		server       int
		budget, want int64
	}{{0, 800 << 20, 800 << 20}, {1, 500 << 20, 500 << 20}, {2, 900 << 20, 500 << 20}, {0, 700 << 20, 500 << 20}, {1, 1 << 30, 700 << 20}} {
		l := c.openWith(step.server, step.budget)
		for range 2 { // as it is, and after it was tended
			l.past.usage.at = time.Time{}
			u, err := l.Usage(ctx)
			if err != nil || u.Budget != step.want {
				t.Errorf("step %d: the budget is %d MiB, %v, want %d", n+1, u.Budget>>20, err, step.want>>20)
			}
			if err := l.Tend(ctx); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestMajority takes servers away until one is left, and brings them back: two
// go on, one refuses in time and says why, and nothing that was acknowledged
// is lost.
func TestMajority(t *testing.T) {
	t.Parallel()
	ctx, c := logtest.Context(t), newTrio(t)
	c.startAll()
	l := c.open(0)
	var last events.Seq
	tries := 0
	write := func() error {
		tries++ // a write that was refused may be made after all
		s, err := l.Append(ctx, logtest.Record(fmt.Sprintf("a%d", tries), 0))
		if err == nil {
			last = s
		}
		return err
	}
	if err := write(); err != nil {
		t.Fatal(err)
	}
	c.waitCopy(0, HistName, uint64(last))
	for i := 1; i < 3; i++ {
		c.stop(i)
		for err := write(); (err == nil) != (i == 1); err = write() {
			if !errors.Is(err, events.ErrUnavailable) {
				t.Fatalf("without %d: %v", i, err)
			}
		}
	}
	if _, err := l.Last(ctx); !errors.Is(err, events.ErrUnavailable) {
		t.Errorf("one of three knows the end of the log: %v", err)
	}
	for _, _, alone := l.lone(); !alone; _, _, alone = l.lone() {
		if err := wait(ctx, retryPause); err != nil { // who led believes it for a while
			t.Fatalf("one of three does not find out that it is alone: %v", err)
		}
	}
	w, err := l.Window(ctx)
	if err != nil || w.First != 1 || w.Last < 1 || w.Since.IsZero() {
		t.Errorf("the past that one of three has: %+v, %v", w, err)
	}
	n := events.Seq(0)
	for r, err := range l.Read(ctx, 0, w.Last) {
		if n++; err != nil || r.Seq != n || r.Type != "object.updated" {
			t.Errorf("the past that one of three has: %+v, %v", r, err)
		}
	}
	if n != w.Last {
		t.Errorf("one of three reads %d of %d events", n, w.Last)
	}
	c.start(1)
	for err := write(); err != nil; err = write() {
		if !errors.Is(err, events.ErrUnavailable) {
			t.Fatalf("with two again: %v", err)
		}
	}
	c.start(2)
	other := c.open(2)
	for _, l := range []*Log{l, other} {
		all, err := logtest.Read(ctx, l, 0, last)
		if err != nil || events.Seq(len(all)) != last {
			t.Errorf("%d of %d events: %v", len(all), last, err)
		}
	}
}

// TestHold has three processes want one lease: one holds it; when it ends the
// next one does, and a holder that cannot renew it stops in time.
func TestHold(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(logtest.Context(t))
	c := newTrio(t)
	c.startAll()
	var logs [3]*Log
	for i := range logs {
		logs[i] = c.open(i)
	}
	held, let := make(chan int, 3), make(chan int, 3)
	var stops [3]context.CancelFunc
	var g errgroup.Group
	for i, l := range logs {
		var mine context.Context
		mine, stops[i] = context.WithCancel(ctx)
		g.Go(func() error {
			return l.Hold(mine, "test", fmt.Sprintf("p%d", i), func(ctx context.Context) error {
				held <- i
				<-ctx.Done()
				let <- i
				return ctx.Err()
			})
		})
	}
	first := <-held
	select {
	case other := <-held:
		t.Fatalf("%d and %d hold it", first, other)
	case <-time.After(leaseLimit):
	}
	stops[first]() // it gives it back
	if got := <-let; got != first {
		t.Fatalf("%d let go", got)
	}
	second := <-held
	third := 3 - first - second
	for i := range c.servers { // who holds it is left alone with its server
		if i != second {
			c.stop(i)
		}
	}
	if got := <-let; got != second {
		t.Fatalf("%d let go", got)
	}
	c.start(third)
	if got := <-held; got != third && got != second {
		t.Fatalf("%d holds it", got)
	}
	cancel()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}
