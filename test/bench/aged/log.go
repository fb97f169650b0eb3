package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/jetstream"
)

const (
	fillWriters   = 64
	updateWriters = 16
	// saveEvery is how many events the log grows by until a state is kept.
	saveEvery = 100_000
)

// part runs a part in a process of its own, whose memory is then its own. What
// it prints goes to out; nil: to where this process prints.
func part(ctx context.Context, o *options, name string, in io.Reader, out io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c := exec.CommandContext(ctx, self, "-part", name, "-dir", o.dir, "-server", fmt.Sprint(o.server), "-objects", fmt.Sprint(o.objects),
		"-events", fmt.Sprint(o.events), "-tail", fmt.Sprint(o.tail), "-updates", o.updates.String())
	c.Stdin, c.Stderr = in, os.Stderr
	if c.Stdout = out; out == nil {
		c.Stdout = os.Stdout
	}
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// withLog opens the log of the cluster, which must not run.
func withLog(ctx context.Context, o *options, do func(context.Context, *options, *jetstream.Log) error) error {
	begin := time.Now()
	c := jetstream.ServerConfig{Dir: filepath.Join(o.dir, "data", "log")}
	opt := jetstream.Options{}
	if o.server > 0 {
		var err error
		if c.Cluster, err = peers(o); err != nil {
			return err
		}
		opt = jetstream.Options{Replicas: jetstream.Servers, Await: true, GiveUp: bootWait}
	}
	server, err := jetstream.StartServer(c)
	if err != nil {
		return err
	}
	defer server.Close()
	nc, err := server.Connect()
	if err != nil {
		return err
	}
	opt.Budget = server.Budget()
	log, err := jetstream.Open(ctx, nc, opt)
	if err != nil {
		return err
	}
	defer log.Close()
	fmt.Printf("the log is open after %.2f s; %s\n", time.Since(begin).Seconds(), memory(os.Getpid()))
	return do(ctx, o, log)
}

// body is a ConfigMap of 1 KB, with parts that repeat themselves and parts
// that do not.
func body(name string, rng *rand.Rand) []byte {
	var data strings.Builder
	for i := range 12 {
		fmt.Fprintf(&data, `%s"setting-%d.example.com":"value of the setting, which is %016x, as of now"`, strings.Repeat(",", min(i, 1)), i, rng.Uint64())
	}
	return fmt.Appendf(nil, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":%q,"namespace":"default","uid":"%016x","creationTimestamp":"2026-11-01T12:00:00Z"},"data":{%s}}`,
		name, rng.Uint64(), data.String())
}

// write makes the next record of an object.
func write(i int, expect, seen events.Seq, rng *rand.Rand) events.Record {
	name := fmt.Sprintf("c%06d", i)
	return events.Record{
		Key: events.Key{Resource: events.Resource{Plural: "configmaps"}, Namespace: "default", Name: name}, Expect: expect,
		Envelope: events.Envelope{ID: fmt.Sprintf("%016x", rng.Uint64()), Source: "user:admin", Type: "configmap.updated", Time: time.Now(), Seen: seen},
		Body:     body(name, rng),
	}
}

// fleet is many writers of objects, each of which has its own.
type fleet struct {
	log  *jetstream.Log
	at   []events.Seq     // of the objects
	mine func(w int) bool // whether a writer is one of this process; nil: all are
	mu   sync.Mutex       // protects the following fields
	took []time.Duration
}

// run has n writers write random objects of theirs, each until more says no.
// The objects that were never written come first.
func (f *fleet) run(ctx context.Context, n int, more func(writer, done int) bool) error {
	seen, err := f.log.Last(ctx)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for w := range n {
		if f.mine != nil && !f.mine(w) {
			continue
		}
		g.Go(func() error {
			rng := rand.New(rand.NewPCG(uint64(w), uint64(seen)))
			var took []time.Duration
			mine := len(f.at) / n
			for done := 0; more(w, done); done++ {
				i := rng.IntN(mine)*n + w
				if next := done*n + w; next < len(f.at) && f.at[next] == 0 {
					i = next
				}
				begin := time.Now()
				seq, err := f.log.Append(ctx, write(i, f.at[i], max(seen, f.at[i]), rng))
				if err != nil {
					return err
				}
				f.at[i] = seq
				took = append(took, time.Since(begin))
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			f.took = append(f.took, took...)
			return nil
		})
	}
	return g.Wait()
}

// fill writes the history.
func fill(ctx context.Context, o *options, log *jetstream.Log) error {
	begin := time.Now()
	f := &fleet{log: log, at: make([]events.Seq, o.objects)}
	state := events.State{}
	read, err := log.Last(ctx)
	if err != nil {
		return err
	}
	if err := fold(ctx, log, state, 0, read); err != nil {
		return err
	}
	for left := o.events; left > 0; {
		now := min(left, saveEvery)
		if left > o.tail {
			now = min(now, left-o.tail)
		}
		each := now/fillWriters + 1
		if err := f.run(ctx, fillWriters, func(_, done int) bool { return done < each }); err != nil {
			return err
		}
		if left -= each * fillWriters; left < o.tail-fillWriters*2 {
			break
		}
		if read, err = forget(ctx, log, state, read); err != nil {
			return err
		}
	}
	u, err := log.Usage(ctx)
	if err != nil {
		return err
	}
	w, err := log.Window(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("%d events of %d objects in %.0f s; %d MiB on disk, %d of them history, %d states\n",
		w.Last, o.objects, time.Since(begin).Seconds(), u.Used>>20, w.Bytes>>20, len(u.Saved))
	return nil
}

// fold applies the events after the one Seq up to the other.
func fold(ctx context.Context, log *jetstream.Log, state events.State, after, to events.Seq) error {
	for r, err := range log.Read(ctx, after, to) {
		if err != nil {
			return err
		}
		state.Fold(r)
	}
	return nil
}

// forget keeps the state at the end, and purges all that is older.
func forget(ctx context.Context, log *jetstream.Log, state events.State, read events.Seq) (events.Seq, error) {
	last, err := log.Last(ctx)
	if err != nil {
		return 0, err
	}
	if err := fold(ctx, log, state, read, last); err != nil {
		return 0, err
	}
	if err := log.Save(ctx, last, slices.Values(state.Records())); err != nil {
		return 0, err
	}
	at, err := log.Append(ctx, events.HorizonRecord(last, state[events.HorizonKey].Seq, last, "history", time.Now()))
	if err != nil {
		return 0, err
	}
	if err := fold(ctx, log, state, last, at); err != nil {
		return 0, err
	}
	_, err = log.Forget(ctx, last)
	return at, err
}

// update reads the log as a service does, and then, once a line or the end of
// standard input has come, changes random objects. It serves the log until that
// ends, for there may be others with which it keeps it.
func update(ctx context.Context, o *options, log *jetstream.Log) error {
	begin := time.Now()
	state, err := follow(ctx, log)
	if err != nil {
		return err
	}
	f := &fleet{log: log, at: make([]events.Seq, o.objects)}
	for i := range f.at {
		f.at[i] = state[write(i, 0, 0, rand.New(rand.NewPCG(0, 0))).Key].Seq
	}
	n := len(state)
	clear(state)
	fmt.Printf("%d objects are read after %.2f s; %s\n", n, time.Since(begin).Seconds(), memory(os.Getpid()))
	told := bufio.NewReader(os.Stdin)
	_, _ = told.ReadString('\n')
	writers := updateWriters
	if o.server > 0 {
		f.mine = func(w int) bool { return w%jetstream.Servers == o.server-1 }
		writers = (updateWriters + jetstream.Servers - o.server) / jetstream.Servers
	}
	begin = time.Now()
	if err := f.run(ctx, updateWriters, func(int, int) bool { return time.Since(begin) < o.updates }); err != nil {
		return err
	}
	took := time.Since(begin)
	slices.Sort(f.took)
	fmt.Printf("%d updates of random old objects by %d writers: %.0f/s, p50 %.1f ms, p99 %.1f ms; %s (load average %s)\n",
		len(f.took), writers, float64(len(f.took))/took.Seconds(), ms(f.took[len(f.took)/2]), ms(f.took[len(f.took)*99/100]),
		memory(os.Getpid()), loadAverage())
	_, err = io.Copy(io.Discard, told)
	return err
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// follow reads the log to its end.
func follow(ctx context.Context, log *jetstream.Log) (events.State, error) {
	last, err := log.Last(ctx)
	if err != nil {
		return nil, err
	}
	state := events.State{}
	for r, err := range log.Follow(ctx, 0) {
		if err != nil {
			return nil, err
		}
		state.Fold(r)
		if r.Seq >= last {
			break
		}
	}
	return state, nil
}
