package jetstream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"path/filepath"

	"github.com/rutterhq/rutter/events"
)

// A follower reads the log at whichever server its consumer was placed on. What
// this server's own copy holds is only in its own files, and is read there: NATS
// lets nobody ask a server that does not lead for a message of EV.

// storedFlags mark what is no event: what was skipped or removed.
const storedFlags = skippedTo | tombstone

// Stored hashes what this server's own copy of the log holds up to a Seq, as
// many events as asked for, or all if fewer were left by a purge: those after
// the Seq that it returns. Equal copies have equal sums. A copy that lacks an
// event says which one, in place of a sum. The sum is "" if this process does not
// run the server, or the copy has not come so far before ctx ended.
func (l *Log) Stored(ctx context.Context, n int, to events.Seq) (after events.Seq, sum string, err error) {
	if l.server == nil {
		return 0, "", nil
	}
	for {
		// What was purged meanwhile, or is not written out yet, is asked for again.
		state, ok := l.server.copyOf(StreamName)
		reached := ok && state.LastSeq >= uint64(to)
		if reached && state.FirstSeq > uint64(to) {
			return 0, "", nil
		}
		var lacks events.Seq
		if reached {
			after = max(to-min(to, events.Seq(n)), events.Seq(max(state.FirstSeq, 1))-1)
			if sum, lacks, err = l.server.stored(after, to); err != nil {
				return 0, "", fmt.Errorf("this server's copy of %d to %d: %w", after+1, to, err)
			}
			if lacks == 0 {
				return after, sum, nil
			}
		}
		if wait(ctx, retryPause) == nil {
			continue
		}
		if !reached {
			return 0, "", nil
		}
		return after, fmt.Sprintf("event %d cannot be read", lacks), nil
	}
}

// stored hashes events of this server's own copy of the log; lacks is the first
// of them that is not there.
func (s *Server) stored(after, to events.Seq) (sum string, lacks events.Seq, err error) {
	streams, err := streamDirs(s.dir())
	if err != nil {
		return "", 0, err
	}
	for _, dir := range streams {
		if filepath.Base(dir) != StreamName {
			continue
		}
		r := storedRange{next: uint64(after) + 1, to: uint64(to), hash: sha256.New()}
		if err := r.read(filepath.Join(dir, "msgs")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", 0, err
		}
		if r.next <= r.to {
			return "", events.Seq(r.next), nil
		}
		return hex.EncodeToString(r.hash.Sum(nil)), 0, nil
	}
	return "", after + 1, nil
}

// storedRange hashes messages in the order of their Seqs.
type storedRange struct {
	next, to uint64
	hash     hash.Hash
}

// read hashes what a folder of blocks holds of the range. The server may write
// to the last block and remove the first ones meanwhile.
func (r *storedRange) read(dir string) error {
	blocks, err := blocksIn(dir)
	if err != nil {
		return err
	}
	from := len(blocks) - 1
	for ; from > 0; from-- {
		first, err := firstSeq(blockPath(dir, blocks[from]))
		if err != nil {
			return err
		}
		// A mark of what was removed may be of a Seq long before the block's.
		if first != 0 && first&storedFlags == 0 && first <= r.next {
			break
		}
	}
	for i := max(from, 0); i < len(blocks) && r.next <= r.to; i++ {
		buf, whole, err := readBlock(blockPath(dir, blocks[i]))
		if err != nil || !whole {
			return err
		}
		h, err := newHasher(fmt.Sprintf("%s-%d", StreamName, blocks[i]))
		if err != nil {
			return err
		}
		walkBlock(buf, h, r.add)
	}
	return nil
}

// add hashes a message but for its checksum, which depends on the file that it
// is in: servers may cut the same log into different files.
func (r *storedRange) add(seq uint64, record []byte) bool {
	if seq == r.next && r.next <= r.to {
		r.hash.Write(record[:len(record)-recordHash])
		r.next++
	}
	return r.next <= r.to
}
