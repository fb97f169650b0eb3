package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/highwayhash"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/jetstream"
	"github.com/rutterhq/rutter/events/logtest"
	"github.com/rutterhq/rutter/internal/pki"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// bent is a log as a server with a bad memory reads it: one bit is another.
type bent struct {
	events.Log
	at kernel.Seq
}

func (b bent) Follow(ctx context.Context, after kernel.Seq) iter.Seq2[kernel.Record, error] {
	return func(yield func(kernel.Record, error) bool) {
		for r, err := range b.Log.Follow(ctx, after) {
			if r.Seq == b.at {
				r.Body = bytes.Replace(r.Body, []byte(`"x"`), []byte(`"y"`), 1)
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

// said is what a comparer logs; named is closed once it names what it is to.
type said struct {
	want  string
	named chan struct{}

	mu    sync.Mutex // protects the following field
	lines []string
}

func (s *said) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lines = append(s.lines, string(line)); strings.Contains(string(line), s.want) && !isClosed(s.named) {
		close(s.named)
	}
	return len(line), nil
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// others returns what was logged that does not say what was wanted.
func (s *said) others() (lines []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range s.lines {
		if !strings.Contains(line, s.want) {
			lines = append(lines, line)
		}
	}
	return lines
}

// comparing are three comparers, each with its own Mirror.
type comparing struct {
	all  [3]*comparer
	said [3]*said
}

// compareThree has three servers compare until the function that it returns is
// called. c has what they have in common, want is what they are to say.
func compareThree(t *testing.T, c *comparer, want string, logs [3]*jetstream.Log, read [3]events.Log) (*comparing, func()) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	out := &comparing{}
	var g errgroup.Group
	for i := range 3 {
		out.said[i] = &said{want: want, named: make(chan struct{})}
		one := &comparer{server: fmt.Sprintf("s%d", i+1), every: c.every, period: c.period, quiet: c.quiet, log: logs[i], lg: zerolog.New(out.said[i])}
		out.all[i] = one
		m := kernel.NewMirror(read[i], &kinds.Schema{}, nil)
		g.Go(func() error { return m.Run(ctx) })
		g.Go(func() error { return one.run(ctx, m) })
		<-m.Ready()
	}
	return out, func() {
		stop()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// wait waits until all three have said it.
func (c *comparing) wait(ctx context.Context, t *testing.T) {
	t.Helper()
	for i, s := range c.said {
		select {
		case <-s.named:
		case <-ctx.Done():
			t.Fatalf("s%d never says %s, but %v", i+1, s.want, s.others())
		}
	}
}

// appendAt appends events, one for each second from the given one on.
func appendAt(ctx context.Context, t *testing.T, log events.Log, from, n int) {
	t.Helper()
	for i := from; i < from+n; i++ {
		body := fmt.Appendf(nil, `{"kind":"ConfigMap","metadata":{"name":"a%d","namespace":"default"},"data":{"n":"x"}}`, i)
		_, err := log.Append(ctx, events.Record{Key: events.Key{Resource: events.Resource{Plural: "configmaps"}, Namespace: "default", Name: fmt.Sprintf("a%d", i)},
			Envelope: events.Envelope{Source: "user:test", Type: "object.created", Time: time.Unix(int64(1_790_000_000+i), 0), Seen: kernel.Seq(i)}, Body: body})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Three servers fold one log, and one of them wrongly: all of them say which,
// although nothing happens after the sum was due.
func TestStatesAreCompared(t *testing.T) {
	for name, test := range map[string]struct {
		c     *comparer
		write int
	}{
		"so many events":   {&comparer{every: 10, period: 24 * time.Hour, quiet: time.Hour}, 30},
		"so much time":     {&comparer{every: 1000, period: 10 * time.Second, quiet: time.Hour}, 31},
		"nothing any more": {&comparer{every: 1000, period: 24 * time.Hour, quiet: 100 * time.Millisecond}, 27},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			server, err := jetstream.StartServer(jetstream.ServerConfig{Dir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			nc, err := server.Connect()
			if err != nil {
				t.Fatal(err)
			}
			log, err := jetstream.Open(ctx, nc, jetstream.Options{Budget: server.Budget()})
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			c, stop := compareThree(t, test.c, `"what":"state","servers":["s2"]`, [3]*jetstream.Log{log, log, log}, [3]events.Log{log, bent{log, 25}, log})
			appendAt(ctx, t, log, 0, test.write)
			c.wait(ctx, t)
			stop()
			for i, one := range c.all {
				var out strings.Builder
				one.metrics(&out)
				if got := out.String(); !strings.Contains(got, `rutter_state_differs_total{servers="s2"}`) || !strings.Contains(got, `rutter_store_differs_total{servers=""} 0`) {
					t.Errorf("s%d: %s", i+1, got)
				}
				if lines := c.said[i].others(); len(lines) > 0 {
					t.Errorf("s%d says, too: %v", i+1, lines)
				}
				for _, line := range c.said[i].lines {
					if strings.Contains(line, `"seq":10,`) || strings.Contains(line, `"seq":20,`) {
						t.Errorf("s%d: a difference before there was one: %s", i+1, line)
					}
				}
			}
		})
	}
}

// three are servers in this process that keep one log.
type three struct {
	ca      *pki.CA
	addrs   [3]string
	dirs    [3]string
	servers [3]*jetstream.Server
	logs    [3]*jetstream.Log
}

// startThree starts them; what they keep is whole when it returns.
func startThree(ctx context.Context, t *testing.T) *three {
	t.Helper()
	ca, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := &three{ca: ca, addrs: [3]string(logtest.Addresses(t, 3))}
	for i := range c.dirs {
		c.dirs[i] = t.TempDir()
	}
	t.Cleanup(func() {
		for i := range c.servers {
			c.stop(t, i)
		}
	})
	for i := range c.servers {
		c.start(t, i)
	}
	for i := range c.servers {
		c.open(ctx, t, i)
	}
	return c
}

func (c *three) start(t *testing.T, i int) {
	t.Helper()
	name := fmt.Sprintf("s%d", i+1)
	keys, err := serverTLS(c.ca, name, c.addrs[i])
	if err != nil {
		t.Fatal(err)
	}
	join := append(append([]string{}, c.addrs[:i]...), c.addrs[i+1:]...)
	c.servers[i], err = jetstream.StartServer(jetstream.ServerConfig{Dir: c.dirs[i], Token: "secret",
		Cluster: &jetstream.ClusterConfig{Name: name, Listen: c.addrs[i], Join: join, TLS: keys}})
	if err != nil {
		t.Fatal(err)
	}
}

func (c *three) open(ctx context.Context, t *testing.T, i int) {
	t.Helper()
	nc, err := c.servers[i].Connect()
	if err != nil {
		t.Fatal(err)
	}
	if c.logs[i], err = jetstream.Open(ctx, nc, jetstream.Options{Budget: 1 << 30, Replicas: jetstream.Servers}); err != nil {
		t.Fatal(err)
	}
}

func (c *three) stop(t *testing.T, i int) {
	t.Helper()
	if c.logs[i] != nil {
		c.logs[i].Close()
	}
	if c.servers[i] != nil {
		if err := c.servers[i].Close(); err != nil {
			t.Error(err)
		}
	}
	c.logs[i], c.servers[i] = nil, nil
}

// One of three servers has another event on its disk than the others: all of
// them say which, wherever each of them reads the log.
func TestStoresAreCompared(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	s := startThree(ctx, t)
	appendAt(ctx, t, s.logs[0], 0, 15)
	_, want, err := s.logs[0].Stored(ctx, 20, 15)
	if err != nil || len(want) != 2*sha256.Size {
		t.Fatal(want, err)
	}
	for i := 1; i < 3; i++ {
		if after, got, err := s.logs[i].Stored(ctx, 20, 15); err != nil || after != 0 || got != want {
			t.Fatalf("s%d stores %q after %d, %v, not %q", i+1, got, after, err, want)
		}
	}
	s.stop(t, 1)
	alter(t, s.dirs[1], 12)
	s.start(t, 1)
	s.open(ctx, t, 1)
	c, stop := compareThree(t, &comparer{every: 20, period: 24 * time.Hour, quiet: time.Hour}, `"what":"store","servers":["s2"],"after":0,"seq":20,`,
		s.logs, [3]events.Log{s.logs[0], s.logs[1], s.logs[2]})
	defer stop()
	appendAt(ctx, t, s.logs[0], 15, 5)
	c.wait(ctx, t)
	for i, said := range c.said {
		for _, line := range said.others() {
			// Whose state differs depends on where it read the log, and that on NATS.
			if !strings.Contains(line, `"what":"state"`) || !strings.Contains(line, `"stores":["s2"]`) {
				t.Errorf("s%d says, too: %s", i+1, line)
			}
		}
	}
}

// alter changes an event in a server's store and what the store's checksum of
// it is, as a disk would that gives back what was never written.
func alter(t *testing.T, dir string, seq uint64) {
	t.Helper()
	path := filepath.Join(dir, "jetstream", "$G", "streams", jetstream.StreamName, "msgs", "1.blk")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const head, sum = 22, 8 // bytes: see events/jetstream/durable_blocks.go
	for at := 0; at < len(b); {
		length := binary.LittleEndian.Uint32(b[at:])
		record := b[at : at+int(length&^(1<<31))]
		at += len(record)
		if binary.LittleEndian.Uint64(record[4:]) != seq {
			continue
		}
		i := bytes.Index(record, []byte(`"x"`))
		record[i+1] = 'y'
		subject := head + int(binary.LittleEndian.Uint16(record[20:]))
		key := sha256.Sum256([]byte(jetstream.StreamName + "-1"))
		h, err := highwayhash.New64(key[:])
		if err != nil {
			t.Fatal(err)
		}
		h.Write(record[4:20])
		h.Write(record[head:subject])
		h.Write(record[subject+4 : len(record)-sum]) // it has headers
		copy(record[len(record)-sum:], h.Sum(nil))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("%s has no event %d", path, seq)
}
