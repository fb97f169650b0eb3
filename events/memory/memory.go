// Package memory is the log in memory: the semantics of events.Log and
// events.Archive without a disk or a network, for tests, benchmarks and the
// simulator.
//
//	past ─────────────┐ first                    end
//	1 2 3 4 5 6 7 8 9 │ 10 11 12 13 14 15 16 17 18 │ next
//	└─ Read, Snapshot ┴─ Follow, Append ───────────┘
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
// must never wait uses Append, After and what history.go has.
type Log struct {
	mu      sync.Mutex // protects the following fields
	records []events.Record
	oldest  events.Seq // of records[0], or the next Seq if there is none
	first   events.Seq // the first that Follow yields; what is before is past
	horizon events.Seq // tombstones below are forgotten
	since   events.Seq // the event that says so
	last    map[events.Key]place
	states  []state       // that were kept, in the order of their Seqs
	grown   chan struct{} // closed at the next append or purge; nil while nobody waits

	talk talk
}

// place is an object's last event, a purged one too.
type place struct {
	seq  events.Seq
	tomb bool
}

var _ events.Archive = (*Log)(nil)

// New returns an empty log.
func New() *Log {
	return &Log{oldest: 1, first: 1, last: map[events.Key]place{}}
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
	if at := l.last[r.Key]; at.seq != r.Expect && !l.forgotten(at, r) {
		return 0, fmt.Errorf("append %s: expected event %d, it is at %d: %w", r.Key, r.Expect, at.seq, events.ErrConflict)
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
	l.last[r.Key] = place{r.Seq, r.Delete}
	if h, ok := events.HorizonOf(r); ok {
		l.horizon, l.since = max(l.horizon, h), r.Seq
	}
	l.wake()
	return r.Seq, nil
}

// forgotten tells whether the writer of r rightly expects nothing where there
// is a tombstone: it has read that it is forgotten. l.mu is held.
func (l *Log) forgotten(at place, r events.Record) bool {
	return r.Expect == 0 && at.tomb && at.seq < l.horizon && r.Seen >= l.since
}

// end returns the Seq of the last event. l.mu is held.
func (l *Log) end() events.Seq { return l.oldest + events.Seq(len(l.records)) - 1 }

// wake lets everybody who waits look again. l.mu is held.
func (l *Log) wake() {
	if l.grown != nil {
		close(l.grown)
		l.grown = nil
	}
}

// After returns all that Follow would yield after the Seq, without waiting;
// shared, not to be modified. It gives ErrGone for a position the log does not
// hold.
func (l *Log) After(after events.Seq) ([]events.Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.after(after)
}

// after is After. l.mu is held.
func (l *Log) after(after events.Seq) ([]events.Record, error) {
	if n := len(l.states); after == 0 && l.first > 1 && n > 0 && l.states[n-1].at+1 >= l.first {
		s := l.states[n-1]
		rs := append(slices.Clone(s.records), events.Record{Seq: s.at})
		return append(rs, l.slice(s.at, l.end())...), nil
	}
	if after+1 < l.first || after > l.end() {
		return nil, fmt.Errorf("follow after %d: the log holds %d to %d: %w", after, l.first, l.end(), events.ErrGone)
	}
	return l.slice(after, l.end()), nil
}

// slice returns the events after the one Seq up to the other, which are there.
// l.mu is held.
func (l *Log) slice(after, to events.Seq) []events.Record {
	return slices.Clip(l.records[after+1-l.oldest : to+1-l.oldest])
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
