package jetstream

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// stopped writes n events of some size to a new log, in blocks whose size
// follows from the budget (32 kB up to 120 kB, 4 MB up to 32 MB), and stops the server in a way that leaves the store as a power cut does: with
// its marker gone. It returns the store and the folder of the log's blocks.
func stopped(t *testing.T, n, size int, budget int64) (store, blocks string) {
	t.Helper()
	store = t.TempDir()
	s, err := StartServer(ServerConfig{Dir: store})
	if err != nil {
		t.Fatal(err)
	}
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	l, err := Open(logtest.Context(t), nc, Options{Budget: budget})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		r := logtest.Record(fmt.Sprintf("o%d", i), 0)
		r.Body = []byte(strings.Repeat("x", size))
		if _, err := l.Append(logtest.Context(t), r); err != nil {
			t.Fatal(err)
		}
	}
	if at, err := l.mirrored(logtest.Context(t), events.Seq(n)); err != nil || at != events.Seq(n) {
		t.Fatalf("history has %d of %d, %v", at, n, err)
	}
	l.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(store, cleanFile)); err != nil {
		t.Fatal(err)
	}
	if blocks, err = newCommitter(ServerConfig{Dir: store}).blocksDir(); err != nil {
		t.Fatal(err)
	}
	return store, blocks
}

// TestMended starts servers on what power cuts leave behind.
func TestMended(t *testing.T) {
	t.Parallel()
	const n = 100 // events, in some 4 blocks
	truncate := func(path string) {
		info, err := os.Stat(path)
		if err == nil {
			err = os.Truncate(path, info.Size()/2)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		harm        func(store, blocks string)
		first, last [2]events.Seq // at least, at most
	}{
		"TornEnd": {
			func(_, blocks string) { truncate(blockPath(blocks, 4)) },
			[2]events.Seq{1, 1}, [2]events.Seq{50, n - 1},
		},
		"TornBlockBeforeTheLast": {
			func(_, blocks string) { truncate(blockPath(blocks, 2)) },
			[2]events.Seq{1, 1}, [2]events.Seq{20, 60},
		},
		"ZerosInABlock": {
			func(_, blocks string) {
				b, err := os.ReadFile(blockPath(blocks, 2))
				if err != nil {
					t.Fatal(err)
				}
				clear(b[len(b)/2 : len(b)/2+100])
				if err := os.WriteFile(blockPath(blocks, 2), b, 0o600); err != nil {
					t.Fatal(err)
				}
			},
			[2]events.Seq{1, 1}, [2]events.Seq{20, 60},
		},
		"BlockWithoutName": {
			func(_, blocks string) {
				if err := os.Remove(blockPath(blocks, 3)); err != nil {
					t.Fatal(err)
				}
			},
			[2]events.Seq{1, 1}, [2]events.Seq{20, 80},
		},
		"HalfAPurge": {
			func(store, blocks string) {
				err := errors.Join(os.Remove(blockPath(blocks, 2)), os.WriteFile(filepath.Join(store, purgedFile), []byte("70"), 0o600))
				if err != nil {
					t.Fatal(err)
				}
			},
			[2]events.Seq{70, 70}, [2]events.Seq{n, n},
		},
		"TornConfiguration": {
			func(_, blocks string) { truncate(filepath.Join(blocks, "..", metaInf)) },
			[2]events.Seq{1, 1}, [2]events.Seq{n, n},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := logtest.Context(t)
			store, blocks := stopped(t, n, 800, 120_000)
			if has, err := blocksIn(blocks); err != nil || len(has) < 4 {
				t.Fatalf("the log has the blocks %v, %v", has, err)
			}
			c.harm(store, blocks)
			l := openIn(t, startServer(t, ServerConfig{Dir: store}))
			if _, ok := readMeta(filepath.Dir(blocks)); !ok {
				t.Error("the stream's configuration is torn")
			}
			last, err := l.Last(ctx)
			if err != nil || last < c.last[0] || last > c.last[1] {
				t.Fatalf("the log ends at %d, %v, want %d to %d", last, err, c.last[0], c.last[1])
			}
			first := events.Seq(l.first.Load())
			if first < c.first[0] || first > c.first[1] {
				t.Fatalf("the log begins at %d, want %d to %d", first, c.first[0], c.first[1])
			}
			r := logtest.Record("new", 0)
			r.Seen = last
			if seq, err := l.Append(ctx, r); err != nil || seq != last+1 {
				t.Fatalf("append: %d, %v, want %d", seq, err, last+1)
			}
			all, err := logtest.Read(ctx, l, first-1, last+1)
			if err != nil {
				t.Fatal(err)
			}
			// History had all of them, and must not go on with what is lost.
			ids := map[events.Seq]string{}
			for _, r := range all {
				ids[r.Seq] = r.ID
			}
			if err := new(promises).checkHistory(ctx, l, first, last+1, ids); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestPurgeRewritesNothing: what the server writes anew it does not sync, and
// it would take the place of events that are durable.
func TestPurgeRewritesNothing(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	store, blocks := stopped(t, 10, 1<<20, 16<<20) // in blocks of 4 MB
	inodes := func() map[string]uint64 {
		entries, err := listEntries(blocks)
		if err != nil {
			t.Fatal(err)
		}
		delete(entries, stateIndexFile)
		return entries
	}
	l := openIn(t, startServer(t, ServerConfig{Dir: store}))
	before := inodes()
	if err := l.Purge(ctx, 6); err != nil {
		t.Fatal(err)
	}
	if first := l.first.Load(); first < 2 || first > 6 {
		t.Errorf("after a purge before 6 the log begins at %d", first)
	}
	for name, ino := range inodes() {
		if before[name] != ino {
			t.Errorf("%s was written anew", name)
		}
	}
}

// TestDiskRefuses has a sync fail: nothing is acknowledged or shown any more,
// not even what a later sync would be successful for, and the owner is told.
func TestDiskRefuses(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	var broken atomic.Bool
	told := make(chan error, 1)
	s, err := StartServer(ServerConfig{
		Dir:   t.TempDir(),
		Fatal: func(err error) { told <- err },
		sync: func(f *os.File, folder bool) error {
			if !folder && broken.CompareAndSwap(true, false) {
				return errors.New("input/output error")
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	l := openIn(t, s)
	if _, err := l.Append(ctx, logtest.Record("a", 0)); err != nil {
		t.Fatal(err)
	}
	broken.Store(true)
	for i := range 2 {
		if seq, err := l.Append(ctx, logtest.Record(fmt.Sprintf("b%d", i), 0)); err == nil || !strings.Contains(err.Error(), "input/output error") {
			t.Errorf("append %d on a broken disk: %d, %v", i, seq, err)
		}
	}
	if err := <-told; err == nil || !strings.Contains(err.Error(), "disk") {
		t.Errorf("the owner was told %v", err)
	}
	if last, err := l.Last(ctx); err != nil || last != 1 {
		t.Errorf("last is %d, %v", last, err)
	}
	if err := s.Close(); err == nil {
		t.Error("the server says that it ended in order")
	}
	if _, err := os.Stat(filepath.Join(s.dir(), refusedFile)); err != nil {
		t.Errorf("the next start does not know: %v", err)
	}
}

// TestRefusedIsReadAgain: what the disk refused to sync stands in the kernel's
// memory as if it had been written. The next start forgets that first.
func TestRefusedIsReadAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "jetstream", "x", "1.blk")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	inMemory := func() bool {
		t.Helper()
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		_, err = unix.Preadv2(int(f.Fd()), [][]byte{make([]byte, 100)}, 512<<10, unix.RWF_NOWAIT)
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
		return err == nil
	}
	c := newCommitter(ServerConfig{Dir: dir, Fatal: func(error) {}})
	if err := c.begin(false); err != nil || !inMemory() {
		t.Fatalf("after an ordinary start the file is in memory: %t, %v", inMemory(), err)
	}
	_ = c.fail(errors.New("input/output error"))
	if err := c.begin(false); err != nil || inMemory() {
		t.Errorf("after the disk refused the file is in memory: %t, %v", inMemory(), err)
	}
	if _, err := os.Stat(filepath.Join(dir, refusedFile)); err == nil {
		t.Error("each start from now on would read all again")
	}
}

// TestOneSyncForAll counts: writers that wait at once share a sync.
func TestOneSyncForAll(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	var syncs atomic.Int64
	hold := make(chan struct{})
	var holding atomic.Bool
	l := openIn(t, startServer(t, ServerConfig{sync: func(*os.File, bool) error {
		syncs.Add(1)
		if holding.Load() {
			<-hold
		}
		return nil
	}}))
	if _, err := l.Append(ctx, logtest.Record("first", 0)); err != nil {
		t.Fatal(err)
	}
	holding.Store(true)
	before := syncs.Load()
	var done []<-chan outcome
	for i := range 20 {
		done = append(done, appendLater(ctx, l, logtest.Record(fmt.Sprintf("o%d", i), 0)))
	}
	for state := uint64(0); state < 21; { // all are stored, one waits for the disk
		info, err := l.stream.Info(ctx)
		if err != nil {
			t.Fatal(err)
		}
		state = info.State.LastSeq
	}
	if last, err := l.Last(ctx); err != nil || last != 1 {
		t.Errorf("before the disk has them the log ends at %d, %v", last, err)
	}
	for _, d := range done {
		select {
		case o := <-d:
			t.Errorf("event %d was acknowledged before it was on disk, %v", o.seq, o.err)
		default:
		}
	}
	holding.Store(false)
	close(hold)
	var seqs []events.Seq
	for _, d := range done {
		o := <-d
		if o.err != nil {
			t.Error(o.err)
		}
		seqs = append(seqs, o.seq)
	}
	if n := syncs.Load() - before; n > 8 {
		t.Errorf("20 appends took %d syncs", n)
	}
	if last, err := l.Last(ctx); err != nil || last != slices.Max(seqs) {
		t.Errorf("the log ends at %d, %v", last, err)
	}
}

// TestStaleIndex has the server's index outlive the events that it tells of:
// their Seqs must be given again, for a gap would end every follower.
func TestStaleIndex(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	store, blocks := stopped(t, 10, 100, 120_000)
	path := blockPath(blocks, 1)
	info, err := os.Stat(path)
	if err == nil {
		err = os.Truncate(path, info.Size()/2)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(blocks, stateIndexFile)); err != nil {
		t.Fatalf("the test needs an index: %v", err)
	}
	l := openIn(t, startServer(t, ServerConfig{Dir: store}))
	last, err := l.Last(ctx)
	if err != nil || last < 3 || last > 7 {
		t.Fatalf("the log ends at %d, %v", last, err)
	}
	if _, err := logtest.Read(ctx, l, 0, last); err != nil {
		t.Fatal(err)
	}
}

// TestConflictIsDurable has two writers create one object on a disk that does
// not sync yet: the loser must not hear of the winner before its event is
// durable, for it would look for it and not find it.
func TestConflictIsDurable(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	var slow atomic.Bool
	syncs, goOn := make(chan struct{}, 100), make(chan struct{})
	s := startServer(t, ServerConfig{sync: func(f *os.File, folder bool) error {
		if slow.Load() {
			syncs <- struct{}{}
			<-goOn
		}
		return syncDisk(f, folder)
	}})
	l := openIn(t, s)
	slow.Store(true)
	winner := appendLater(ctx, l, logtest.Record("a", 0))
	<-syncs // the winner's event is stored
	loser := appendLater(ctx, l, logtest.Record("a", 0))
	select {
	case got := <-loser:
		close(goOn)
		t.Fatalf("the loser was told %v", got.err)
	case <-time.After(100 * time.Millisecond): // it has heard from the server long since
	}
	slow.Store(false)
	close(goOn)
	if got := <-loser; !errors.Is(got.err, events.ErrConflict) {
		t.Errorf("the loser was told %d, %v", got.seq, got.err)
	}
	if got := <-winner; got.err != nil {
		t.Error(got.err)
	}
}
