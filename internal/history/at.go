package history

import (
	"context"
	"fmt"
	"iter"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
)

// foldBatch is how many records are folded at once: each Fold copies what it
// changes of the View.
const foldBatch = 1024

// At returns the View of the log as it was at a Seq: the nearest older state
// that was kept, and what happened since. It is events.ErrGone outside the
// window.
func At(ctx context.Context, h events.History, s kernel.Schema, at kernel.Seq) (*kernel.View, error) {
	base, kept, err := h.Snapshot(ctx, at)
	if err != nil {
		return nil, fmt.Errorf("the past at %d: %w", at, err)
	}
	v, err := foldAll(kernel.NewView(s), kept)
	if err != nil {
		return nil, fmt.Errorf("the past at %d: the state at %d: %w", at, base, err)
	}
	v, _ = v.Fold(kernel.Record{Seq: base})
	if v, err = foldAll(v, h.Read(ctx, base, at)); err != nil {
		return nil, fmt.Errorf("the past at %d: %w", at, err)
	}
	return v, nil
}

// foldAll folds records into the View, in batches.
func foldAll(v *kernel.View, records iter.Seq2[kernel.Record, error]) (*kernel.View, error) {
	batch := make([]kernel.Record, 0, foldBatch)
	for r, err := range records {
		if err != nil {
			return nil, err
		}
		if batch = append(batch, r); len(batch) == foldBatch {
			v, _ = v.Fold(batch...)
			batch = batch[:0]
		}
	}
	v, _ = v.Fold(batch...)
	return v, nil
}
