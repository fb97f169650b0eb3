// Package memory is the log in memory: the semantics of events.Log without a
// disk or a network, for tests, benchmarks and the simulator.
//
// What it does not do: survive the process. There durable and appended are
// the same moment.
package memory

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/rutterhq/rutter/events"
)

// Log is a log in memory. It is safe for concurrent use; a single thread that
// must never wait uses Append, After and Purge.
type Log struct {
	mu      sync.Mutex // protects the following fields
	records []events.Record
	first   events.Seq                // of records[0], or the next Seq if there is none
	last    map[events.Key]events.Seq // of every object, purged ones too
	grown   chan struct{}             // closed at the next append or purge; nil while nobody waits
}

var _ events.Log = (*Log)(nil)

// New returns an empty log.
func New() *Log {
	return &Log{first: 1, last: map[events.Key]events.Seq{}}
}

// Append is events.Log's. It never waits, and it copies what r refers to.
func (l *Log) Append(ctx context.Context, r events.Record) (events.Seq, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("append %s: %w", r.Key, err)
	}
	if err := r.Check(); err != nil {
		return 0, fmt.Errorf("append: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.Expect < l.first && r.Seen+1 < l.first {
		// The writer has not read all that was purged: its idea of the
		// object's last event may be older than the purge.
		return 0, fmt.Errorf("append %s: seen %d, the log begins at %d: %w", r.Key, r.Seen, l.first, events.ErrGone)
	}
	if at := l.last[r.Key]; at != r.Expect {
		return 0, fmt.Errorf("append %s: expected event %d, it is at %d: %w", r.Key, r.Expect, at, events.ErrConflict)
	}
	r.Seq = l.end() + 1
	if r.ID == "" {
		r.ID = fmt.Sprintf("memory-%d", r.Seq)
	}
	r.Time = r.Time.UTC().Round(0) // as it would come back from a disk
	r.Body = slices.Clone(r.Body)
	r.Cause = slices.Clone(r.Cause)
	if r.Decision != nil {
		d := *r.Decision
		r.Decision = &d
	}
	l.records = append(l.records, r)
	l.last[r.Key] = r.Seq
	l.wake()
	return r.Seq, nil
}

// end returns the Seq of the last event. l.mu is held.
func (l *Log) end() events.Seq { return l.first + events.Seq(len(l.records)) - 1 }

// wake lets everybody who waits look again. l.mu is held.
func (l *Log) wake() {
	if l.grown != nil {
		close(l.grown)
		l.grown = nil
	}
}

// After returns all events after the Seq there are, without waiting; shared,
// not to be modified. It gives ErrGone for a position the log does not hold.
func (l *Log) After(after events.Seq) ([]events.Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.after(after)
}

// after is After. l.mu is held.
func (l *Log) after(after events.Seq) ([]events.Record, error) {
	if after+1 < l.first || after > l.end() {
		return nil, fmt.Errorf("follow after %d: the log holds %d to %d: %w", after, l.first, l.end(), events.ErrGone)
	}
	return slices.Clip(l.records[after+1-l.first:]), nil
}

// await is After, and a channel that is closed when there may be more.
func (l *Log) await(after events.Seq) ([]events.Record, <-chan struct{}, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rs, err := l.after(after)
	if l.grown == nil {
		l.grown = make(chan struct{})
	}
	return rs, l.grown, err
}

// Follow is events.Log's. When ctx ends it yields ctx's error and stops.
func (l *Log) Follow(ctx context.Context, after events.Seq) iter.Seq2[events.Record, error] {
	return func(yield func(events.Record, error) bool) {
		for {
			rs, grown, err := l.await(after)
			if err != nil {
				yield(events.Record{}, err)
				return
			}
			for _, r := range rs {
				if ctx.Err() != nil {
					break
				}
				if !yield(r, nil) {
					return
				}
				after = r.Seq
			}
			select {
			case <-grown:
			case <-ctx.Done():
				yield(events.Record{}, fmt.Errorf("follow after %d: %w", after, ctx.Err()))
				return
			}
		}
	}
}

// Last is events.Log's. It never waits.
func (l *Log) Last(ctx context.Context) (events.Seq, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("last: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end(), nil
}

// Purge forgets all events before first, which must not lie beyond the next
// Seq. Who follows from before it gets ErrGone.
func (l *Log) Purge(first events.Seq) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if first > l.end()+1 {
		panic(fmt.Sprintf("purge up to %d of a log that ends at %d", first, l.end()))
	}
	if first <= l.first {
		return
	}
	l.records = slices.Clone(l.records[first-l.first:])
	l.first = first
	l.wake()
}
