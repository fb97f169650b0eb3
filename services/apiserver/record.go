package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"time"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/kernel"
)

// past is where the log's past is read: the log itself, if it keeps one.
func (d *debug) past() events.History {
	if h, ok := d.s.cfg.Log.(events.History); ok {
		return h
	}
	return whole{d.s.cfg.Log}
}

// span is the past after the one Seq, 0 for the beginning of what there is, up
// to the other, 0 for the end.
func (d *debug) span(ctx context.Context, from, to kernel.Seq) (history.Past, error) {
	if from == 0 {
		w, err := d.past().Window(ctx)
		if err != nil {
			return history.Past{}, err
		}
		from = max(w.First, 1) - 1
	}
	return history.Span(ctx, d.past(), from, to)
}

// record streams a recording as JSON lines, not compressed: its heading, the
// state at ?from (default: the beginning of what there is), and the events after
// it, up to ?to. Secrets' data comes as hashes. It needs the right to get this
// very path: it reads everything.
func (d *debug) record(r *request) error {
	if err := r.authorize(Attributes{User: r.user, Verb: "get", Path: r.URL.Path}); err != nil {
		return err
	}
	from, to, err := d.rangeOf(r)
	if err != nil {
		return err
	}
	if from > to {
		return badRequest("from: %d is after to, which is %d", from, to)
	}
	past, err := d.span(r.Context(), from, to)
	if err != nil {
		return err
	}
	r.w.Header().Set("Content-Type", "application/x-ndjson")
	lines := json.NewEncoder(r.w)
	if err := lines.Encode(history.Heading{Recording: history.Version, Cluster: d.s.cfg.Schema.Cluster, Build: d.s.cfg.Version, From: past.From, To: max(past.From, to)}); err != nil {
		return nil // the reader is gone
	}
	for rec, err := range past.Records {
		if err != nil {
			// The heading is out; who reads misses the end, and says so.
			d.s.cfg.Logger.Warn().Err(err).Msg("a recording was not finished")
			return nil
		}
		b, err := redacted(rec).MarshalJSON()
		if err != nil {
			return err
		}
		if _, err := r.w.Write(append(b, '\n')); err != nil {
			return nil
		}
	}
	return nil
}

// whole is the past of a log that holds everything since its first event.
type whole struct{ events.Log }

// Window implements events.History.
func (l whole) Window(ctx context.Context) (events.Window, error) {
	last, err := l.Last(ctx)
	return events.Window{First: min(1, last), Last: last}, err
}

// Read implements events.History.
func (l whole) Read(ctx context.Context, after, to events.Seq) iter.Seq2[events.Record, error] {
	return func(yield func(events.Record, error) bool) {
		if after >= to {
			return
		}
		for r, err := range l.Follow(ctx, after) {
			if !yield(r, err) || err != nil || r.Seq >= to {
				return
			}
		}
	}
}

// Snapshot implements events.History: there are none.
func (whole) Snapshot(context.Context, events.Seq) (events.Seq, iter.Seq2[events.Record, error], error) {
	return 0, events.All(nil), nil
}

// SeqAt implements events.History.
func (l whole) SeqAt(ctx context.Context, t time.Time) (events.Seq, error) {
	last, err := l.Last(ctx)
	if err != nil {
		return 0, err
	}
	var seq events.Seq
	for r, err := range l.Read(ctx, 0, last) {
		if err != nil {
			return 0, fmt.Errorf("find %s: %w", t, err)
		}
		if !r.Time.After(t) {
			seq = r.Seq
		}
	}
	return seq, nil
}
