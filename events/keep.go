package events

import (
	"context"
	"time"
)

// Keep says how much of a log's past is kept. What exceeds either bound is
// forgotten, the oldest first.
type Keep struct {
	Age   time.Duration `json:"age"`   // 0: no bound
	Bytes int64         `json:"bytes"` // of history on disk, without the log itself; 0: no bound of its own
}

// Saved is a state that was kept.
type Saved struct {
	Seq   Seq       `json:"seq"`
	Time  time.Time `json:"time"` // when it was kept
	Bytes int64     `json:"bytes"`
}

// Usage says what a log and its past take of the disk. Between 90 and 100 % of
// Budget nothing new is to be created; at 100 % Append gives ErrFull.
type Usage struct {
	Used   int64   `json:"used"`   // bytes on disk of the log, its history and all states kept
	Budget int64   `json:"budget"` // bytes that Used may reach; 0: no bound
	Keep   Keep    `json:"keep"`
	Saved  []Saved `json:"saved"` // oldest first
}

// Keeper is a log that bounds what it takes of a disk.
type Keeper interface {
	// Usage is what is true now; it is cheap enough to be asked every second.
	Usage(ctx context.Context) (Usage, error)

	// SetKeep replaces what is kept, durably, for all who use the log. What
	// exceeds the new bounds is forgotten soon after.
	SetKeep(ctx context.Context, k Keep) error
}

// Copier is a log of which each of several servers has a copy of its own.
type Copier interface {
	// Whole is an error that says what this server's copy lacks of what there was
	// when that was first asked; nil: nothing. Until then it must not be the only
	// one that is left.
	Whole(ctx context.Context) error
}
