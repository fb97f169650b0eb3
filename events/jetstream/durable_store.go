package jetstream

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Files of ours in the server's store.
const (
	// cleanFile is there while no server runs, if the last one ended in order.
	cleanFile = "clean"
	// purgedFile holds the Seq before which the log was last purged, or was
	// about to be.
	purgedFile = "purged"
	// syncedSuffix ends the names of what is kept of a stream's configuration:
	// its last state that is known to be on disk.
	syncedSuffix = ".synced"
)

// The two files of a stream's configuration.
var metaFiles = []string{"meta.inf", "meta.sum"}

// SyncStore makes everything durable that the server has written so far: all
// streams, their configurations and folders. To be called after a stream was
// made, changed or purged, and before anything is said that relies on it.
func (s *Server) SyncStore() error {
	if s.commits.lazy {
		return nil
	}
	if err := s.commits.syncStore(); err != nil {
		return s.commits.fail(err)
	}
	return nil
}

func (c *committer) syncStore() error {
	if err := c.syncTree(c.dir); err != nil {
		return err
	}
	streams, err := streamDirs(c.dir)
	if err != nil {
		return err
	}
	for _, dir := range streams {
		if err := c.keepMeta(dir); err != nil {
			return err
		}
	}
	return nil
}

// keepMeta links a stream's configuration by names of our own. The server
// replaces its files by others that are not synced, and would not know the
// stream again if those were torn.
func (c *committer) keepMeta(dir string) error {
	if metaValid(dir, syncedSuffix) && sameMeta(dir) {
		return nil
	}
	for _, name := range metaFiles {
		next := filepath.Join(dir, name+syncedSuffix+".new")
		err := errors.Join(os.RemoveAll(next), os.Link(filepath.Join(dir, name), next))
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the stream is going, or not yet there
		}
		if err == nil {
			err = c.syncFile(next)
		}
		if err != nil {
			return err
		}
	}
	if !metaValid(dir, syncedSuffix+".new") {
		return nil // it changes just now: who changes it calls again
	}
	for _, name := range metaFiles {
		if err := os.Rename(filepath.Join(dir, name+syncedSuffix+".new"), filepath.Join(dir, name+syncedSuffix)); err != nil {
			return err
		}
	}
	return c.syncDir(dir)
}

// sameMeta tells whether what is kept is what the server uses.
func sameMeta(dir string) bool {
	for _, name := range metaFiles {
		a, aerr := os.Stat(filepath.Join(dir, name))
		b, berr := os.Stat(filepath.Join(dir, name+syncedSuffix))
		if aerr != nil || berr != nil || !os.SameFile(a, b) {
			return false
		}
	}
	return true
}

// metaValid tells whether a stream's configuration is whole.
func metaValid(dir, suffix string) bool {
	inf, err := os.ReadFile(filepath.Join(dir, metaFiles[0]+suffix))
	if err != nil {
		return false
	}
	sum, err := os.ReadFile(filepath.Join(dir, metaFiles[1]+suffix))
	if err != nil {
		return false
	}
	h, err := newHasher(filepath.Base(dir))
	return err == nil && hex.EncodeToString(h.of(inf)) == string(sum)
}

// mend undoes what a power cut can leave behind and the server would not take
// well. It looks at nothing that was synced: all that it removes was neither
// acknowledged nor shown.
func mend(store string) error {
	streams, err := streamDirs(store)
	if err != nil {
		return err
	}
	purged, err := readPurged(store)
	if err != nil {
		return err
	}
	for _, dir := range streams {
		if err := mendMeta(dir); err != nil {
			return err
		}
		// An index that outlived what it tells of would have the server skip
		// the Seqs that are lost.
		err := os.Remove(filepath.Join(dir, "msgs", stateIndexFile))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return err
		}
		if filepath.Base(dir) == StreamName {
			if err := mendBlocks(filepath.Join(dir, "msgs"), StreamName, purged); err != nil {
				return err
			}
		}
	}
	return nil
}

// mendMeta restores a stream's configuration as it was last synced, if the one
// there is is torn. A torn one that was never synced is removed: then the
// stream is made again, with what it holds.
func mendMeta(dir string) error {
	if metaValid(dir, "") {
		return nil
	}
	restore := metaValid(dir, syncedSuffix)
	for _, name := range metaFiles {
		path := filepath.Join(dir, name)
		err := os.Remove(path)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err == nil && restore {
			err = os.Link(path+syncedSuffix, path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// mendBlocks makes the log contiguous. What follows a hole was never durable,
// for a sync covers all before it. But a hole below purged is that of a purge,
// of which only a part became durable: there the rest is what goes.
func mendBlocks(dir, stream string, purged uint64) error {
	blocks, err := blocksIn(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	next := uint64(0) // the Seq that must come; 0: any
	for i, index := range blocks {
		path := blockPath(dir, index)
		buf, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		h, err := newHasher(stream + "-" + strconv.FormatUint(uint64(index), 10))
		if err != nil {
			return err
		}
		hole := uint64(0)
		end := walkBlock(buf, h, func(seq uint64, _ int) bool {
			switch {
			case seq&(tombstone|erasedRecord) != 0:
			case next == 0 || seq == next:
				next = seq + 1
			case seq > next:
				hole = seq
				return false
			}
			return true
		})
		switch {
		case hole == 0:
			// A torn end is cut off by the server.
		case hole <= purged:
			if err := removeBlocks(dir, blocks[:i]); err != nil {
				return err
			}
			return mendBlocks(dir, stream, purged)
		default:
			if err := os.Truncate(path, int64(end)); err != nil {
				return err
			}
			return removeBlocks(dir, blocks[i+1:])
		}
	}
	return nil
}

func removeBlocks(dir string, blocks []uint32) error {
	for _, index := range blocks {
		if err := os.Remove(blockPath(dir, index)); err != nil {
			return err
		}
	}
	return nil
}

func readPurged(store string) (uint64, error) {
	b, err := os.ReadFile(filepath.Join(store, purgedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", purgedFile, err)
	}
	return n, nil
}

// writeDurably replaces a file of the store. When it returns it is on disk.
func (c *committer) writeDurably(name, content string) error {
	path := filepath.Join(c.dir, name)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if err == nil {
		err = c.sync(f, false)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return err
	}
	return c.syncDir(c.dir)
}

// newCommitter returns the committer of a server that is to start.
func newCommitter(c ServerConfig) *committer {
	out := &committer{dir: c.Dir, lazy: c.Durability == Interval, sync: c.sync, failed: c.Fatal}
	if out.sync == nil {
		out.sync = syncDisk
	}
	if out.failed == nil {
		out.failed = func(err error) {
			fmt.Fprintln(os.Stderr, "fatal:", err)
			os.Exit(1) // a start reads what the disk really has
		}
	}
	return out
}

// begin readies the store for a server: mended, unless the last one ended in
// order, and no longer marked as clean.
func (c *committer) begin(grouped bool) error {
	marker := filepath.Join(c.dir, cleanFile)
	err := os.Remove(marker)
	if errors.Is(err, fs.ErrNotExist) {
		if err = nil; grouped {
			err = mend(c.dir)
		}
	}
	if err == nil {
		err = c.syncDir(c.dir)
	}
	return err
}

// end notes that the server ended in order, once all that it wrote is on disk.
func (c *committer) end() error {
	c.turn.Lock()
	defer c.turn.Unlock()
	if c.file != nil {
		_ = c.file.Close() // only read from
		c.file = nil
	}
	c.mu.Lock()
	err := c.err
	c.mu.Unlock()
	if err != nil || c.lazy {
		return err
	}
	if err := c.syncTree(c.dir); err != nil {
		return err
	}
	return c.writeDurably(cleanFile, "")
}
