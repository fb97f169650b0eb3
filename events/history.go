package events

import (
	"context"
	"iter"
	"time"
)

// HorizonKey is the log's own object. Its event says up to where tombstones
// are forgotten: whoever folds it drops those below, so that every View at one
// Seq stays equal when the log's beginning is purged.
var HorizonKey = Key{Resource: Resource{Group: "rutter", Plural: "horizon"}, Name: "ev"}

// Horizon is the body of an event of HorizonKey.
type Horizon struct {
	Seq Seq `json:"horizon"` // tombstones below are forgotten, and events below may be purged
}

// Window says which part of a log's past can still be read.
type Window struct {
	First Seq       // the oldest event that can be read; states from First-1 on can be built
	Last  Seq       // the newest durable event
	Since time.Time // when First happened; zero in an empty log
	Bytes int64     // what the past takes on disk
}

// History is the past of a log: what Follow no longer yields can still be read
// here, for as long as its owner keeps it.
type History interface {
	// Window tells what can be read now.
	Window(ctx context.Context) (Window, error)

	// Read yields every event after the one Seq up to the other, once each and
	// in order, and ends. It yields ErrGone for what is outside the window.
	Read(ctx context.Context, after, to Seq) iter.Seq2[Record, error]

	// Snapshot finds the newest state that was kept and is not newer than at:
	// the Seq that it was taken at, and the last Record of every object then,
	// of tombstones above the horizon too, in the order of their Seqs.
	// Seq 0 without records means that Read reaches back to the first event.
	// It is ErrGone if at is older than all that can be built.
	Snapshot(ctx context.Context, at Seq) (Seq, iter.Seq2[Record, error], error)

	// SeqAt returns the Seq of the last event at or before a time, 0 if there
	// was none yet, ErrGone before the window.
	SeqAt(ctx context.Context, t time.Time) (Seq, error)
}

// Archive is a History that its keeper writes, beside the log that it is of.
type Archive interface {
	Log
	History

	// Save keeps the state at a Seq, whose Records come in the order of their
	// Seqs, and returns when it is durable and was read back. A state that is
	// there already is not kept twice.
	Save(ctx context.Context, at Seq, state iter.Seq[Record]) error

	// Forget purges the events below h from the log, not from its History,
	// once everybody who writes knows of a horizon that is not below h. It
	// purges less, or nothing, if the newest state that was kept, or what
	// History holds, does not allow h yet. It returns the log's new first Seq.
	Forget(ctx context.Context, h Seq) (first Seq, err error)
}

// KeyReader is a History that finds the events of one object without reading
// those of all others.
type KeyReader interface {
	// ReadKey is History's Read for one object.
	ReadKey(ctx context.Context, k Key, after, to Seq) iter.Seq2[Record, error]
}
