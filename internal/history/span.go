package history

import (
	"context"
	"fmt"
	"iter"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
)

// Span is the Past of a log from the state at one Seq to the event at another,
// 0 for the last. The state is built now, the events are read whenever the
// records are ranged over. It is events.ErrGone for what is outside the window.
func Span(ctx context.Context, h events.History, from, to kernel.Seq) (Past, error) {
	if to == 0 {
		w, err := h.Window(ctx)
		if err != nil {
			return Past{}, fmt.Errorf("the window of the past: %w", err)
		}
		to = w.Last
	}
	state, err := stateAt(ctx, h, from)
	if err != nil {
		return Past{}, fmt.Errorf("the state at %d: %w", from, err)
	}
	return Past{From: from, Records: func(yield func(kernel.Record, error) bool) {
		for _, r := range state {
			if !yield(r, nil) {
				return
			}
		}
		if from >= to {
			return
		}
		for r, err := range h.Read(ctx, from, to) {
			if !yield(r, err) || err != nil {
				return
			}
		}
	}}, nil
}

// stateAt is the last Record of every object at a Seq, of tombstones above the
// horizon too, in the order of their Seqs: what a View at that Seq is folded
// from.
func stateAt(ctx context.Context, h events.History, at kernel.Seq) ([]kernel.Record, error) {
	if at == 0 {
		return nil, nil
	}
	base, kept, err := h.Snapshot(ctx, at)
	if err != nil {
		return nil, err
	}
	state := events.State{}
	for _, records := range []iter.Seq2[kernel.Record, error]{kept, h.Read(ctx, base, at)} {
		for r, err := range records {
			if err != nil {
				return nil, err
			}
			state.Fold(r)
		}
	}
	return state.Records(), nil
}
