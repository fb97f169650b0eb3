package jetstream

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

var (
	slowSeeds = flag.Int("slowseeds", 2, "how many seeds TestSlowDisk tries")
	slowFirst = flag.Uint64("slowfirst", 1, "the first of them")
	slowMost  = flag.Duration("slowmost", 100*time.Millisecond, "the longest delay of a sync in TestSlowDisk")
	slowStill = flag.Duration("slowstill", 0, "how long the disk of TestSlowDisk stands still, at least")
)

// slowDisk takes its time to sync, and stands still while somebody wants it to.
type slowDisk struct {
	durable atomic.Uint64 // the last event that was in a file when a sync began that is done

	mu     sync.Mutex // protects the following fields
	rng    *rand.Rand
	frozen chan struct{} // closed when it goes on; nil: it does not stand still
}

// sync is a syncer.
func (d *slowDisk) sync(f *os.File, folder bool) error {
	seq, err := lastInBlock(f)
	if err != nil {
		return err
	}
	d.mu.Lock()
	delay := *slowMost / 20
	if d.rng.IntN(8) == 0 {
		delay = *slowMost
	}
	delay = time.Duration(d.rng.Int64N(int64(delay)))
	frozen := d.frozen
	d.mu.Unlock()
	time.Sleep(delay)
	if frozen != nil {
		<-frozen
	}
	if err := syncDisk(f, folder); err != nil {
		return err
	}
	raise(&d.durable, seq)
	return nil
}

// freeze has every sync that begins from now on wait for the function.
func (d *slowDisk) freeze() (thaw func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	frozen := make(chan struct{})
	d.frozen = frozen
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		close(frozen)
		d.frozen = nil
	}
}

// lastInBlock returns the last event in a block of the log; 0 for other files.
func lastInBlock(f *os.File) (last uint64, err error) {
	number, ok := strings.CutSuffix(filepath.Base(f.Name()), blockSuffix)
	if !ok || filepath.Base(filepath.Dir(filepath.Dir(f.Name()))) != StreamName {
		return 0, nil
	}
	b, err := os.ReadFile(f.Name())
	if err != nil {
		return 0, err
	}
	h, err := newHasher(StreamName + "-" + number)
	if err != nil {
		return 0, err
	}
	walkBlock(b, h, func(seq uint64, _ []byte) bool {
		last = seq
		return true
	})
	return last, nil
}

// slowUsers write to a log on such a disk, and hold what they are told against
// what is on it.
type slowUsers struct {
	log  *Log
	disk *slowDisk

	mu             sync.Mutex // protects the following fields
	acked          map[string]events.Seq
	refused        map[string]error
	unknown        []int                 // how often, by writer
	latest         map[string]events.Seq // of each object, as the follower has it
	shown          []events.Record
	unknownOutcome *sync.Cond
}

// write changes objects that others change too, with little time for each.
func (u *slowUsers) write(ctx context.Context, t *testing.T, number int, rng *rand.Rand) {
	for ctx.Err() == nil {
		u.mu.Lock()
		r := logtest.Record(fmt.Sprintf("o%d", rng.IntN(5)), 0)
		r.Expect, r.Seen = u.latest[r.Key.Name], events.Seq(len(u.shown))
		u.mu.Unlock()
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond+time.Duration(rng.Int64N(int64(2**slowMost))))
		seq, err := u.log.Append(short, r)
		cancel()
		durable := events.Seq(u.disk.durable.Load())
		u.mu.Lock()
		switch {
		case err == nil && seq > durable:
			t.Errorf("event %d was acknowledged, on disk are those up to %d", seq, durable)
		case err == nil:
			u.acked[r.ID] = seq
		case errors.Is(err, events.ErrConflict):
			u.refused[r.ID] = err
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
			u.unknown[number]++
		default:
			t.Errorf("a writer was told: %v", err)
		}
		u.unknownOutcome.Broadcast()
		u.mu.Unlock()
	}
}

// follow shows what is durable.
func (u *slowUsers) follow(ctx context.Context, t *testing.T) {
	for r, err := range u.log.Follow(ctx, 0) {
		if ctx.Err() != nil {
			return
		}
		if durable := events.Seq(u.disk.durable.Load()); err != nil || r.Seq > durable {
			t.Errorf("event %d was shown, on disk are those up to %d, %v", r.Seq, durable, err)
			return
		}
		u.mu.Lock()
		u.shown = append(u.shown, r)
		u.latest[r.Key.Name] = r.Seq
		u.mu.Unlock()
	}
}

// count waits until so many more writes have been acknowledged, and every
// writer has so many more of which nobody knows.
func (u *slowUsers) count(acked, unknown int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	acked, before := acked+len(u.acked), slices.Clone(u.unknown)
	for i := 0; len(u.acked) < acked || i < len(before); {
		if i < len(before) && u.unknown[i] >= before[i]+unknown {
			i++
			continue
		}
		u.unknownOutcome.Wait()
	}
}

// TestSlowDisk has a disk take its time, and stand still for a while: nothing
// is acknowledged or shown before it is on disk, who has waited for long enough
// is told that nobody knows, what is durable can be read, and the log says whose
// fault it is. When the disk goes on all goes on, and nobody was told wrong.
func TestSlowDisk(t *testing.T) {
	t.Parallel()
	for i := range *slowSeeds {
		seed := *slowFirst + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			onSlowDisk(t, seed)
		})
	}
}

func onSlowDisk(t *testing.T, seed uint64) {
	const writers = 8
	disk := &slowDisk{rng: rand.New(rand.NewPCG(seed, 0))}
	said := make(chan string, 1000)
	dir := t.TempDir()
	s, err := StartServer(ServerConfig{Dir: dir, Budget: minBudget, sync: disk.sync, slow: *slowMost * 3, Log: func(_, message string) {
		if strings.Contains(message, "finished a write") {
			said <- message
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	l := openIn(t, s)
	u := &slowUsers{log: l, disk: disk, acked: map[string]events.Seq{}, refused: map[string]error{}, latest: map[string]events.Seq{}, unknown: make([]int, writers)}
	u.unknownOutcome = sync.NewCond(&u.mu)
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { u.follow(ctx, t) })
	for w := range writers {
		all.Go(func() { u.write(ctx, t, w, rand.New(rand.NewPCG(seed, uint64(w)+1))) })
	}
	u.count(20, 0)
	for range 2 {
		thaw := disk.freeze()
		still := time.After(*slowStill)
		u.count(0, 2) // nobody waits for the disk
		if message := <-said; !strings.Contains(message, dir) {
			t.Errorf("of a disk that stands still the log says %q", message)
		}
		u.readDurable(ctx, t)
		<-still
		thaw()
		u.count(20, 0)
		for !strings.Contains(<-said, "has finished") {
		}
	}
	stop()
	all.Wait()
	u.compare(t)
	l.Close()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// readDurable reads all that is on a disk that stands still.
func (u *slowUsers) readDurable(ctx context.Context, t *testing.T) {
	t.Helper()
	last, err := u.log.Last(ctx)
	if durable := events.Seq(u.disk.durable.Load()); err != nil || last > durable {
		t.Errorf("the log ends at %d, %v, on disk are those up to %d", last, err, durable)
	}
	if got, err := logtest.Read(ctx, u.log, 0, last); err != nil || len(got) != int(last) {
		t.Errorf("followed again are %d of %d, %v", len(got), last, err)
	}
	n := 0
	for _, err := range u.log.Read(ctx, 0, last) {
		if err != nil {
			t.Error(err)
		}
		n++
	}
	if n != int(last) {
		t.Errorf("read again are %d of %d", n, last)
	}
}

// compare holds what was told against the log.
func (u *slowUsers) compare(t *testing.T) {
	got := readAll(logtest.Context(t), t, u.log)
	logtest.CheckOrder(t, got, 0)
	times := map[string]int{}
	for i, r := range got {
		times[r.ID]++
		if err, ok := u.refused[r.ID]; ok {
			t.Errorf("event %d is there, its writer was told %v", r.Seq, err)
		}
		if i < len(u.shown) && u.shown[i].ID != r.ID {
			t.Errorf("event %d is %s, shown was %s", r.Seq, r.ID, u.shown[i].ID)
		}
	}
	if len(u.shown) > len(got) {
		t.Errorf("%d events were shown, %d are there", len(u.shown), len(got))
	}
	for id, seq := range u.acked {
		if int(seq) > len(got) || got[seq-1].ID != id || times[id] != 1 {
			t.Errorf("%s was acknowledged as event %d, and is there %d times", id, seq, times[id])
		}
	}
	t.Logf("%d events: %d acknowledged, %d refused, %v of unknown outcome", len(got), len(u.acked), len(u.refused), u.unknown)
}

// TestStandingDiskIsNamed has the disk stand still under servers that sync by
// themselves: there too the log says whose fault it is.
func TestStandingDiskIsNamed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]ServerConfig{"Listens": {Listen: "127.0.0.1:0"}, "Interval": {Durability: Interval}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			said := make(chan string, 100)
			disk := &slowDisk{rng: rand.New(rand.NewPCG(1, 1))}
			c.Dir, c.sync, c.slow = t.TempDir(), disk.sync, *slowMost*3
			c.Log = func(_, message string) {
				if strings.Contains(message, "finished a write") {
					said <- message
				}
			}
			s, err := StartServer(c)
			if err != nil {
				t.Fatal(err)
			}
			thaw := disk.freeze()
			if message := <-said; !strings.Contains(message, c.Dir) || !strings.Contains(message, "not finished") {
				t.Errorf("of a disk that stands still the log says %q", message)
			}
			thaw()
			if message := <-said; !strings.Contains(message, "has finished") {
				t.Errorf("of a disk that goes on the log says %q", message)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
