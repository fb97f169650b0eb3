package memory

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/rutterhq/rutter/events"
)

// state is what every object was at a Seq.
type state struct {
	at      events.Seq
	records []events.Record // in the order of their Seqs
}

// Save is events.Archive's.
func (l *Log) Save(ctx context.Context, at events.Seq, from iter.Seq[events.Record]) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("save the state at %d: %w", at, err)
	}
	s := state{at, slices.Collect(from)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if at == 0 || at > l.end() {
		return fmt.Errorf("save the state at %d: the log ends at %d", at, l.end())
	}
	for _, r := range s.records {
		if r.Seq > at || r.Seq == 0 {
			return fmt.Errorf("save the state at %d: it has event %d of %s", at, r.Seq, r.Key)
		}
	}
	i, found := slices.BinarySearchFunc(l.states, at, func(s state, at events.Seq) int { return int(s.at) - int(at) })
	if !found {
		l.states = slices.Insert(l.states, i, s)
	}
	return nil
}

// SaveNow keeps the state at the end, folded from what the log holds, and
// returns its Seq. It panics where the past does not reach back far enough.
func (l *Log) SaveNow() events.Seq {
	l.mu.Lock()
	end := l.end()
	base, _ := l.base(end)
	s := events.State{}
	for _, r := range base.records {
		s.Fold(r)
	}
	if base.at+1 < l.oldest {
		panic(fmt.Sprintf("the state at %d cannot be built: the past begins at %d", end, l.oldest))
	}
	for _, r := range l.slice(base.at, end) {
		s.Fold(r)
	}
	l.mu.Unlock()
	if err := l.Save(context.Background(), end, slices.Values(s.Records())); err != nil {
		panic(err)
	}
	return end
}

// Forget is events.Archive's. It never waits: all that are told of a horizon
// are told at once.
func (l *Log) Forget(ctx context.Context, h events.Seq) (events.Seq, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("forget what is before %d: %w", h, err)
	}
	l.mu.Lock()
	h = min(h, l.horizon)
	if n := len(l.states); n == 0 {
		h = 0
	} else {
		h = min(h, l.states[n-1].at)
	}
	l.mu.Unlock()
	l.Purge(h)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first, nil
}

// Purge is Forget with nothing held back: without a state that was kept, who
// follows from the beginning gets ErrGone. first must not lie beyond the next
// Seq. What is purged can still be read.
func (l *Log) Purge(first events.Seq) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if first > l.end()+1 {
		panic(fmt.Sprintf("purge up to %d of a log that ends at %d", first, l.end()))
	}
	if first > l.first {
		l.first = first
		l.wake()
	}
}

// Drop ends the past: what is before first can no longer be read, nor can
// states be built that need it. What Follow yields stays.
func (l *Log) Drop(first events.Seq) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if first = min(first, l.first); first <= l.oldest {
		return
	}
	l.records = slices.Clone(l.records[first-l.oldest:])
	l.oldest = first
	l.states = slices.DeleteFunc(l.states, func(s state) bool { return s.at+1 < first })
}

// base returns the newest state that is not newer than at, or the empty one if
// the past reaches back to the first event. l.mu is held.
func (l *Log) base(at events.Seq) (state, bool) {
	for _, s := range slices.Backward(l.states) {
		if s.at <= at && s.at+1 >= l.oldest {
			return s, true
		}
	}
	return state{}, l.oldest == 1
}

// begin returns the first event of the window. l.mu is held.
func (l *Log) begin() events.Seq {
	switch {
	case l.oldest == 1:
		return 1
	case len(l.states) > 0:
		return l.states[0].at + 1
	}
	return l.end() + 1
}

// Window is events.History's.
func (l *Log) Window(ctx context.Context) (events.Window, error) {
	if err := ctx.Err(); err != nil {
		return events.Window{}, fmt.Errorf("the window of history: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	w := events.Window{First: l.begin(), Last: l.end()}
	if w.First <= w.Last {
		w.Since = l.records[w.First-l.oldest].Time
	}
	for _, r := range l.records {
		w.Bytes += int64(len(r.Body))
	}
	return w, nil
}

// Read is events.History's.
func (l *Log) Read(ctx context.Context, after, to events.Seq) iter.Seq2[events.Record, error] {
	l.mu.Lock()
	defer l.mu.Unlock()
	if after+1 < l.oldest || to > l.end() {
		return events.Failed(fmt.Errorf("read %d to %d: history holds %d to %d: %w", after+1, to, l.oldest, l.end(), events.ErrGone))
	}
	if after >= to {
		return events.All(nil)
	}
	rs := l.slice(after, to)
	return func(yield func(events.Record, error) bool) {
		for _, r := range rs {
			if err := ctx.Err(); err != nil {
				yield(events.Record{}, fmt.Errorf("read event %d: %w", r.Seq, err))
				return
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}

// Snapshot is events.History's.
func (l *Log) Snapshot(ctx context.Context, at events.Seq) (events.Seq, iter.Seq2[events.Record, error], error) {
	if err := ctx.Err(); err != nil {
		return 0, nil, fmt.Errorf("the state at %d: %w", at, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.base(at)
	if !ok || at > l.end() {
		return 0, nil, fmt.Errorf("the state at %d: history holds %d to %d: %w", at, l.begin(), l.end(), events.ErrGone)
	}
	return s.at, events.All(s.records), nil
}

// SeqAt is events.History's. Times are those of the envelopes, whose clocks
// may differ: it is the last event that is not later.
func (l *Log) SeqAt(ctx context.Context, t time.Time) (events.Seq, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("the event at %s: %w", t, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	begin := l.begin()
	for i := len(l.records) - 1; i >= 0 && l.records[i].Seq+1 >= begin; i-- {
		if !l.records[i].Time.After(t) {
			return l.records[i].Seq, nil
		}
	}
	if l.oldest == 1 {
		return 0, nil
	}
	return 0, fmt.Errorf("the event at %s: history begins at %d: %w", t, begin, events.ErrGone)
}
