package jetstream

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
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

// syncStream does it for one stream.
func (c *committer) syncStream(name string) error {
	c.store.Lock()
	defer c.store.Unlock()
	streams, err := streamDirs(c.dir)
	if err != nil {
		return err
	}
	for _, dir := range streams {
		if filepath.Base(dir) != name {
			continue
		}
		err := c.syncTree(dir)
		if err == nil {
			err = c.keepMeta(dir)
		}
		if err == nil {
			err = c.syncDir(filepath.Dir(dir))
		}
		if err != nil {
			return c.fail(err)
		}
		return nil
	}
	return fmt.Errorf("%s has no stream %s", c.dir, name)
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
	out := &committer{
		dir: c.Dir, lazy: c.Durability == Interval, disk: c.sync, slow: c.slow, log: c.Log, failed: c.Fatal,
		kick: make(chan struct{}, 1), stop: make(chan struct{}), ended: make(chan struct{}),
	}
	if out.disk == nil {
		out.disk = syncDisk
	}
	if out.slow == 0 {
		out.slow = slowSync
	}
	if out.log == nil {
		out.log = func(string, string) {}
	}
	if out.failed == nil {
		out.failed = func(err error) {
			fmt.Fprintln(os.Stderr, "fatal:", err)
			os.Exit(1) // readAgain: a start reads what the disk really has
		}
	}
	return out
}

// begin readies the store for a server: mended, unless the last one ended in
// order, and no longer marked as clean.
func (c *committer) begin(grouped bool) error {
	if err := c.readAgain(); err != nil {
		return err
	}
	marker := filepath.Join(c.dir, cleanFile)
	err := os.Remove(marker)
	if errors.Is(err, fs.ErrNotExist) {
		if err = nil; grouped {
			err = c.mend()
		}
	}
	if err == nil {
		err = c.unpackEnds()
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
