package jetstream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events"
)

// rewriteMin is the size in bytes up to which the server does not rewrite a
// block that lost its head: not at once (2 MiB), nor later, when it looks every
// two minutes for blocks more than half of which is gone. The log's blocks have
// 4 or 8 MB before the next one is begun.
const rewriteMin = 1 << 20

// Purge forgets the log's events before first. While it runs nothing becomes
// durable. On a server in this process it may leave a block's worth of them:
// the server would write the rest of that block anew without syncing it, and a
// power cut could lose what was acknowledged.
func (l *Log) Purge(ctx context.Context, first events.Seq) error {
	if l.commits == nil {
		err := l.stream.Purge(ctx, js.WithPurgeSequence(uint64(first)))
		if l.server != nil && err == nil {
			err = l.server.SyncStore()
		}
		if err != nil {
			return fmt.Errorf("purge before %d: %w", first, err)
		}
		return nil
	}
	c := l.commits
	c.turn.Lock()
	defer c.turn.Unlock()
	before, err := c.purgeable(min(uint64(first), c.durable.Load()+1))
	if err != nil {
		return fmt.Errorf("purge before %d: %w", first, err)
	}
	if before <= 1 || before <= l.first.Load() {
		return nil
	}
	if !c.lazy && before <= c.durable.Load() { // something stays, to go on from
		if err := c.writeDurably(filepath.Join(c.dir, purgedFile), strconv.FormatUint(before, 10)); err != nil {
			return c.fail(fmt.Errorf("before a purge: %w", err))
		}
	}
	err = l.stream.Purge(ctx, js.WithPurgeSequence(before))
	if serr := l.server.SyncStore(); serr != nil || err != nil {
		return fmt.Errorf("purge before %d: %w", before, errors.Join(err, serr))
	}
	_, err = l.readState(ctx)
	return err
}

// purgeable returns the last Seq, at most first, before which all can be
// removed without a block being rewritten.
func (c *committer) purgeable(first uint64) (uint64, error) {
	dir, err := c.blocksDir()
	if err != nil {
		return 0, err
	}
	blocks, err := blocksIn(dir)
	if err != nil {
		return 0, err
	}
	begin, size := uint64(0), int64(0) // of the block that holds first
	for _, index := range blocks {
		path := blockPath(dir, index)
		seq, err := firstSeq(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
		if seq == 0 || seq&(tombstone|skippedTo) != 0 || seq > first {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return 0, err
		}
		begin, size = seq, info.Size()
	}
	if begin == 0 || size <= rewriteMin {
		return first, nil
	}
	return begin, nil
}
