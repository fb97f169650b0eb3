package faults

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/jetstream"
	"github.com/rutterhq/rutter/events/logtest"
)

var (
	seeds = flag.Int("seeds", 2, "how many runs each random test makes")
	first = flag.Uint64("first", 1, "the seed of the first run")
)

const (
	budget  = 1 << 30                // of logs, in bytes
	ackWait = 150 * time.Millisecond // how long a writer waits for an answer before it asks
)

// server is a NATS server in this process that listens.
type server struct {
	*jetstream.Server
	config jetstream.ServerConfig
	token  string // the file of its credentials
}

func startServer(t *testing.T, dir string) *server {
	t.Helper()
	s := &server{config: startConfig(t, dir)}
	s.serve(t)
	return s
}

func startConfig(t *testing.T, dir string) jetstream.ServerConfig {
	t.Helper()
	return jetstream.ServerConfig{Dir: dir, Listen: logtest.Addresses(t, 1)[0], Token: "secret", Budget: budget}
}

// serve runs the server until the test ends.
func (s *server) serve(t *testing.T) {
	t.Helper()
	if err := s.begin(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	s.token = filepath.Join(t.TempDir(), "credentials")
	if err := s.WriteCredentials(s.token); err != nil {
		t.Fatal(err)
	}
}

func (s *server) begin() (err error) {
	s.Server, err = jetstream.StartServer(s.config)
	return err
}

// open opens the server's log, through a relay or directly.
func (s *server) open(t *testing.T, url string) *jetstream.Log {
	t.Helper()
	nc, err := jetstream.Connect(logtest.Context(t), url, s.token)
	if err != nil {
		t.Fatal(err)
	}
	l, err := jetstream.Open(logtest.Context(t), nc, jetstream.Options{Budget: s.Budget(), AckWait: ackWait})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// whole reads a log from its beginning to its end.
func whole(ctx context.Context, t testing.TB, l events.Log) []events.Record {
	t.Helper()
	end, err := l.Last(ctx)
	if err != nil {
		t.Fatal(err)
	}
	all, err := logtest.Read(ctx, l, 0, end)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// load is many clients that read and write a few objects as fast as they can.
type load struct {
	history *history
	readers []*reader       // one per log
	writers int             // per log
	writes  int             // per writer
	until   <-chan struct{} // closed: then they may end; nil: whenever they have written that
	objects int
	seed    uint64
}

// run runs the load to its end. Nothing is left running when it returns.
func (l *load) run(ctx context.Context, t testing.TB) {
	t.Helper()
	follow, stop := context.WithCancel(ctx)
	var following, writing sync.WaitGroup
	for i, r := range l.readers {
		following.Go(func() { r.run(follow) })
		for w := range l.writers {
			writing.Go(func() { l.write(ctx, t, i*l.writers+w, r) })
		}
	}
	writing.Wait()
	stop()
	following.Wait()
}

// write is one client: it reads an object and changes, deletes or makes it
// again; now and then by what was true before, or in a hurry.
func (l *load) write(ctx context.Context, t testing.TB, client int, r *reader) {
	rnd := rand.New(rand.NewPCG(l.seed, uint64(client)))
	for n := 0; n < l.writes || !l.mayEnd(); n++ {
		name := fmt.Sprint("o", rnd.IntN(l.objects))
		before, err := l.history.read(ctx, client, r, logtest.Record(name, 0).Key)
		if err != nil {
			t.Errorf("client %d: read: %v", client, err)
			return
		}
		rec := logtest.Record(name, before.Seq)
		switch n := rnd.IntN(100); {
		case n < 10 && before.Seq > 0:
			rec.Expect = before.Expect
		case n < 25:
			rec.Delete = before.Seq > 0 && !before.Delete
		}
		limit := time.Minute
		if rnd.IntN(10) == 0 {
			limit = time.Duration(rnd.IntN(3*int(ackWait)) + 1)
		}
		hurried, cancel := context.WithTimeout(ctx, limit)
		_, err = l.history.append(hurried, client, r.log, rec)
		cancel()
		if unknown(err) && hurried.Err() == nil {
			t.Errorf("client %d: append: %v", client, err)
		}
	}
}

// mayEnd tells whether what the load was to go on under is over.
func (l *load) mayEnd() bool {
	if l.until == nil {
		return true
	}
	select {
	case <-l.until:
		return true
	default:
		return false
	}
}

// verify holds the history, and what every reader was shown, against the log.
func (l *load) verify(ctx context.Context, t testing.TB, log events.Log) {
	t.Helper()
	all := whole(ctx, t, log)
	l.history.check(t, all)
	for i, r := range l.readers {
		for j, e := range r.all() {
			if j >= len(all) || e.ID != all[j].ID || e.Seq != all[j].Seq {
				t.Errorf("reader %d was shown %s as event %d, which the log does not have there", i, e.ID, e.Seq)
				break
			}
		}
	}
}

// everything is a network that does all that is possible, and more: TCP alone
// would neither double nor reorder, but servers between could.
var everything = chances{
	write:    {drop: 200, double: 1000, late: 500, stray: 100, cutBefore: 50, cutAfter: 50, cutWithin: 30},
	ack:      {drop: 1000, double: 300, late: 1000, cutBefore: 50, cutAfter: 50, cutWithin: 30},
	question: {drop: 3, double: 100, late: 100, cutBefore: 20, cutAfter: 20, cutWithin: 10},
	delivery: {drop: 3, double: 100, late: 50, cutBefore: 20, cutAfter: 20, cutWithin: 10},
}

// TestFaultyNetwork has clients of three processes read and write the same
// objects over a network that does everything.
func TestFaultyNetwork(t *testing.T) {
	t.Parallel()
	for i := range *seeds {
		seed := *first + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			ctx := logtest.Context(t)
			s := startServer(t, t.TempDir())
			direct := s.open(t, s.URL())
			l := &load{history: newHistory(), writers: 4, writes: 25, objects: 3, seed: seed}
			var relays []*relay
			for n := range uint64(3) {
				r := newRelay(t, s.URL())
				l.readers = append(l.readers, newReader(s.open(t, r.url())))
				r.follow(dice(seed<<8+n, everything))
				relays = append(relays, r)
			}
			l.run(ctx, t)
			l.verify(ctx, t, direct)
			report(t, l.history, relays)
		})
	}
}

// TestFaultyNetworkWhilePurged has clients of three processes write over a
// network that does everything, while what they write is purged behind them.
func TestFaultyNetworkWhilePurged(t *testing.T) {
	t.Parallel()
	for i := range *seeds {
		seed := *first + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			s := startServer(t, t.TempDir())
			keeper := s.open(t, s.URL())
			var writers []events.Log
			var relays []*relay
			for n := range uint64(3) {
				r := newRelay(t, s.URL())
				l := s.open(t, r.url())
				writers, relays = append(writers, l, l), append(relays, r)
				r.follow(dice(seed<<8+n, everything))
			}
			logtest.Race{Log: keeper, Writers: writers, Attempts: 20, Lossy: true}.Run(t)
			report(t, newHistory(), relays)
		})
	}
}

// report tells what the run was made of. Relays that did nothing to what was
// written, or to the answers, fail the test.
func report(t *testing.T, h *history, relays []*relay) {
	told := map[string]int{}
	for _, c := range h.calls {
		switch {
		case c.read:
			told["reads"]++
		case c.err == nil:
			told["written"]++
		case unknown(c.err):
			told["unknown"]++
		default:
			told["refused"]++
		}
	}
	did := map[string]int{}
	for _, r := range relays {
		for k := range r.did {
			for f, n := range r.did[k] {
				if n > 0 && f != int(pass) {
					did[kind(k).String()] += n
				}
			}
		}
	}
	t.Logf("told: %v; faults: %v", told, did)
	if relays == nil {
		return // the faults are those of a disk
	}
	if did[write.String()]+did[ack.String()] == 0 {
		t.Error("nothing happened to what was written, nor to answers")
	}
}
