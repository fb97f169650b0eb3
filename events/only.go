package events

import (
	"context"
	"iter"
	"slices"
)

// Only returns the log as somebody sees it who follows these resources and the
// horizon: every other event is a bookmark there, and of a state that was kept
// there are only their Records. nil means everything.
func Only(log Log, resources []Resource) Log {
	if resources == nil {
		return log
	}
	return filtered{log, append(slices.Clone(resources), HorizonKey.Resource)}
}

type filtered struct {
	Log
	only []Resource
}

// Follow implements Log.
func (f filtered) Follow(ctx context.Context, after Seq) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		at := Position{Seq: after}
		for r, err := range f.Log.Follow(ctx, after) {
			at.Pass(r)
			if !slices.Contains(f.only, r.Key.Resource) {
				if at.Part {
					continue // a bookmark would say that the state is whole
				}
				r = Record{Seq: r.Seq}
			}
			if !yield(r, err) {
				return
			}
		}
	}
}
