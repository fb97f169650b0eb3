package jetstream

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/s2"
	"github.com/minio/highwayhash"
)

// The server's files, as nats-server 2.15 writes them: a block is a run of
//
//	length(4) seq(8) time(8) subject length(2) subject [headers length(4) headers] body hash(8)
//
// in little endian. The length is that of the whole record; its highest bit
// says that there are headers. The hash is over all but the lengths.
const (
	blockSuffix    = ".blk"
	recordHead     = 22
	recordHash     = 8
	recordMax      = 32 << 20 // bytes
	hasHeaders     = 1 << 31  // of a length
	skippedTo      = 1 << 63  // of a seq: there is no message from the one before up to here
	tombstone      = 1 << 62  // of a seq: the message of this Seq was removed
	stateIndexFile = "index.db"
)

// blocksIn returns the numbers of a folder's blocks, ascending.
func blocksIn(dir string) ([]uint32, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []uint32
	for _, e := range entries {
		if n, ok := strings.CutSuffix(e.Name(), blockSuffix); ok {
			if index, err := strconv.ParseUint(n, 10, 32); err == nil {
				out = append(out, uint32(index))
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

// firstSeq returns the Seq of a block's first record, or 0 if it has none that
// can be read.
func firstSeq(path string) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var head [64]byte
	n, err := f.ReadAt(head[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if size := packedHead(head[:n]); size > 0 {
		n, _ = io.ReadFull(s2.NewReader(io.NewSectionReader(f, int64(size), math.MaxInt32)), head[:recordHead])
	}
	if n < recordHead {
		return 0, nil
	}
	return binary.LittleEndian.Uint64(head[4:]), nil
}

// packedHead returns the size of what precedes a compressed block, or 0 if it
// is none: "cmp", by which method, and how large it is unpacked.
func packedHead(b []byte) int {
	const s2Method = 1
	if len(b) < 5 || string(b[:3]) != "cmp" || b[3] != s2Method {
		return 0
	}
	_, n := binary.Uvarint(b[4:])
	return 4 + max(n, 0)
}

// readBlock returns a block's records; ok is false if they cannot be unpacked.
func readBlock(path string) (records []byte, ok bool, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, false, err
	}
	head := packedHead(b)
	if head == 0 {
		return b, true, nil
	}
	// The last record's hash is behind what is compressed.
	end := len(b) - recordHash
	if end < head {
		return nil, false, nil
	}
	records, err = io.ReadAll(s2.NewReader(bytes.NewReader(b[head:end])))
	if err != nil {
		return nil, false, nil
	}
	return append(records, b[end:]...), true, nil
}

// hasher is the hash that the server uses with the key of a file.
type hasher struct {
	h   *highwayhash.Digest64
	sum [recordHash]byte
}

func newHasher(key string) (*hasher, error) {
	k := sha256.Sum256([]byte(key))
	h, err := highwayhash.NewDigest64(k[:])
	if err != nil {
		return nil, fmt.Errorf("hash of %s: %w", key, err)
	}
	return &hasher{h: h}, nil
}

func (h *hasher) of(parts ...[]byte) []byte {
	h.h.Reset()
	for _, p := range parts {
		_, _ = h.h.Write(p) // it cannot fail
	}
	return h.h.Sum(h.sum[:0])
}

// walkBlock visits a block's records until visit returns false or what follows
// is no whole record.
func walkBlock(buf []byte, h *hasher, visit func(seq uint64, record []byte) bool) {
	for len(buf) >= recordHead {
		length := binary.LittleEndian.Uint32(buf)
		n := int(length &^ hasHeaders)
		body := recordHead + int(binary.LittleEndian.Uint16(buf[20:])) // behind the subject
		subject := buf[recordHead:min(body, len(buf))]
		if length&hasHeaders != 0 {
			body += 4
		}
		if n > recordMax || n > len(buf) || body > n-recordHash {
			return
		}
		sum := h.of(buf[4:20], subject, buf[body:n-recordHash])
		if !bytes.Equal(sum, buf[n-recordHash:n]) || !visit(binary.LittleEndian.Uint64(buf[4:]), buf[:n]) {
			return
		}
		buf = buf[n:]
	}
}
