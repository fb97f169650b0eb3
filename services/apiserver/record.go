package apiserver

import (
	"context"
	"encoding/json"

	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/kernel"
)

// span is the past after the one Seq, 0 for the beginning of what there is, up
// to the other, 0 for the end.
func (d *debug) span(ctx context.Context, from, to kernel.Seq) (history.Past, error) {
	if from == 0 {
		w, err := d.s.cfg.History.Window(ctx)
		if err != nil {
			return history.Past{}, err
		}
		from = max(w.First, 1) - 1
	}
	return history.Span(ctx, d.s.cfg.History, from, to)
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
