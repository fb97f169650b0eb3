package jetstream

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"

	"github.com/nats-io/nats.go"

	"github.com/rutterhq/rutter/events"
)

// Who asks one of several servers for the log is answered by any of them: a
// consumer is placed on whichever copy the servers like. What one server really
// has is only in its own files.

// Stored is an event as one server has it in its own files.
type Stored struct {
	events.Record
	Stream string // StreamName or HistName
	// Sum is over all that both streams store of the event: its Seq, when it was
	// written, its subject, its headers and its body.
	Sum [sha256.Size]byte
}

// ReadStore yields the events in the folder of a server that does not run:
// those of history, and then those of the log, each in order. What was purged is
// left out, though its bytes may still be there. A byte that is not as it was written is an error, and
// so is a hole: nothing of that stream follows.
func ReadStore(dir string) iter.Seq2[Stored, error] {
	return func(yield func(Stored, error) bool) {
		if err := readStore(dir, yield); err != nil {
			yield(Stored{}, fmt.Errorf("log store: %w", err))
		}
	}
}

func readStore(dir string, yield func(Stored, error) bool) error {
	lock, err := lockDir(dir) // who runs would change the files meanwhile
	if err != nil {
		return err
	}
	defer lock.Close()
	streams, err := streamDirs(dir)
	if err != nil {
		return err
	}
	for _, name := range []string{HistName, StreamName} {
		for _, stream := range streams {
			if filepath.Base(stream) != name {
				continue
			}
			if more, err := readStream(filepath.Join(stream, "msgs"), name, yield); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// readStream yields the events of one stream's folder. more is false if who
// reads has enough.
func readStream(dir, stream string, yield func(Stored, error) bool) (more bool, err error) {
	blocks, err := blocksIn(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	gone, last := uint64(0), uint64(0)
	err = eachRecord(dir, stream, blocks, func(_ string, seq uint64, _ []byte) error {
		if seq&tombstone != 0 { // nothing is removed but from the beginning
			gone = max(gone, seq&^(tombstone|skippedTo))
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	err = eachRecord(dir, stream, blocks, func(path string, seq uint64, record []byte) error {
		switch skipped := seq&skippedTo != 0; {
		case seq&tombstone != 0, !skipped && seq <= gone:
			return nil
		case skipped && last == 0: // what was before was never here
			last = seq &^ skippedTo
			return nil
		}
		if seq &^= skippedTo; last != 0 && seq != last+1 {
			return fmt.Errorf("%s: event %d follows %d", path, seq, last)
		}
		e, err := storedEvent(stream, seq, record)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if last = seq; !yield(e, nil) {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return false, nil
	}
	return true, err
}

// errEnough says that who reads wants nothing more.
var errEnough = errors.New("enough was read")

// eachRecord visits all records of a stream, until there is an error.
func eachRecord(dir, stream string, blocks []uint32, visit func(path string, seq uint64, record []byte) error) error {
	last := uint64(0)
	for _, index := range blocks {
		path := blockPath(dir, index)
		buf, whole, err := readBlock(path)
		if err == nil && !whole {
			err = fmt.Errorf("%s: it cannot be unpacked", path)
		}
		if err != nil {
			return err
		}
		h, err := newHasher(fmt.Sprintf("%s-%d", stream, index))
		if err != nil {
			return err
		}
		read := 0
		walkBlock(buf, h, func(seq uint64, record []byte) bool {
			if seq&tombstone == 0 {
				last = seq &^ skippedTo
			}
			read += len(record)
			err = visit(path, seq, record)
			return err == nil
		})
		if err != nil {
			return err
		}
		if read < len(buf) {
			return fmt.Errorf("%s: what follows event %d, from byte %d on, is not what was written", path, last, read)
		}
	}
	return nil
}

// expectedHeaders begin the headers that say what a write was to find. A mirror
// leaves them out.
const expectedHeaders = "Nats-Expected-"

// storedEvent reads one record of a block, whose hash was found right.
func storedEvent(stream string, seq uint64, record []byte) (Stored, error) {
	head := recordHead + int(binary.LittleEndian.Uint16(record[20:]))
	subject, body := record[recordHead:head], record[head:len(record)-recordHash]
	e := Stored{Stream: stream}
	sum := sha256.New()
	sum.Write(record[4:head]) // the length is another without the headers that a mirror leaves out
	var headers nats.Header
	if binary.LittleEndian.Uint32(record)&hasHeaders != 0 {
		size := int(binary.LittleEndian.Uint32(body))
		if body = body[4:]; size > len(body) {
			return e, fmt.Errorf("event %d: %w", seq, errUnreadable)
		}
		for line := range bytes.Lines(body[:size]) {
			if !bytes.HasPrefix(line, []byte(expectedHeaders)) {
				sum.Write(line)
			}
		}
		var err error
		if headers, err = nats.DecodeHeadersMsg(body[:size]); err != nil {
			return e, fmt.Errorf("event %d: %w: %w", seq, errUnreadable, err)
		}
		body = body[size:]
	}
	sum.Write(body) // an empty line precedes it
	sum.Sum(e.Sum[:0])
	r, err := events.FromHeaders(headers)
	if err == nil {
		r.Key, err = events.KeyOfSubject(string(subject))
	}
	if err != nil {
		return e, fmt.Errorf("event %d: %w: %w", seq, errUnreadable, err)
	}
	r.Seq, r.Body = events.Seq(seq), body
	e.Record = r
	return e, nil
}
