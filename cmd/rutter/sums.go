package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/rutterhq/rutter/events/jetstream"
	"github.com/rutterhq/rutter/kernel"
)

const (
	// sumEvery is how many events are between two sums. One reads every object:
	// 0.1 s for 100,000.
	sumEvery = 10_000
	// sumTimeout bounds the exchange of one sum.
	sumTimeout = 10 * time.Second
)

// comparer finds out whether this server folded the log to what the others
// did. All Views at one Seq are equal: if they are not, a disk or a memory is
// broken, or a program, and what this server says is not to be trusted, or what
// another one does.
type comparer struct {
	server string
	every  kernel.Seq
	log    *jetstream.Log
	lg     zerolog.Logger

	mu      sync.Mutex // protects the following fields
	at      kernel.Seq // the last sum that was compared with another server's
	differs uint64     // how many did not agree
	odd     []string   // who was in the minority the last time
}

// run posts and compares sums until ctx ends.
func (c *comparer) run(ctx context.Context, m *kernel.Mirror) error {
	var v *kernel.View
	for step := range m.Follow(ctx) {
		if step.Fresh {
			v = step.View
			continue
		}
		for at := (v.Seq()/c.every + 1) * c.every; at <= step.View.Seq(); at += c.every {
			v = foldTo(v, at, step.Events)
			c.exchange(ctx, v)
		}
		v = step.View
	}
	return nil
}

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

// exchange tells the others this server's sum, and compares it with theirs;
// those that were late for the one before are looked at again. A sum that
// cannot be exchanged is left out: the next one says the same.
func (c *comparer) exchange(ctx context.Context, v *kernel.View) {
	ctx, cancel := context.WithTimeout(ctx, sumTimeout)
	defer cancel()
	err := c.log.Post(ctx, jetstream.Sum{Server: c.server, Seq: v.Seq(), Value: sumOf(v)})
	for _, at := range []kernel.Seq{v.Seq(), v.Seq() - c.every} {
		var sums []jetstream.Sum
		if err == nil && at > 0 {
			sums, err = c.log.Sums(ctx, at)
			c.compare(at, sums)
		}
	}
	if err != nil && ctx.Err() == nil {
		c.lg.Warn().Err(err).Msg("the servers' states are not compared")
	}
}

// compare names who does not agree with most.
func (c *comparer) compare(at kernel.Seq, sums []jetstream.Sum) {
	if len(sums) < 2 {
		return
	}
	by := map[string][]string{}
	for _, s := range sums {
		by[s.Value] = append(by[s.Value], s.Server)
	}
	var odd []string
	for _, servers := range by {
		if 2*len(servers) <= len(sums) {
			odd = append(odd, servers...)
		}
	}
	slices.Sort(odd)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = max(c.at, at)
	if len(odd) > 0 {
		c.differs++
		c.odd = odd
		c.lg.Error().Strs("servers", odd).Uint64("seq", uint64(at)).
			Msg("the servers' states differ: what these made of the log is not what the others did, or nobody agrees; restart them, and check their memory and disks")
	}
}

// metrics writes what Prometheus reads.
func (c *comparer) metrics(w io.Writer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintln(w, "# HELP rutter_state_compared_seq The last position at which this server's state was compared with another's.")
	fmt.Fprintln(w, "# TYPE rutter_state_compared_seq gauge")
	fmt.Fprintf(w, "rutter_state_compared_seq %d\n", c.at)
	fmt.Fprintln(w, "# HELP rutter_state_differs_total Comparisons at which not all servers' states were equal.")
	fmt.Fprintln(w, "# TYPE rutter_state_differs_total counter")
	fmt.Fprintf(w, "rutter_state_differs_total{servers=%q} %d\n", strings.Join(c.odd, ","), c.differs)
}
