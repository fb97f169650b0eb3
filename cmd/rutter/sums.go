package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events/jetstream"
	"github.com/rutterhq/rutter/kernel"
)

const (
	// sumEvery is how many events are between two sums at most, and how many of a
	// server's copy of the log one sum covers. One reads every object, 0.1 s for
	// 100,000, and so many events.
	sumEvery = 10_000
	// sumPeriod is how much time of the events' own is between two sums at most.
	// The log keeps what is younger than ten minutes, so that each event is
	// stored still when the next sum is made.
	sumPeriod = 5 * time.Minute
	// sumQuiet is after how long without an event a sum is made of what there is,
	// and how often again.
	sumQuiet = time.Minute
	// sumTimeout bounds the exchange of one sum.
	sumTimeout = 10 * time.Second
	// storedTimeout bounds how long this server's own copy may take to have what
	// was read at another one.
	storedTimeout = 5 * time.Second
	// sumsAtOnce bounds the exchanges that wait for other servers. Beyond it a sum
	// is left out.
	sumsAtOnce = 4
)

// comparer finds out whether this server folded the log to what the others
// did, and whether its own copy of the log is what theirs are. All Views at one
// Seq are equal: if they are not, a disk or a memory is broken, or a program, and
// what this server says is not to be trusted, or what another one does. The log
// is read at whichever server NATS has it read at, so that a broken disk may make
// another server's View differ, or none: hence both.
type comparer struct {
	server string
	every  kernel.Seq
	period time.Duration
	quiet  time.Duration
	log    *jetstream.Log
	lg     zerolog.Logger

	mu     sync.Mutex // protects the following fields
	at     kernel.Seq // the last sum that was compared with the others'
	late   kernel.Seq // the last that was not, for somebody had not posted it; 0: none
	states different
	stores different
}

// different is what is known of servers that did not agree.
type different struct {
	times uint64
	odd   []string // who was in the minority the last time
}

// newComparer returns a server's comparer.
func newComparer(server string, log *jetstream.Log, lg zerolog.Logger) *comparer {
	return &comparer{server: server, every: sumEvery, period: sumPeriod, quiet: sumQuiet, log: log, lg: lg}
}

// run posts and compares sums until ctx ends. Where a sum is due follows from
// the events alone, so that all servers make it at the same Seqs. That nothing
// comes any more each finds out for itself; the last event is the same to all.
func (c *comparer) run(ctx context.Context, m *kernel.Mirror) error {
	var g, exchanges errgroup.Group
	exchanges.SetLimit(sumsAtOnce)
	steps := make(chan kernel.Step)
	g.Go(func() error {
		defer close(steps)
		for step := range m.Follow(ctx) {
			select {
			case steps <- step:
			case <-ctx.Done():
			}
		}
		return nil
	})
	post := func(v *kernel.View) {
		exchanges.TryGo(func() error {
			c.exchange(ctx, v)
			return nil
		})
	}
	var v *kernel.View
	var period int64
	for {
		select {
		case step, more := <-steps:
			switch {
			case !more:
				return errors.Join(g.Wait(), exchanges.Wait())
			case step.Fresh:
				for r := range step.View.Records() {
					period = max(period, c.periodOf(r.Time))
				}
			default:
				for _, at := range c.due(step.Events, &period) {
					v = foldTo(v, at, step.Events)
					post(v)
				}
			}
			v = step.View
		case <-time.After(c.quiet):
			if v != nil && v.Seq() > 0 {
				post(v)
			}
		}
	}
}

// due returns after which Seqs a sum is due: every so many, and before the first
// event of a period. period is the latest that was seen: a writer whose clock is
// behind does not begin one again.
func (c *comparer) due(es []kernel.Event, period *int64) (at []kernel.Seq) {
	for _, e := range es {
		if p := c.periodOf(e.Time); p > *period {
			if *period = p; e.Seq > 1 {
				at = append(at, e.Seq-1)
			}
		}
		if e.Seq%c.every == 0 {
			at = append(at, e.Seq)
		}
	}
	return slices.Compact(at)
}

// periodOf numbers the periods.
func (c *comparer) periodOf(t time.Time) int64 { return t.UnixNano() / int64(c.period) }

// foldTo folds those of the events that come after v and not after at.
func foldTo(v *kernel.View, at kernel.Seq, es []kernel.Event) *kernel.View {
	var records []kernel.Record
	for _, e := range es {
		if e.Seq > v.Seq() && e.Seq <= at {
			records = append(records, e.Record)
		}
	}
	v, _ = v.Fold(append(records, kernel.Record{Seq: at})...)
	return v
}

// sumOf is the same for equal Views, and for no others.
func sumOf(v *kernel.View) string {
	h := sha256.New()
	var n [8]byte
	for r := range v.Records() {
		for _, part := range [][]byte{[]byte(r.Key.String()), r.Body} {
			binary.BigEndian.PutUint64(n[:], uint64(len(part)))
			h.Write(n[:])
			h.Write(part)
		}
		binary.BigEndian.PutUint64(n[:], uint64(r.Seq)<<1|map[bool]uint64{true: 1}[r.Delete])
		h.Write(n[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// exchange tells the others this server's sum, and compares it with theirs once
// all have told it; the one before, for which somebody was late, is looked at
// again. A sum that cannot be exchanged is left out: the next one says the same.
func (c *comparer) exchange(ctx context.Context, v *kernel.View) {
	ctx, cancel := context.WithTimeout(ctx, sumTimeout)
	defer cancel()
	c.mu.Lock()
	late := c.late
	c.late = 0
	c.mu.Unlock()
	sum := jetstream.Sum{Server: c.server, Seq: v.Seq(), Value: sumOf(v)}
	own, done := context.WithTimeout(ctx, storedTimeout)
	var err error
	sum.After, sum.Stored, err = c.log.Stored(own, int(c.every), v.Seq())
	done()
	err = errors.Join(err, c.log.Post(ctx, sum))
	if late > 0 && late != v.Seq() {
		err = errors.Join(err, c.look(ctx, late, 0))
	}
	err = errors.Join(err, c.look(ctx, v.Seq(), jetstream.Servers))
	if err != nil && ctx.Err() == nil {
		c.lg.Warn().Err(err).Msg("the servers' states are not compared")
	}
}

// look compares the sums of a Seq once so many are there. Who is wrong only
// three can tell.
func (c *comparer) look(ctx context.Context, at kernel.Seq, enough int) error {
	sums, err := c.log.Sums(ctx, at, enough)
	if len(sums) >= jetstream.Servers {
		c.compare(at, sums)
		return err
	}
	if enough > 0 {
		c.mu.Lock()
		c.late = max(c.late, at)
		c.mu.Unlock()
	}
	return err
}

// compare names who does not agree with most.
func (c *comparer) compare(at kernel.Seq, sums []jetstream.Sum) {
	states, stores := map[string][]string{}, map[string][]string{}
	comparable := true
	for _, s := range sums {
		states[s.Value] = append(states[s.Value], s.Server)
		stores[s.Stored] = append(stores[s.Stored], s.Server)
		// A purge came between, or a copy has not come so far.
		comparable = comparable && s.Stored != "" && s.After == sums[0].After
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = max(c.at, at)
	var stored []string
	if comparable {
		stored = minority(stores, len(sums))
	}
	if len(stored) > 0 {
		c.stores = different{c.stores.times + 1, stored}
		c.lg.Error().Str("what", "store").Strs("servers", stored).Uint64("after", uint64(sums[0].After)).Uint64("seq", uint64(at)).
			Msg("the servers' copies of the log differ: what these have on their disks is not what the others have, or nobody agrees; check their disks, and have them begin with empty ones")
	}
	if odd := minority(states, len(sums)); len(odd) > 0 {
		c.states = different{c.states.times + 1, odd}
		c.lg.Error().Str("what", "state").Strs("servers", odd).Strs("stores", stored).Uint64("seq", uint64(at)).
			Msg("the servers' states differ: what these made of the log is not what the others did, or nobody agrees; restart them, and check their memory and disks, but first those whose copies of the log differ (stores), for these may have read it there")
	}
}

// minority returns who says what no majority says.
func minority(by map[string][]string, n int) (odd []string) {
	for _, servers := range by {
		if 2*len(servers) <= n {
			odd = append(odd, servers...)
		}
	}
	slices.Sort(odd)
	return odd
}

// metrics writes what Prometheus reads.
func (c *comparer) metrics(w io.Writer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintln(w, "# HELP rutter_state_compared_seq The last position at which this server's state was compared with the others'.")
	fmt.Fprintln(w, "# TYPE rutter_state_compared_seq gauge")
	fmt.Fprintf(w, "rutter_state_compared_seq %d\n", c.at)
	fmt.Fprintln(w, "# HELP rutter_state_differs_total Comparisons at which not all servers' states were equal.")
	fmt.Fprintln(w, "# TYPE rutter_state_differs_total counter")
	fmt.Fprintf(w, "rutter_state_differs_total{servers=%q} %d\n", strings.Join(c.states.odd, ","), c.states.times)
	fmt.Fprintln(w, "# HELP rutter_store_differs_total Comparisons at which not all servers' own copies of the log were equal.")
	fmt.Fprintln(w, "# TYPE rutter_store_differs_total counter")
	fmt.Fprintf(w, "rutter_store_differs_total{servers=%q} %d\n", strings.Join(c.stores.odd, ","), c.stores.times)
}
