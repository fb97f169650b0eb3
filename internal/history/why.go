package history

import (
	"context"
	"fmt"
	"slices"

	"github.com/rutterhq/rutter/kernel"
)

// maxLinks bounds the events that one Why looks at.
const maxLinks = 256

// Link is an event and what caused it.
type Link struct {
	Record kernel.Record `json:"record"`
	Causes []*Link       `json:"causes,omitempty"`
	// Outside: the chain from here ends at somebody who is not a part of
	// Rutter; such causes come first. An event without an actor is one that is
	// not known any more: it is no end.
	Outside bool `json:"outside"`
	// Shown: the event stands elsewhere in the answer, with its causes.
	Shown bool `json:"shown,omitempty"`
}

// Why follows the causes of the event at seq back to events that have none.
// fetch reads one event.
func Why(ctx context.Context, fetch func(context.Context, kernel.Seq) (kernel.Record, error), seq kernel.Seq) (*Link, error) {
	w := &why{fetch: fetch, seen: map[kernel.Seq]*Link{}}
	return w.link(ctx, seq)
}

type why struct {
	fetch func(context.Context, kernel.Seq) (kernel.Record, error)
	seen  map[kernel.Seq]*Link
}

func (w *why) link(ctx context.Context, seq kernel.Seq) (*Link, error) {
	if l := w.seen[seq]; l != nil {
		return &Link{Record: l.Record, Outside: l.Outside, Shown: true}, nil
	}
	r, err := w.fetch(ctx, seq)
	if err != nil {
		return nil, fmt.Errorf("read event %d: %w", seq, err)
	}
	l := &Link{Record: r, Outside: len(r.Cause) == 0 && r.Source != ""}
	w.seen[seq] = l
	for _, c := range slices.Backward(r.Cause) { // the newest is most often the reason
		if len(w.seen) >= maxLinks || c >= seq {
			break
		}
		cause, err := w.link(ctx, c)
		if err != nil {
			return nil, err
		}
		l.Causes = append(l.Causes, cause)
		l.Outside = l.Outside || cause.Outside
	}
	slices.SortStableFunc(l.Causes, func(a, b *Link) int {
		switch {
		case a.Outside == b.Outside:
			return 0
		case a.Outside:
			return -1
		}
		return 1
	})
	return l, nil
}
