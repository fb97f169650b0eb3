package jetstream

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// mendHead undoes what a power cut can leave where history's own limits had
// begun to remove what is old. The server removes block after block, and of the
// first that stays it writes the rest anew, which it syncs only after that took
// the place of what there was. Where a hole is left what precedes it goes too:
// it would have, soon.
func mendHead(dir, stream string) error {
	blocks, err := blocksIn(dir)
	if dir == "" || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for i := len(blocks) - 1; i > 0; i-- {
		if blocks[i] != blocks[i-1]+1 { // what was between them is removed
			if err := removeBlocks(dir, blocks[:i]); err != nil {
				return err
			}
			blocks = slices.Clone(blocks[i:])
			break
		}
	}
	if len(blocks) < 2 {
		return nil // a torn end is cut off by the server
	}
	path := blockPath(dir, blocks[0])
	buf, whole, err := readBlock(path)
	if err != nil {
		return err
	}
	if whole {
		h, err := newHasher(fmt.Sprintf("%s-%d", stream, blocks[0]))
		if err != nil {
			return err
		}
		n := 0
		walkBlock(buf, h, func(_ uint64, record []byte) bool {
			n += len(record)
			return true
		})
		whole = n == len(buf)
	}
	if whole {
		return nil
	}
	return removeBlocks(dir, blocks[:1])
}

// unpackEnds has no stream end with a compressed block.
//
// The server compresses a block once there is a next one. If that is gone, or
// holds no message yet, the compressed one is the last when it starts again, and
// it writes on in there: at the offset of what is unpacked, behind what it takes
// for the end of the compressed bytes. Nobody can unpack that again ("s2:
// unsupported input"), and all that the block held is lost.
func (c *committer) unpackEnds() error {
	streams, err := streamDirs(c.dir)
	if err != nil {
		return err
	}
	for _, dir := range streams {
		if err := c.unpackEnd(filepath.Join(dir, "msgs"), filepath.Base(dir)); err != nil {
			return fmt.Errorf("stream %s: %w", filepath.Base(dir), err)
		}
	}
	return nil
}

func (c *committer) unpackEnd(dir, stream string) error {
	blocks, err := blocksIn(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for i := len(blocks) - 1; i >= 0; i-- {
		path := blockPath(dir, blocks[i])
		packed, err := isPacked(path)
		if err != nil {
			return err
		}
		if !packed {
			empty, err := c.holdsNothing(path, fmt.Sprintf("%s-%d", stream, blocks[i]))
			if err != nil || !empty {
				return err
			}
			continue // the server removes it
		}
		records, whole, err := readBlock(path)
		if err != nil || !whole { // the server says so
			return err
		}
		return c.writeDurably(path, string(records))
	}
	return nil
}

// isPacked tells whether a block is compressed.
func isPacked(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var head [16]byte
	n, _ := f.ReadAt(head[:], 0) // less than that is no head
	return packedHead(head[:n]) > 0, nil
}

// holdsNothing tells whether a block does not even begin with a whole record.
func (c *committer) holdsNothing(path, key string) (bool, error) {
	buf, _, err := readBlock(path)
	if err != nil {
		return false, err
	}
	h, err := newHasher(key)
	if err != nil {
		return false, err
	}
	empty := true
	walkBlock(buf, h, func(uint64, []byte) bool {
		empty = false
		return false
	})
	return empty, nil
}
