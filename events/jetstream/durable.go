package jetstream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Durability says what an acknowledged write survives.
type Durability string

const (
	// Fsync: every acknowledged write is on disk, and so is every event that
	// anybody is shown. A server without clients outside its process syncs for
	// all who wait at once; one that listens syncs every message by itself.
	Fsync Durability = "fsync"
	// Interval syncs once per syncInterval. A power cut, or a crash of the
	// machine, loses acknowledged writes, and gives their Seqs to others.
	Interval Durability = "interval"
)

// ParseDurability reads the value of a flag.
func ParseDurability(s string) (Durability, error) {
	if d := Durability(s); d == Fsync || d == Interval {
		return d, nil
	}
	return "", fmt.Errorf("%q is neither %s nor %s", s, Fsync, Interval)
}

// committer raises the durable Seq of a log whose writers and readers are all
// in this process. Of those who wait, one sync is for all that have come until
// it begins. It has a goroutine of its own: a sync cannot be given up, but who
// waits for one can go.
//
// The server has written a message to its block's file before it acknowledges
// or delivers it. So who knows of a Seq finds it in the file, and a sync of
// every block from the last synced one on makes it durable.
type committer struct {
	dir    string // the server's store
	lazy   bool   // nothing is synced: what is known counts as durable
	disk   syncer
	slow   time.Duration // after which a sync is talked of
	log    func(level, message string)
	failed func(error) // is told of the first error, and does not return in production

	durable atomic.Uint64 // D: everything up to here is on disk
	known   atomic.Uint64 // the last Seq that an answer or a delivery told of

	kick  chan struct{} // holds a token if there may be a round to sync for
	stop  chan struct{} // closed to end run
	ended chan struct{} // closed when run has ended

	turn  sync.Mutex // held by who syncs; protects the following fields
	file  *os.File   // the newest block that was synced; nil: none yet
	index uint32     // its number

	store sync.Mutex // held by who syncs all of the store

	mu   sync.Mutex // protects the following fields
	next *round
	err  error // after an error nothing becomes durable any more
}

// round is a sync that has not yet begun.
type round struct {
	done chan struct{} // closed when it is over
	err  error
}

// slowSync is how long a write or a sync may take before the log says so.
const slowSync = 5 * time.Second

// errEnded says that nobody syncs any more.
var errEnded = errors.New("the log's server has ended")

// syncer syncs one file or folder. Tests watch it, and have it fail.
type syncer func(f *os.File, folder bool) error

// syncDisk is the syncer of production.
func syncDisk(f *os.File, folder bool) error {
	for {
		var err error
		if folder {
			err = unix.Fsync(int(f.Fd()))
		} else {
			err = unix.Fdatasync(int(f.Fd())) // the length too, and what is needed to find the bytes
		}
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// wait returns when everything up to the Seq, which the server has told of, is
// durable.
func (c *committer) wait(ctx context.Context, seq uint64) error {
	if c.durable.Load() >= seq {
		return nil
	}
	raise(&c.known, seq)
	if c.lazy {
		raise(&c.durable, seq)
		return nil
	}
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return c.err
	}
	if c.next == nil {
		c.next = &round{done: make(chan struct{})}
	}
	r := c.next
	c.mu.Unlock()
	select {
	case c.kick <- struct{}{}:
	default: // one is enough
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	case <-c.ended:
	}
	if isClosed(r.done) {
		return r.err
	}
	return errEnded
}

// run syncs for all who wait, until stop is closed.
func (c *committer) run() {
	defer close(c.ended)
	for {
		select {
		case <-c.kick:
			c.syncRound()
		case <-c.stop:
			c.syncRound()
			return
		}
	}
}

// watch syncs a byte now and then, until stop is closed. So a disk that stands
// still is noticed, and named, where the server syncs by itself, and while it
// cannot even write what would then be synced.
func (c *committer) watch(f *os.File) {
	tick := time.NewTicker(c.slow)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			err := c.timed(func() error {
				if _, err := f.WriteAt([]byte{'\n'}, 0); err != nil {
					return err
				}
				return c.disk(f, false)
			})
			if err != nil { // whoever needs the disk finds that out, and ends
				c.log("error", fmt.Sprintf("the disk of %s: %v", c.dir, err))
			}
		case <-c.stop:
			return
		}
	}
}

// syncRound syncs for all that have come until it begins.
func (c *committer) syncRound() {
	c.turn.Lock()
	defer c.turn.Unlock()
	c.mu.Lock()
	r := c.next
	c.next = nil
	err := c.err
	c.mu.Unlock()
	if r == nil {
		return
	}
	// Whoever is in this round has raised known before.
	if upTo := c.known.Load(); err == nil && c.durable.Load() < upTo {
		if err = c.commit(); err == nil {
			raise(&c.durable, upTo)
		} else {
			err = c.fail(fmt.Errorf("events up to %d: %w", upTo, err))
		}
	}
	r.err = err
	close(r.done)
}

func (c *committer) sync(f *os.File, folder bool) error {
	return c.timed(func() error { return c.disk(f, folder) })
}

// timed does something to the disk, and says so if that takes long: until it is
// done nothing is acknowledged, and whoever wonders why must find the reason.
func (c *committer) timed(do func() error) error {
	var late atomic.Bool
	begin := time.Now()
	timer := time.AfterFunc(c.slow, func() {
		late.Store(true)
		c.log("error", fmt.Sprintf("the disk of %s has not finished a write for %s: until it does nothing is acknowledged", c.dir, c.slow))
	})
	err := do()
	if !timer.Stop() && late.Load() {
		c.log("warn", fmt.Sprintf("the disk of %s has finished a write after %s", c.dir, time.Since(begin).Round(time.Millisecond)))
	}
	return err
}

// fail notes an error of the disk. What the kernel could not write it may have
// dropped, and a second sync would say that all is well: there is no way on.
func (c *committer) fail(err error) error {
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.err = fmt.Errorf("the log cannot be written to disk: %w", err)
	}
	err = c.err
	c.mu.Unlock()
	if first {
		c.noteRefused()
		c.failed(err)
	}
	return err
}

// commit syncs every block from the last synced one on, and their folder if
// there is a new one. c.turn must be held.
func (c *committer) commit() error {
	dir, err := c.blocksDir()
	if err != nil {
		return err
	}
	if c.file == nil || !c.current(dir) {
		return c.commitAll(dir)
	}
	for grown := false; ; grown = true {
		// Looked for before the sync: once there is a next block nothing is
		// written to this one any more.
		next, err := os.Open(blockPath(dir, c.index+1))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if serr := c.sync(c.file, false); serr != nil {
			return serr
		}
		if err != nil {
			if grown {
				return c.syncDir(dir)
			}
			return nil
		}
		c.keep(next, c.index+1)
	}
}

// current tells whether the file that was synced last is still the block of
// its number. A purge may have removed or replaced it.
func (c *committer) current(dir string) bool {
	has, err := c.file.Stat()
	if err != nil {
		return false
	}
	is, err := os.Stat(blockPath(dir, c.index))
	return err == nil && os.SameFile(has, is)
}

// commitAll syncs all blocks there are.
func (c *committer) commitAll(dir string) error {
	blocks, err := blocksIn(dir)
	if err != nil {
		return err
	}
	for _, index := range blocks {
		f, err := os.Open(blockPath(dir, index))
		if errors.Is(err, fs.ErrNotExist) {
			continue // purged meanwhile
		}
		if err != nil {
			return err
		}
		c.keep(f, index)
		if err := c.sync(f, false); err != nil {
			return err
		}
	}
	if err := c.syncDir(dir); err != nil || c.file == nil {
		return err
	}
	if _, err := os.Stat(blockPath(dir, c.index+1)); err == nil {
		return c.commit() // it came while the others were synced
	}
	return nil
}

// keep makes f the newest block. It stays open, so that no error of writing it
// back is missed.
func (c *committer) keep(f *os.File, index uint32) {
	if c.file != nil {
		_ = c.file.Close() // only read from
	}
	c.file, c.index = f, index
}

// syncDir syncs the entries of a folder. One that is gone needs it no more.
func (c *committer) syncDir(dir string) error {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	return c.sync(d, true)
}

// syncTree syncs a folder and all that is in it. What vanishes meanwhile was
// not needed any more.
func (c *committer) syncTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.IsDir() {
			err = c.syncTree(path)
		} else if e.Type().IsRegular() {
			err = c.syncFile(path)
		}
		if err != nil {
			return err
		}
	}
	return c.syncDir(dir)
}

func (c *committer) syncFile(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return c.sync(f, false)
}

// blocksDir returns the folder of the log's blocks.
func (c *committer) blocksDir() (string, error) {
	streams, err := streamDirs(c.dir)
	if err != nil {
		return "", err
	}
	for _, dir := range streams {
		if filepath.Base(dir) == StreamName {
			return filepath.Join(dir, "msgs"), nil
		}
	}
	return "", fmt.Errorf("%s has no stream %s", c.dir, StreamName)
}

// streamDirs returns the folders of all streams in a server's store.
func streamDirs(store string) ([]string, error) {
	root := filepath.Join(store, "jetstream")
	accounts, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []string
	for _, a := range accounts {
		dir := filepath.Join(root, a.Name(), "streams")
		streams, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, s := range streams {
			if s.IsDir() {
				out = append(out, filepath.Join(dir, s.Name()))
			}
		}
	}
	return out, nil
}

// blockPath returns where a block of a stream is.
func blockPath(dir string, index uint32) string {
	return filepath.Join(dir, strconv.FormatUint(uint64(index), 10)+blockSuffix)
}
