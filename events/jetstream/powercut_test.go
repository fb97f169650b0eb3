package jetstream

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

var (
	cuts    = flag.Int("cuts", 48, "how many power cuts TestPowerCut makes; 48 are one life of each load")
	cutSeed = flag.Uint64("cutseed", 1, "the first seed of TestPowerCut")
	oneLoad = flag.Int("cutload", -1, "the only kind of load of TestPowerCut; -1: all take turns")
)

// cutsPerKill is how many different cuts are made of one killed server's store.
const cutsPerKill = 4

// The test binary is also the server that loses its power.
const cutEnv = "RUTTER_TEST_CUT" // store, durability, load, sync to die in, seed; with spaces between

// cutLoad is what a server is busy with when its power goes.
type cutLoad struct {
	budget  int64         // of the stream; the size of its blocks follows from it
	body    int           // of an event, in bytes, at most
	purge   int           // purges leave at least so many events; 0: none
	pause   time.Duration // between purges, at most
	side    bool          // whether a second stream is written to, and all synced
	kept    bool          // whether states are kept and the log forgets, with objects that have keys
	servers int           // one after another
	lines   int           // after how many lines of the journal it ends, at most
	syncs   int           // or in which sync, at most
}

// The sizes of blocks are 32 kB, and 4 MB in the last.
var cutLoads = []cutLoad{
	{budget: 120_000, body: 1000, servers: 1, lines: 200, syncs: 60},
	{budget: 120_000, body: 2000, servers: 3, lines: 2000, syncs: 400, purge: 20, pause: 100 * time.Millisecond},
	{budget: 120_000, body: 2000, servers: 3, lines: 2000, syncs: 400, purge: 20, pause: 20 * time.Millisecond, side: true},
	{budget: 16 << 20, body: 1 << 20, servers: 2, lines: 100, syncs: 200, purge: 3, pause: 20 * time.Millisecond},
	{budget: 120_000, body: 300, servers: 3, lines: 2000, syncs: 1500, pause: 50 * time.Millisecond, kept: true},
}

// side is a stream beside the log, as snapshots are.
const side = "SIDE"

// TestPowerCut cuts the power under a server with writers, a follower, purges
// and a second stream, and starts it again from each of several things that
// the disk may then hold. Every acknowledged event is there, and nothing that
// the follower was shown is gone or another event.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	var total cutTotals
	ran := map[int]int{}
	for seed := *cutSeed; total.cuts < *cuts; seed++ {
		if err := cutLife(t, Fsync, seed, &total); err != nil {
			t.Fatalf("seed %d, cut %d: %v", seed, total.cuts, err)
		}
		ran[loadOf(seed)]++
	}
	all := 0
	for _, load := range cutLoads {
		all += load.servers * cutsPerKill
	}
	for load := range cutLoads {
		if *oneLoad < 0 && *cuts >= all && ran[load] == 0 {
			t.Errorf("of the loads %d was not cut", load)
		}
	}
	t.Logf("%d cuts: %+v, lives of each load: %v", total.cuts, total, ran)
	if *oneLoad >= 0 || *cuts < 4*all {
		return // when a server is killed is chance: in so few cuts something may be missing
	}
	for what, n := range map[string]int{"acknowledged events": total.acked, "events that were shown": total.shown, "kept states": total.saved,
		"keys made": total.made, "keys destroyed": total.destroyed, "purges": total.purges, "synced events of a stream made meanwhile": total.side,
		"blocks begun": total.blocks, "files that were not synced": total.tails} {
		if n == 0 {
			t.Errorf("of %s there were none", what)
		}
	}
}

// loadOf is what a seed's servers are busy with.
func loadOf(seed uint64) int {
	if *oneLoad >= 0 {
		return *oneLoad
	}
	return int(seed % uint64(len(cutLoads)))
}

// TestPowerCutInterval sees that the test above finds what it looks for: with
// Interval, and all of the store synced every second, promises are lost.
func TestPowerCutInterval(t *testing.T) {
	t.Parallel()
	var total cutTotals
	for seed := uint64(1); seed <= 3; seed++ {
		switch err := cutLife(t, Interval, seed, &total); {
		case errors.Is(err, errPromise):
			t.Logf("as it must, with %s: %v", Interval, err)
			return
		case err != nil:
			t.Fatalf("seed %d, cut %d: %v", seed, total.cuts, err)
		}
	}
	t.Fatalf("%d power cuts with %s lost nothing", total.cuts, Interval)
}

// errPromise is what is found if something that was promised is not there.
var errPromise = errors.New("what was promised is lost")

// cutTotals is what was cut, and what was promised before.
type cutTotals struct{ cuts, acked, shown, saved, made, destroyed, purges, side, blocks, tails int }

// cutLife is the life of one store: servers one after another, each killed,
// each starting from what a cut left of the one before.
func cutLife(t *testing.T, d Durability, seed uint64, total *cutTotals) error {
	rng := rand.New(rand.NewPCG(seed, 0))
	load := loadOf(seed)
	root, err := os.MkdirTemp(t.TempDir(), "cut")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(root)
	store := filepath.Join(root, "0")
	if err := os.Mkdir(store, 0o700); err != nil {
		t.Fatal(err)
	}
	told := promises{total: total, acked: map[events.Seq]string{}, shown: map[events.Seq]string{}, kept: newKeeping()}
	for generation := range cutLoads[load].servers {
		disk := newPlatter(t, store)
		runAndKill(t, store, d, load, rng)
		for _, line := range readJournal(t, store+".journal") {
			if !disk.synced(line) && !told.add(line) {
				return fmt.Errorf("the server: %s", line)
			}
		}
		for cut := range cutsPerKill {
			total.cuts++
			to := filepath.Join(root, fmt.Sprintf("%d-%d", generation, cut))
			disk.cut(t, rng, to)
			if cut == 0 {
				store = filepath.Join(root, strconv.Itoa(generation+1))
				if err := os.CopyFS(store, os.DirFS(to)); err != nil {
					t.Fatal(err)
				}
			}
			if err := told.check(t, to, cutLoads[load]); err != nil {
				return fmt.Errorf("generation %d, cut %d: %w", generation, cut, err)
			}
			if err := os.RemoveAll(to); err != nil {
				t.Fatal(err)
			}
		}
		total.blocks, total.tails = total.blocks+disk.blocks, total.tails+disk.tails
	}
	return nil
}

// runAndKill runs a server on the store until it has done something, or for a
// while, and kills it.
func runAndKill(t *testing.T, store string, d Durability, load int, rng *rand.Rand) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Mostly in the middle of its work, at times while it still starts, or
	// by itself in the middle of a sync, with what has to come before the next.
	wait, lines, dieAt := time.Duration(rng.IntN(150))*time.Millisecond, 0, 0
	if how := rng.IntN(5); how > 2 {
		lines = 1 + rng.IntN(cutLoads[load].lines)
	} else if how > 0 && d == Fsync {
		wait, dieAt = 5*time.Second, 1+rng.IntN(cutLoads[load].syncs)
	}
	c := exec.Command(self)
	c.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d %d %d", cutEnv, store, d, load, dieAt, rng.Uint64()))
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); lines > 0 && time.Now().Before(deadline); {
		b, _ := os.ReadFile(store + ".journal")
		if strings.Count(string(b), "\n") >= lines {
			wait = 0
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	timer := time.AfterFunc(wait, func() { _ = c.Process.Kill() })
	defer timer.Stop()
	if _ = c.Wait(); c.ProcessState.Exited() {
		t.Fatalf("the server ended by itself: %v", c.ProcessState)
	}
}

// promises are what a server told before its power went.
type promises struct {
	acked, shown map[events.Seq]string // the event's ID
	purged       events.Seq            // what was asked to be purged
	side         uint64                // events of the second stream that were synced
	kept         keeping
	total        *cutTotals
}

// add reads a line of serveUntilCut.
func (p *promises) add(line string) bool {
	f := strings.Fields(line)
	if len(f) < 2 {
		return false
	}
	if p.kept.add(f, p.total) && f[0] != "acked" && f[0] != "shown" {
		return true
	}
	n, err := strconv.ParseUint(f[1], 10, 64)
	if err != nil {
		return false
	}
	switch f[0] {
	case "acked":
		p.total.acked++
		p.acked[events.Seq(n)] = f[2]
	case "shown":
		p.total.shown++
		p.shown[events.Seq(n)] = f[2]
	case "purge":
		p.total.purges++
		p.purged = max(p.purged, events.Seq(n))
	case "side":
		p.total.side++
		p.side = max(p.side, n)
	default:
		return false
	}
	return true
}

// check starts a server on a store and compares.
func (p *promises) check(t *testing.T, store string, load cutLoad) error {
	ctx := logtest.Context(t)
	s, err := StartServer(ServerConfig{Dir: store, sync: func(*os.File, bool) error { return nil }})
	if err != nil {
		return err
	}
	defer s.Close()
	nc, err := s.Connect()
	if err != nil {
		return err
	}
	l, err := Open(ctx, nc, Options{Budget: load.budget})
	if err != nil {
		return err
	}
	defer l.Close()
	last, err := l.Last(ctx)
	if err != nil {
		return err
	}
	first := events.Seq(max(l.first.Load(), 1))
	if first > max(p.purged, 1) {
		return fmt.Errorf("%w: the log begins at %d, what was purged is before %d", errPromise, first, p.purged)
	}
	all, err := logtest.Read(ctx, l, first-1, last)
	if err != nil {
		return fmt.Errorf("the log cannot be read: %w", err)
	}
	got := map[events.Seq]string{}
	for _, r := range all {
		got[r.Seq] = r.ID
	}
	for what, want := range map[string]map[events.Seq]string{"acknowledged": p.acked, "shown": p.shown} {
		for seq, id := range want {
			if seq >= first && got[seq] != id {
				return fmt.Errorf("%w: event %d was %s as %s and is %q; the log has %d to %d", errPromise, seq, what, id, got[seq], first, last)
			}
		}
	}
	if load.kept {
		if err := p.kept.check(t, ctx, l, store); err != nil {
			return err
		}
		if last, err = l.Last(ctx); err != nil { // it wrote, too
			return err
		}
		first = events.Seq(max(l.first.Load(), 1))
	}
	r := logtest.Record("after-the-cut", 0)
	r.Seen = last
	if _, err := l.Append(ctx, r); err != nil && !errors.Is(err, events.ErrConflict) && !errors.Is(err, events.ErrFull) {
		return fmt.Errorf("append after it: %w", err)
	}
	if err := p.checkHistory(ctx, l, first, last, got); err != nil {
		return err
	}
	return p.checkSide(ctx, l)
}

// checkHistory compares the log's mirror with the log and with what was told.
func (p *promises) checkHistory(ctx context.Context, l *Log, first, last events.Seq, log map[events.Seq]string) error {
	hist, err := l.history(ctx)
	if err != nil {
		return err
	}
	info, err := hist.Info(ctx)
	if err != nil {
		return err
	}
	for seq := events.Seq(info.State.FirstSeq); seq > 0 && seq <= min(last, events.Seq(info.State.LastSeq)); seq++ {
		m, err := hist.GetMsg(ctx, uint64(seq))
		if errors.Is(err, js.ErrMsgNotFound) {
			if seq < first {
				continue // its own limits removed it
			}
			now, err := hist.Info(ctx)
			if err == nil && events.Seq(now.State.FirstSeq) > seq {
				continue // just now
			}
		}
		if err != nil {
			return fmt.Errorf("event %d of history, which has %d to %d: %w", seq, info.State.FirstSeq, info.State.LastSeq, err)
		}
		id := m.Header.Get(events.HeaderID)
		for what, other := range map[string]map[events.Seq]string{"in the log": log, "acknowledged": p.acked, "shown": p.shown} {
			if is, ok := other[seq]; ok && is != id {
				return fmt.Errorf("event %d is %s in history and was %s as %s", seq, id, what, is)
			}
		}
	}
	return nil
}

func (p *promises) checkSide(ctx context.Context, l *Log) error {
	if p.side == 0 {
		return nil
	}
	api, err := js.New(l.nc)
	if err != nil {
		return err
	}
	s, err := api.Stream(ctx, side)
	if err != nil {
		return fmt.Errorf("stream %s: %w", side, err)
	}
	if has := s.CachedInfo().State.Msgs; has < p.side {
		return fmt.Errorf("stream %s has %d events, %d were synced", side, has, p.side)
	}
	return nil
}

// serveUntilCut runs a server and all who use it, until it is killed.
func serveUntilCut(arguments string) error {
	f := strings.Fields(arguments)
	store := f[0]
	number, err := strconv.Atoi(f[2])
	if err != nil {
		return err
	}
	load := cutLoads[number]
	dieAt, err := strconv.ParseUint(f[3], 10, 64)
	if err != nil {
		return err
	}
	seed, err := strconv.ParseUint(f[4], 10, 64)
	if err != nil {
		return err
	}
	journal, err := os.OpenFile(store+".journal", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	disk := &recorder{journal: journal, shadow: store + ".shadow", dieAt: dieAt, delay: func() time.Duration {
		return time.Duration(rand.IntN(1500)) * time.Microsecond
	}}
	s, err := StartServer(ServerConfig{Dir: store, Durability: Durability(f[1]), sync: disk.sync})
	if err != nil {
		return err
	}
	nc, err := s.Connect()
	if err != nil {
		return err
	}
	l, err := Open(context.Background(), nc, Options{Budget: load.budget})
	if err != nil {
		return err
	}
	if Durability(f[1]) == Interval {
		if err := s.commits.syncTree(s.dir()); err != nil {
			return err
		}
		go syncAtIntervals(s)
	}
	u := &cutUser{cutLoad: load, server: s, log: l, disk: disk, rng: rand.New(rand.NewPCG(seed, 1)), at: map[string]events.Seq{}}
	return u.run(context.Background())
}

// syncAtIntervals makes all of a store durable as often as Interval promises,
// which is more than it does: what a cut takes all the same is younger.
func syncAtIntervals(s *Server) {
	for range time.Tick(syncInterval) {
		if err := s.commits.syncTree(s.dir()); err != nil {
			fmt.Fprintln(os.Stderr, "sync at an interval:", err)
		}
	}
}

// cutUser writes down what it is told.
type cutUser struct {
	cutLoad
	server *Server
	log    *Log
	disk   *recorder
	rng    *rand.Rand

	mu    sync.Mutex // protects the following fields and rng
	at    map[string]events.Seq
	state events.State // with kept: as the recorder has it,
	upTo  events.Seq   // which has read up to here
}

func (u *cutUser) run(ctx context.Context) error {
	if u.kept {
		return u.keep(ctx)
	}
	last, err := u.log.Last(ctx)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	caughtUp := make(chan struct{})
	first := events.Seq(max(u.log.first.Load(), 1))
	go func() {
		failed <- u.follow(ctx, first-1, last, caughtUp)
	}()
	if last >= first {
		<-caughtUp
	}
	for w := range 12 {
		go func() { failed <- u.write(ctx, fmt.Sprintf("o%d", w)) }()
	}
	if u.cutLoad.purge > 0 {
		go func() { failed <- u.purge(ctx) }()
	}
	if u.side {
		go func() { failed <- u.beside(ctx) }()
	}
	return <-failed
}

func (u *cutUser) follow(ctx context.Context, after, last events.Seq, caughtUp chan struct{}) error {
	for r, err := range u.log.Follow(ctx, after) {
		if errors.Is(err, events.ErrGone) { // purged before it was read
			return u.follow(ctx, events.Seq(u.log.first.Load())-1, last, caughtUp)
		}
		if err != nil {
			return err
		}
		if err := u.disk.note(fmt.Sprintf("shown %d %s", r.Seq, r.ID)); err != nil {
			return err
		}
		if r.Seq <= last {
			u.at[r.Key.Name] = r.Seq
			if r.Seq == last {
				close(caughtUp)
			}
		}
	}
	return nil
}

func (u *cutUser) random(n int) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.rng.IntN(n)
}

func (u *cutUser) write(ctx context.Context, name string) error {
	u.mu.Lock()
	at := u.at[name]
	u.mu.Unlock()
	for {
		r := logtest.Record(name, at)
		r.ID += fmt.Sprintf("-%d", os.Getpid())
		r.Seen, _ = u.log.Last(ctx)
		r.Body = []byte(strings.Repeat("x", u.random(u.body)))
		seq, err := u.log.Append(ctx, r)
		if errors.Is(err, events.ErrFull) || errors.Is(err, events.ErrGone) {
			time.Sleep(time.Millisecond)
			continue
		}
		if err != nil {
			return err
		}
		if err := u.disk.note(fmt.Sprintf("acked %d %s", seq, r.ID)); err != nil {
			return err
		}
		at = seq
	}
}

// purge keeps the log small.
func (u *cutUser) purge(ctx context.Context) error {
	for {
		last, err := u.log.Last(ctx)
		if err != nil {
			return err
		}
		keep := events.Seq(u.cutLoad.purge + u.random(2*u.cutLoad.purge))
		if last > keep {
			if err := u.disk.note(fmt.Sprintf("purge %d", last-keep)); err != nil {
				return err
			}
			before, err := u.log.mirrored(ctx, last-keep)
			if err != nil {
				return err
			}
			if err := u.server.SyncStore(); err != nil { // history too
				return err
			}
			if err := u.log.Purge(ctx, min(before, last-keep)); err != nil {
				return err
			}
		}
		time.Sleep(time.Duration(u.random(int(u.pause))))
	}
}

// beside makes a second stream, changes it and writes to it, and has it synced.
func (u *cutUser) beside(ctx context.Context) error {
	api, err := js.New(u.log.nc)
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		s, err := api.CreateOrUpdateStream(ctx, js.StreamConfig{
			Name: side, Subjects: []string{"side.>"}, Storage: js.FileStorage, MaxBytes: 12 << 20, Description: strconv.Itoa(n),
		})
		if err != nil {
			return err
		}
		for range u.random(30) {
			if _, err := api.Publish(ctx, "side.x", make([]byte, 1000)); err != nil {
				return err
			}
		}
		info, err := s.Info(ctx)
		if err != nil {
			return err
		}
		if err := u.server.SyncStore(); err != nil {
			return err
		}
		if err := u.disk.note(fmt.Sprintf("side %d", info.State.Msgs)); err != nil {
			return err
		}
	}
}
