package logs

import (
	"bytes"
	"errors"
	"time"
)

// Line is one entry of a log file.
type Line struct {
	Time    time.Time
	Stream  string // "stdout" or "stderr"
	Partial bool   // the program's line goes on in the next entry of the stream
	Text    []byte // without the newline; it aliases what was parsed
}

// ErrMalformed: a line of a log file that is not in the format.
var ErrMalformed = errors.New("not a line of a container log")

// Append adds the line to b in the format of the container runtime interface:
//
//	2026-11-23T18:00:00.000000000Z stdout F text
func (l Line) Append(b []byte) []byte {
	b = l.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000000Z07:00")
	b = append(b, ' ')
	b = append(b, l.Stream...)
	if l.Partial {
		b = append(b, " P "...)
	} else {
		b = append(b, " F "...)
	}
	b = append(b, l.Text...)
	return append(b, '\n')
}

// Parse reads what Append wrote; the trailing newline may be missing.
func Parse(b []byte) (Line, error) {
	b = bytes.TrimSuffix(b, []byte{'\n'})
	stamp, rest, ok := bytes.Cut(b, []byte{' '})
	if !ok {
		return Line{}, ErrMalformed
	}
	t, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return Line{}, ErrMalformed
	}
	stream, rest, ok := bytes.Cut(rest, []byte{' '})
	if !ok || (string(stream) != "stdout" && string(stream) != "stderr") {
		return Line{}, ErrMalformed
	}
	tag, text, ok := bytes.Cut(rest, []byte{' '})
	if !ok || len(tag) == 0 {
		return Line{}, ErrMalformed
	}
	return Line{Time: t, Stream: string(stream), Partial: tag[0] == 'P', Text: text}, nil
}
