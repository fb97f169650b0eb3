// Package zlog builds the one logger of a process and names the fields that
// all log lines share, so that a search for a field finds every service's.
//
// Levels: error, a human must act; warn, it healed itself but is odd; info,
// start, stop, lost, a few a minute; debug, one line per event and proposal.
package zlog

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/rs/zerolog"
)

// Names of fields: Svc is the service, Node the node, Key an object, Seq a
// position in the log, Dur a duration.
const (
	Svc  = "svc"
	Node = "node"
	Key  = "key"
	Seq  = "seq"
	Dur  = "dur"
)

// New returns a logger that writes to w, as coloured text where w is a
// terminal and as JSON elsewhere. level is "debug", "info", "warn" or "error".
func New(w *os.File, level string) (zerolog.Logger, error) {
	l, err := zerolog.ParseLevel(level)
	if err != nil {
		return zerolog.Nop(), fmt.Errorf("log level %q: expected debug, info, warn or error", level)
	}
	zerolog.TimeFieldFormat = time.RFC3339Nano
	zerolog.DurationFieldUnit = time.Millisecond
	var out io.Writer = w
	if Terminal(w) {
		out = zerolog.ConsoleWriter{Out: w, TimeFormat: "15:04:05.000"}
	}
	return zerolog.New(out).Level(l).With().Timestamp().Logger(), nil
}

// Terminal tells whether f is one.
func Terminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
