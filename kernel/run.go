package kernel

import (
	"context"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events"
)

// appendWindow bounds the appends that one Run has in flight. More only adds
// latency (measured on JetStream).
const appendWindow = 128

// Run lets the deciders decide until ctx ends: it drives a Core with a log, a
// Mirror of that log that somebody else runs, and the clock. build names the
// program, instance this run of it, unique among all writers of the log.
func Run(ctx context.Context, log events.Log, m *Mirror, lg zerolog.Logger, build, instance string, deciders ...Decider) error {
	core := NewCore(m.schema, build, instance, deciders...)
	g, ctx := errgroup.WithContext(ctx)
	steps := make(chan Step) // unbuffered: the Mirror's ring is the buffer
	g.Go(func() error { return m.sendAll(ctx, steps) })
	g.Go(func() error {
		for {
			appendAll(ctx, log, core, lg)
			var alarm <-chan time.Time
			if next := core.Next(); !next.IsZero() && core.idle() {
				alarm = time.After(time.Until(next))
			}
			select {
			case step := <-steps:
				if step.Fresh {
					core.Reset()
				}
				core.Apply(step.View, step.Events...)
			case <-alarm:
			case <-ctx.Done():
				return nil
			}
		}
	})
	return g.Wait()
}

// sendAll is Follow into a channel.
func (m *Mirror) sendAll(ctx context.Context, to chan<- Step) error {
	for step := range m.Follow(ctx) {
		send(ctx, to, step)
	}
	return nil
}

// now is the clock of deciders: without a monotonic part, and in UTC, so that
// it is the same after a round trip through the log.
func now() time.Time { return time.Now().Round(0).UTC() }

// appendAll appends what the Core is ready to, many records at once.
func appendAll(ctx context.Context, log events.Log, core *Core, lg zerolog.Logger) {
	ps := core.Ready(now())
	seqs, errs := make([]Seq, len(ps)), make([]error, len(ps))
	var g errgroup.Group
	g.SetLimit(appendWindow)
	for i, p := range ps {
		g.Go(func() error {
			seqs[i], errs[i] = log.Append(ctx, p.Record)
			return nil
		})
	}
	_ = g.Wait() // how each ended is in seqs and errs
	for i, p := range ps {
		core.Done(p, seqs[i], errs[i], now())
		lg.Debug().Err(errs[i]).Str("actor", p.Source).Stringer("key", p.Key).Str("event", p.Type).
			Uint64("seq", uint64(seqs[i])).Uint64("seen", uint64(p.Seen)).Msg("proposed")
	}
}
