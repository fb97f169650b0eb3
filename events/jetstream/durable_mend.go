package jetstream

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

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
	blocks := map[string]string{} // folders by stream
	for _, dir := range streams {
		if err := mendMeta(dir); err != nil {
			return err
		}
		msgs := filepath.Join(dir, "msgs")
		// An index that outlived what it tells of would have the server skip
		// the Seqs that are lost.
		err := os.Remove(filepath.Join(msgs, stateIndexFile))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return err
		}
		blocks[filepath.Base(dir)] = msgs
	}
	has, err := c.mendBlocks(blocks[StreamName], StreamName, mending{purged: purged, last: math.MaxUint64})
	if err != nil {
		return err
	}
	if has.last == 0 && purged > 0 {
		return fmt.Errorf("stream %s is empty, and was purged only before %d: its files are missing", StreamName, purged)
	}
	if err := mendHead(blocks[HistName], HistName); err != nil {
		return err
	}
	// History may hold events that the log has lost, and will give their Seqs
	// to others. What was purged from the log was synced there before.
	_, err = c.mendBlocks(blocks[HistName], HistName, mending{trusted: has.first, last: has.last})
	return err
}

// mending says what is right in a stream.
type mending struct {
	purged  uint64 // messages before this Seq are to go
	trusted uint64 // blocks that end before this Seq are whole
	last    uint64 // messages after this Seq are to go
}

// span are the first and the last Seq of a stream; 0: there is none.
type span struct{ first, last uint64 }

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

// mendBlocks makes a stream contiguous. What follows a hole was never durable,
// for a sync covers all before it. A purge, of which any part may have become
// durable, is done again, so that it leaves no hole.
func (c *committer) mendBlocks(dir, stream string, m mending) (span, error) {
	var has span
	blocks, err := blocksIn(dir)
	if dir == "" || errors.Is(err, fs.ErrNotExist) {
		return has, nil
	}
	if err != nil {
		return has, err
	}
	for i, index := range blocks {
		if i+1 < len(blocks) {
			next, err := firstSeq(blockPath(dir, blocks[i+1]))
			if err != nil {
				return has, err
			}
			if next != 0 && next <= m.trusted {
				continue
			}
		}
		torn, err := c.mendBlock(blockPath(dir, index), fmt.Sprintf("%s-%d", stream, index), m, &has)
		if err != nil {
			return has, err
		}
		if torn {
			return has, removeBlocks(dir, blocks[i+1:])
		}
	}
	return has, nil
}

// mendBlock does it for one block, and tells whether nothing that follows can
// stay. has are the messages before, and then also those of the block.
func (c *committer) mendBlock(path, key string, m mending, has *span) (torn bool, err error) {
	buf, whole, err := readBlock(path)
	if err != nil {
		return false, err
	}
	h, err := newHasher(key)
	if err != nil {
		return false, err
	}
	var kept []byte
	dropped, torn := false, !whole
	walkBlock(buf, h, func(seq uint64, record []byte) bool {
		gone := seq&tombstone != 0    // tells of another message
		skipped := seq&skippedTo != 0 // stands for all that are missing before it
		switch seq &^= tombstone | skippedTo; {
		case !gone && seq < m.purged, gone && seq+1 < m.purged:
			dropped = true
			return true
		case gone:
		case seq > m.last, !skipped && has.last != 0 && seq > has.last+1:
			torn = true
			return false
		default:
			if has.last = seq; has.first == 0 && !skipped {
				has.first = seq
			}
		}
		kept = append(kept, record...)
		return true
	})
	if !torn && !dropped {
		return false, nil // a torn end is cut off by the server
	}
	return torn, c.replaceBlock(path, kept)
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
