package jetstream

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/rutterhq/rutter/events"
)

// stateCodec names how a kept state is written:
//
//	zstd( stateMagic, { uvarint length, Record as bytes }…, uvarint 0, uvarint count )
const stateCodec = "records-1+zstd"

const stateMagic = "rutter state 1\n"

// maxStateRecord bounds one Record as bytes, so that a torn length is noticed.
const maxStateRecord = maxMessage + 64<<10

// encodeState returns the records as bytes, and how many they are.
func encodeState(at events.Seq, state iter.Seq[events.Record]) ([]byte, int, error) {
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, 0, fmt.Errorf("compress: %w", err)
	}
	w := bufio.NewWriterSize(z, 1<<20)
	w.WriteString(stateMagic) // errors of a bufio.Writer stay until Flush
	var head, buf []byte
	n, last := 0, events.Seq(0)
	for r := range state {
		if r.Seq <= last || r.Seq > at {
			return nil, 0, fmt.Errorf("event %d of %s follows %d: a state holds its records in the order of their seqs", r.Seq, r.Key, last)
		}
		last = r.Seq
		buf = r.AppendBinary(buf[:0])
		head = binary.AppendUvarint(head[:0], uint64(len(buf)))
		w.Write(head)
		w.Write(buf)
		n++
	}
	w.Write(binary.AppendUvarint([]byte{0}, uint64(n)))
	if err := errors.Join(w.Flush(), z.Close()); err != nil {
		return nil, 0, fmt.Errorf("compress: %w", err)
	}
	return out.Bytes(), n, nil
}

// decodeState yields the records that encodeState wrote.
func decodeState(data []byte) iter.Seq2[events.Record, error] {
	return func(yield func(events.Record, error) bool) {
		z, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1))
		if err != nil {
			yield(events.Record{}, fmt.Errorf("unpack a state: %w", err))
			return
		}
		defer z.Close()
		if err := decodeRecords(bufio.NewReaderSize(z, 1<<20), yield); err != nil {
			yield(events.Record{}, fmt.Errorf("unpack a state: %w", err))
		}
	}
}

// decodeRecords yields until the end, or until nobody wants more.
func decodeRecords(r *bufio.Reader, yield func(events.Record, error) bool) error {
	magic := make([]byte, len(stateMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != stateMagic {
		return fmt.Errorf("it begins with %q: %w", magic, errors.Join(err, errUnreadable))
	}
	var buf []byte
	for n := uint64(0); ; n++ {
		size, err := binary.ReadUvarint(r)
		if err != nil {
			return err
		}
		if size == 0 {
			if count, err := binary.ReadUvarint(r); err != nil || count != n {
				return fmt.Errorf("%d records of %d: %w", n, count, errors.Join(err, errUnreadable))
			}
			return nil
		}
		if size > maxStateRecord {
			return fmt.Errorf("record %d of %d bytes: %w", n, size, errUnreadable)
		}
		buf = slices.Grow(buf[:0], int(size))[:size]
		if _, err := io.ReadFull(r, buf); err != nil {
			return err
		}
		rec, err := events.ReadBinary(buf)
		if err != nil {
			return fmt.Errorf("record %d: %w: %w", n, errUnreadable, err)
		}
		rec.Body = slices.Clip(bytes.Clone(rec.Body)) // buf is used again
		if !yield(rec, nil) {
			return nil
		}
	}
}
