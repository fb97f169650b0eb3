package history

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/klauspost/compress/zstd"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
)

const (
	// Version is the format of recordings that is written and read.
	Version = 2
	// MaxLine bounds one line of a log stream or a recording, in bytes: a Record
	// at its largest, its envelope, and JSON's escapes.
	MaxLine = 8 << 20
	// window is how far back, in bytes, a recording is compressed against itself.
	// Every event holds its whole object, so most of it stood there before, often
	// megabytes ago. It also bounds what reading one takes.
	window = 8 << 20
)

// Heading is the first line of a recording, which is a file of JSON lines,
// compressed by zstd (RFC 8878):
//
//	{"recording":2,"cluster":"5f0c…","build":"v0.3.0","from":120,"to":4711}
//	{"key":"pods/d/a","seq":17,…}    the state at from: the last Record of every object, of
//	{"key":"pods/d/b","seq":120,…}   tombstones too, in the order of their Seqs; none if from is 0
//	{"key":"pods/d/c","seq":121,…}   every event after from,
//	{"key":"pods/d/a","seq":4711,…}  up to to
//
// A line is what events.Record.MarshalJSON writes. Who writes recordings puts
// hashes in the place of Secrets' values.
type Heading struct {
	Recording int    `json:"recording"` // the version of the format: 2
	Cluster   string `json:"cluster"`   // uid; uids of objects derive from it
	Build     string `json:"build,omitempty"`
	// From is the Seq of the state that the recording begins with, To that of its
	// last event.
	From kernel.Seq `json:"from"`
	To   kernel.Seq `json:"to"`
}

// Past is a part of a log that can be replayed.
type Past struct {
	// From is the Seq of the state at its beginning, 0 for an empty log's.
	From kernel.Seq
	// Records are the state's, up to From, and then each event after From. They
	// can be ranged over again, from their beginning.
	Records iter.Seq2[kernel.Record, error]
}

// PastOf is the Past of a whole log that is in memory.
func PastOf(records iter.Seq[kernel.Record]) Past {
	return Past{Records: func(yield func(kernel.Record, error) bool) {
		for r := range records {
			if !yield(r, nil) {
				return
			}
		}
	}}
}

// order checks that records are what a recording must hold.
type order struct {
	Heading
	last kernel.Seq
}

// next tells what is wrong with a record that follows those before.
func (o *order) next(r *kernel.Record) error {
	switch {
	case r.Key == (kernel.Key{}):
		return fmt.Errorf("the line after event %d is no record", o.last)
	case r.Seq <= o.From && r.Seq <= o.last:
		return fmt.Errorf("the state at %d is out of order: event %d follows %d", o.From, r.Seq, o.last)
	case r.Seq > o.From && r.Seq != max(o.last, o.From)+1:
		return fmt.Errorf("event %d is missing", max(o.last, o.From)+1)
	case r.Seq > o.To:
		return fmt.Errorf("event %d is beyond the end, which is said to be %d", r.Seq, o.To)
	}
	o.last = r.Seq
	return nil
}

// end tells what is missing at the end.
func (o *order) end() error {
	if o.To > o.From && o.last < o.To {
		return fmt.Errorf("event %d is missing: it ends before its end", max(o.last, o.From)+1)
	}
	return nil
}

// Recorder writes a recording.
type Recorder struct {
	order
	zipped *zstd.Encoder
}

// NewRecorder begins a recording. It reads nothing of h but what Heading says
// of the log; the version is its own.
func NewRecorder(w io.Writer, h Heading) (*Recorder, error) {
	h.Recording = Version
	zipped, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithWindowSize(window),
		zstd.WithEncoderConcurrency(1)) // no goroutines
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	r := &Recorder{order: order{Heading: h}, zipped: zipped}
	return r, r.line(h)
}

func (r *Recorder) line(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if rec, ok := v.(kernel.Record); ok { // Marshal escapes what MarshalJSON did not
		if b, err = rec.MarshalJSON(); err != nil {
			return err
		}
	}
	_, err = r.zipped.Write(append(b, '\n'))
	return err
}

// Add writes the next Record: those of the state, then the events.
func (r *Recorder) Add(rec kernel.Record) error {
	if err := r.next(&rec); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return r.line(rec)
}

// Close ends the recording. It fails if events are missing.
func (r *Recorder) Close() error {
	if err := errors.Join(r.end(), r.zipped.Close()); err != nil {
		return fmt.Errorf("end a recording: %w", err)
	}
	return nil
}

// Recording is a recording that is read.
type Recording struct {
	Heading
	from io.ReadSeeker
}

// OpenRecording reads the heading of a recording. The records are read when
// they are asked for, and never all held at once.
func OpenRecording(from io.ReadSeeker) (*Recording, error) {
	r := &Recording{from: from}
	err := r.lines(func(lines *bufio.Scanner) error {
		h, err := ReadHeading(lines)
		r.Heading = h
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// NewLines splits a log stream or a decompressed recording into its lines.
func NewLines(from io.Reader) *bufio.Scanner {
	lines := bufio.NewScanner(from)
	lines.Buffer(make([]byte, 0, 64<<10), MaxLine)
	return lines
}

// ReadHeading reads the first line of a decompressed recording.
func ReadHeading(lines *bufio.Scanner) (Heading, error) {
	var h Heading
	if !lines.Scan() {
		return h, fmt.Errorf("it is no recording: %w", firstOf(lines.Err(), io.ErrUnexpectedEOF))
	}
	if err := json.Unmarshal(lines.Bytes(), &h); err != nil || h.Recording == 0 {
		return h, errors.New("it is no recording: it does not begin with a heading")
	}
	if h.Recording != Version {
		return h, fmt.Errorf("it is a recording of version %d; this build reads version %d", h.Recording, Version)
	}
	return h, nil
}

// firstOf is the first error that there is.
func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// lines decompresses the recording from its beginning.
func (r *Recording) lines(read func(*bufio.Scanner) error) error {
	if _, err := r.from.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read a recording again: %w", err)
	}
	plain, err := zstd.NewReader(bufio.NewReader(r.from), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(window))
	if err != nil {
		return fmt.Errorf("it is no recording: %w", err)
	}
	defer plain.Close()
	return read(NewLines(plain))
}

// Past is what the recording holds.
func (r *Recording) Past() Past {
	return Past{From: r.From, Records: func(yield func(kernel.Record, error) bool) {
		stopped := false
		err := r.lines(func(lines *bufio.Scanner) error {
			h, err := ReadHeading(lines)
			if err != nil {
				return err
			}
			return EachRecord(lines, h, func(_ []byte, rec kernel.Record) error {
				if stopped = !yield(rec, nil); stopped {
					return io.EOF
				}
				return nil
			})
		})
		if err != nil && !stopped {
			yield(kernel.Record{}, err)
		}
	}}
}

// EachRecord reads the records that follow a heading, and checks that none is
// missing. The line is valid until each returns.
func EachRecord(lines *bufio.Scanner, h Heading, each func(line []byte, r kernel.Record) error) error {
	o := order{Heading: h}
	for lines.Scan() {
		var rec events.Record
		if err := rec.UnmarshalJSON(lines.Bytes()); err != nil { // by its own name: a line is then scanned twice, not four times
			return fmt.Errorf("the record after event %d: %w", o.last, err)
		}
		if err := o.next(&rec); err != nil {
			return err
		}
		if err := each(bytes.TrimSpace(lines.Bytes()), rec); err != nil {
			return err
		}
	}
	return firstOf(lines.Err(), o.end())
}
