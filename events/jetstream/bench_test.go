package jetstream

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// podBody has the size of a small Pod.
var podBody = []byte(`{"kind":"Pod","spec":"` + strings.Repeat("x", 1500) + `"}`)

func BenchmarkAppend(b *testing.B) {
	benchWriters(b, func(b *testing.B, writers int) func(w int) error {
		l := openIn(b, startServer(b, ServerConfig{}))
		at := make([]events.Seq, writers)
		return func(w int) error {
			r := logtest.Record(fmt.Sprintf("o%d", w), at[w])
			r.Body = podBody
			var err error
			at[w], err = l.Append(b.Context(), r)
			return err
		}
	})
}

// BenchmarkPublish is what JetStream itself does: a plain publish to a server
// that syncs every message.
func BenchmarkPublish(b *testing.B) {
	benchWriters(b, func(b *testing.B, _ int) func(w int) error {
		s := startServer(b, ServerConfig{Listen: "127.0.0.1:0"})
		openIn(b, s)
		nc, err := s.Connect()
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(nc.Close)
		return func(w int) error { return publish(nc, fmt.Sprintf("o%d", w)) }
	})
}

// publish writes an event as a plain message, and waits for the answer.
func publish(nc *nats.Conn, name string) error {
	r := logtest.Record(name, 0)
	a, err := nc.RequestMsg(&nats.Msg{Subject: r.Key.Subject(), Header: r.Headers(), Data: podBody}, time.Minute)
	if err == nil && parseAnswer(a).Seq == 0 {
		err = fmt.Errorf("it was answered %s", a.Data)
	}
	return err
}

// benchWriters has 1, 16 and 64 writers write one after another each.
func benchWriters(b *testing.B, begin func(b *testing.B, writers int) func(w int) error) {
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			write := begin(b, writers)
			took := make([][]time.Duration, writers)
			peak := logtest.PeakMemory(b)
			b.ResetTimer()
			used := processTime(b)
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					for range b.N/writers + 1 {
						start := time.Now()
						if err := write(w); err != nil {
							b.Error(err)
							return
						}
						took[w] = append(took[w], time.Since(start))
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			all := slices.Concat(took...)
			b.ReportMetric(float64((processTime(b)-used).Microseconds())/float64(len(all)), "cpu-µs/append")
			b.ReportMetric(peak(), "MiB-peak")
			report(b, "append", all)
		})
	}
}

// processTime is what this process has used of all processors, which what
// others do on a machine changes less than it does rates.
func processTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkWake is the time from when an append is acknowledged until a
// follower in the same process has the event; it may be negative.
func BenchmarkWake(b *testing.B) {
	l := openIn(b, startServer(b, ServerConfig{}))
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	came := make(chan time.Time, 1)
	go func() {
		for _, err := range l.Follow(ctx, 0) {
			if err != nil {
				return
			}
			came <- time.Now()
		}
	}()
	var took []time.Duration
	at := events.Seq(0)
	for b.Loop() {
		r := logtest.Record("a", at)
		r.Body = podBody
		var err error
		if at, err = l.Append(ctx, r); err != nil {
			b.Fatal(err)
		}
		acked := time.Now()
		took = append(took, (<-came).Sub(acked))
	}
	report(b, "wake", took)
}

func BenchmarkLast(b *testing.B) {
	l := openIn(b, startServer(b, ServerConfig{}))
	for b.Loop() {
		if _, err := l.Last(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReplay(b *testing.B) {
	const n = 5000
	l := openIn(b, startServer(b, ServerConfig{}))
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			at := events.Seq(0)
			for range n/64 + 1 {
				r := logtest.Record(fmt.Sprintf("o%d", w), at)
				r.Body = podBody
				at, _ = l.Append(b.Context(), r)
			}
		})
	}
	wg.Wait()
	for b.Loop() {
		if _, err := logtest.Read(b.Context(), l, 0, n); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// report gives rate and quantiles.
func report(b *testing.B, what string, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(len(took))/b.Elapsed().Seconds(), "events/s")
	for _, q := range []int{50, 99} {
		b.ReportMetric(float64(took[len(took)*q/100].Microseconds()), fmt.Sprintf("%s-p%d-µs", what, q))
	}
}

// BenchmarkAppendThree is BenchmarkAppend on three servers, all in this
// process and on this disk: each event is synced three times.
func BenchmarkAppendThree(b *testing.B) {
	c := newTrio(b)
	c.startAll()
	l := c.open(0)
	var n atomic.Int64 // objects that no other run has
	benchWriters(b, func(b *testing.B, writers int) func(w int) error {
		at, run := make([]events.Seq, writers), n.Add(1)
		return func(w int) error {
			r := logtest.Record(fmt.Sprintf("o%d-%d", run, w), at[w])
			r.Body = podBody
			var err error
			at[w], err = l.Append(b.Context(), r)
			return err
		}
	})
}

// BenchmarkPublishThree is BenchmarkPublish on three such servers: what JetStream
// itself does with a stream that they keep together.
func BenchmarkPublishThree(b *testing.B) {
	c := newTrio(b)
	c.startAll()
	c.open(0)
	nc, err := c.servers[0].Connect()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	benchWriters(b, func(*testing.B, int) func(w int) error {
		return func(w int) error { return publish(nc, fmt.Sprintf("o%d", w)) }
	})
}

// BenchmarkLastThree asks for the end of the log with a majority's consent, as
// every read that must be up to date does: those that come at once share one.
func BenchmarkLastThree(b *testing.B) {
	c := newTrio(b)
	c.startAll()
	l := c.open(0)
	benchWriters(b, func(b *testing.B, _ int) func(w int) error {
		return func(int) error { _, err := l.Last(b.Context()); return err }
	})
}

// BenchmarkServerLost stops one of three servers and starts it again, -benchtime
// times: how long it takes until an event is written, and until the last of eight
// followers at another server has seen it. NATS runs their consumers at any.
func BenchmarkServerLost(b *testing.B) {
	c := newTrio(b)
	c.startAll()
	l, w := c.open(0), c.open(2)
	const followers = 8
	seen := make(chan events.Seq)
	for range followers {
		go func() {
			for r, err := range l.Follow(b.Context(), 0) {
				if err != nil {
					return
				}
				select {
				case seen <- r.Seq:
				case <-b.Context().Done():
					return
				}
			}
		}()
	}
	write := func() (last events.Seq) {
		for n := 0; ; n++ {
			if seq, err := w.Append(b.Context(), logtest.Record(fmt.Sprintf("o%d-%d", b.N, n), 0)); err == nil {
				return seq
			} else if b.Context().Err() != nil {
				b.Fatal(err)
			}
		}
	}
	await := func(want events.Seq) {
		for n := 0; n < followers; {
			if got := <-seen; got == want {
				n++
			}
		}
	}
	await(write())
	var wrote, saw []time.Duration
	for b.Loop() {
		c.stop(1)
		begun := time.Now()
		last := write()
		wrote = append(wrote, time.Since(begun))
		await(last)
		saw = append(saw, time.Since(begun))
		c.start(1)
		c.waitCopy(1, StreamName, uint64(last))
	}
	slices.Sort(wrote)
	slices.Sort(saw)
	b.ReportMetric(wrote[len(wrote)/2].Seconds()*1e3, "ms-written-p50")
	b.ReportMetric(saw[len(saw)/2].Seconds()*1e3, "ms-seen-p50")
	b.ReportMetric(saw[len(saw)-1].Seconds()*1e3, "ms-seen-max")
}

var agedThree = flag.Int("agedthree", 10_000, "how many events BenchmarkAgedThree begins with")

// BenchmarkAgedThree updates random ones of many objects by 16 writers, on three
// servers with a log of many events, and then starts one of them again.
func BenchmarkAgedThree(b *testing.B) {
	c := newTrio(b)
	c.startAll()
	l := c.openWith(0, 8<<30)
	const writers = 64
	objects := make([][]events.Seq, writers) // of each writer: their last events
	write := func(w, i int) {
		r := logtest.Record(fmt.Sprintf("o%d-%d", w, i), objects[w][i])
		r.Body = podBody
		var err error
		if objects[w][i], err = l.Append(b.Context(), r); err != nil {
			b.Error(err)
		}
	}
	var g sync.WaitGroup
	for w := range objects {
		each := *agedThree / writers
		objects[w] = make([]events.Seq, each/10+1)
		g.Go(func() {
			for n := 0; n < each && !b.Failed(); n++ {
				write(w, n%len(objects[w]))
			}
		})
	}
	g.Wait()
	took := make([][]time.Duration, 16)
	next := make(chan struct{})
	for w := range took {
		g.Go(func() {
			for range next {
				begun := time.Now()
				write(w, rand.IntN(len(objects[w])))
				took[w] = append(took[w], time.Since(begun))
			}
		})
	}
	for b.Loop() {
		next <- struct{}{}
	}
	close(next)
	g.Wait()
	report(b, "update", slices.Concat(took...))
	last, err := l.Last(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	c.stop(2)
	begun := time.Now()
	c.start(2)
	c.waitCopy(2, StreamName, uint64(last))
	b.ReportMetric(time.Since(begun).Seconds(), "restart-s")
}

// BenchmarkLeaderLost stops the one of three servers that leads the log, and
// starts it again, -benchtime times: how long it takes until an event is
// written, and until the past has it, too.
func BenchmarkLeaderLost(b *testing.B) {
	c := newTrio(b)
	c.startAll()
	logs := [3]*Log{}
	for i := range logs {
		logs[i] = c.open(i)
	}
	var wrote, kept []time.Duration
	for n := 0; b.Loop(); n++ {
		leader := c.leader(StreamName)
		c.leader(HistName)
		at := (leader + 1) % 3
		c.stop(leader)
		begun := time.Now()
		last := events.Seq(0)
		for last == 0 {
			last, _ = logs[at].Append(b.Context(), logtest.Record(fmt.Sprintf("o%d-%d", n, time.Since(begun)), 0))
			if b.Context().Err() != nil {
				b.Fatal("it did not take a write again")
			}
		}
		wrote = append(wrote, time.Since(begun))
		c.waitCopy(at, HistName, uint64(last))
		kept = append(kept, time.Since(begun))
		c.start(leader)
		logs[leader] = c.open(leader)
		c.waitCopy(leader, HistName, uint64(last))
	}
	for what, all := range map[string][]time.Duration{"written": wrote, "past": kept} {
		slices.Sort(all)
		b.ReportMetric(all[len(all)/2].Seconds(), "s-"+what+"-p50")
		b.ReportMetric(all[len(all)-1].Seconds(), "s-"+what+"-max")
	}
}
