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
	// keptMeta is, in a stream's folder, its configuration as it was last synced.
	keptMeta = "meta.kept"
)

// The server's files of a stream's configuration.
const (
	metaInf = "meta.inf"
	metaSum = "meta.sum"
)

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
	c.store.Lock()
	defer c.store.Unlock()
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

// keepMeta keeps a stream's configuration in a file of our own, as it is on
// disk now. The server replaces its two files by others that are not synced,
// and would not know the stream again if those were torn.
func (c *committer) keepMeta(dir string) error {
	m, ok := readMeta(dir)
	if !ok {
		return nil // it changes just now, or the stream is going: who changes it calls again
	}
	if has, ok := readKeptMeta(dir); ok && has == m {
		return nil
	}
	return c.writeDurably(filepath.Join(dir, keptMeta), m.sum+"\n"+m.inf)
}

// meta is a stream's configuration, and its hash in hex.
type meta struct{ inf, sum string }

func (m meta) valid(dir string) bool {
	h, err := newHasher(filepath.Base(dir))
	return err == nil && hex.EncodeToString(h.of([]byte(m.inf))) == m.sum
}

// readMeta returns the server's files, if they are whole.
func readMeta(dir string) (meta, bool) {
	inf, ierr := os.ReadFile(filepath.Join(dir, metaInf))
	sum, serr := os.ReadFile(filepath.Join(dir, metaSum))
	m := meta{inf: string(inf), sum: string(sum)}
	return m, ierr == nil && serr == nil && m.valid(dir)
}

// readKeptMeta returns what keepMeta kept.
func readKeptMeta(dir string) (meta, bool) {
	b, err := os.ReadFile(filepath.Join(dir, keptMeta))
	sum, inf, _ := strings.Cut(string(b), "\n")
	m := meta{inf: inf, sum: sum}
	return m, err == nil && m.valid(dir)
}

// mend undoes what a power cut can leave behind and the server would not take
// well. It looks at nothing that was synced: all that it removes was neither
// acknowledged nor shown.
func (c *committer) mend() error {
	streams, err := streamDirs(c.dir)
	if err != nil {
		return err
	}
	purged, err := readPurged(c.dir)
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
			if err := c.mendBlocks(filepath.Join(dir, "msgs"), StreamName, purged); err != nil {
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
	if _, ok := readMeta(dir); ok {
		return nil
	}
	kept, ok := readKeptMeta(dir)
	for name, content := range map[string]string{metaInf: kept.inf, metaSum: kept.sum} {
		path := filepath.Join(dir, name)
		err := os.Remove(path)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			err = nil
			if ok {
				err = os.WriteFile(path, []byte(content), 0o600)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// mendBlocks makes the log contiguous. What follows a hole was never durable,
// for a sync covers all before it. A purge, of which any part may have become
// durable, is done again, so that it leaves no hole.
func (c *committer) mendBlocks(dir, stream string, purged uint64) error {
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
		var kept []byte
		dropped, hole := false, false
		walkBlock(buf, h, func(seq uint64, record []byte) bool {
			message := seq&(tombstone|erasedRecord) == 0
			switch plain := seq &^ (tombstone | erasedRecord); {
			case message && plain < purged, !message && plain+1 < purged:
				dropped = true
				return true
			case message && next != 0 && plain > next:
				hole = true
				return false
			case message:
				next = plain + 1
			}
			kept = append(kept, record...)
			return true
		})
		if hole || dropped {
			if err := c.replaceBlock(path, kept); err != nil {
				return err
			}
		}
		if hole {
			return removeBlocks(dir, blocks[i+1:])
		}
	}
	return nil // a torn end is cut off by the server
}

// replaceBlock makes a block what was kept of it.
func (c *committer) replaceBlock(path string, kept []byte) error {
	if len(kept) == 0 {
		return os.Remove(path)
	}
	return c.writeDurably(path, string(kept))
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

// writeDurably replaces a file. When it returns it is on disk.
func (c *committer) writeDurably(path, content string) error {
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
	return c.syncDir(filepath.Dir(path))
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
			err = c.mend()
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
	return c.writeDurably(filepath.Join(c.dir, cleanFile), "")
}
