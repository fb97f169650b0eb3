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
// that was kept, and what happened since. A View that is held already serves as
// that state if it is newer than those that were kept, and of now, the newest
// View, records are shared that were the same then; both may be nil. It is
// events.ErrGone outside the window.
func At(ctx context.Context, h events.History, s kernel.Schema, at kernel.Seq, held, now *kernel.View) (*kernel.View, error) {
	base, kept, err := h.Snapshot(ctx, at)
	v := held
	if held == nil || err == nil && base > held.Seq() {
		if err != nil {
			return nil, fmt.Errorf("the past at %d: %w", at, err)
		}
		if v, err = foldAll(kernel.NewView(s), kept, now); err != nil {
			return nil, fmt.Errorf("the past at %d: the state at %d: %w", at, base, err)
		}
		v, _ = v.Fold(kernel.Record{Seq: base})
	}
	if v, err = foldAll(v, h.Read(ctx, v.Seq(), at), now); err != nil {
		return nil, fmt.Errorf("the past at %d: %w", at, err)
	}
	return v, nil
}

// foldAll folds records into the View, in batches. Those of objects that now
// are as they were then share their bytes with that View.
func foldAll(v *kernel.View, records iter.Seq2[kernel.Record, error], now *kernel.View) (*kernel.View, error) {
	batch := make([]kernel.Record, 0, foldBatch)
	for r, err := range records {
		if err != nil {
			return nil, err
		}
		if now != nil {
			if e := now.Entry(r.Key); e != nil && e.Seq == r.Seq {
				r = e.Record
			}
		}
		if batch = append(batch, r); len(batch) == foldBatch {
			v, _ = v.Fold(batch...)
			batch = batch[:0]
		}
	}
	v, _ = v.Fold(batch...)
	return v, nil
}
