package kernel

import (
	"context"
	"errors"
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
	select {
	case <-m.Ready():
	case <-ctx.Done():
		return nil
	}
	core := NewCore(m.schema, build, instance, deciders...)
	for ctx.Err() == nil {
		v := m.View()
		core.Start(v)
		if err := drive(ctx, log, m, v, core, lg); err != nil && !errors.Is(err, events.ErrGone) {
			return err
		}
	}
	return nil
}

// drive runs a started Core until ctx ends or the Mirror starts anew.
func drive(ctx context.Context, log events.Log, m *Mirror, v *View, core *Core, lg zerolog.Logger) error {
	steps := make(chan Step) // unbuffered: the Mirror's ring is the buffer
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for step, err := range m.From(ctx, v) {
			if err != nil {
				return err
			}
			select {
			case steps <- step:
			case <-ctx.Done():
				return nil
			}
		}
		return nil
	})
	g.Go(func() error {
		for {
			for _, p := range appendAll(ctx, log, core.Ready(now()), lg) {
				core.Done(p.Proposal, p.seq, p.err, now())
			}
			var alarm <-chan time.Time
			if next := core.Next(); !next.IsZero() {
				alarm = time.After(time.Until(next))
			}
			select {
			case step := <-steps:
				core.Apply(step.View, step.Events...)
			case <-alarm:
			case <-ctx.Done():
				return nil
			}
		}
	})
	return g.Wait()
}

// now is the clock of deciders: without a monotonic part, and in UTC, so that
// it is the same after a round trip through the log.
func now() time.Time { return time.Now().Round(0).UTC() }

type outcome struct {
	Proposal
	seq Seq
	err error
}

// appendAll appends the proposals, many at once, and returns how each ended.
func appendAll(ctx context.Context, log events.Log, ps []Proposal, lg zerolog.Logger) []outcome {
	out := make([]outcome, len(ps))
	var g errgroup.Group
	g.SetLimit(appendWindow)
	for i, p := range ps {
		g.Go(func() error {
			seq, err := log.Append(ctx, p.Record)
			out[i] = outcome{p, seq, err}
			lg.Debug().Err(err).Str("actor", p.Source).Stringer("key", p.Key).Str("event", p.Type).
				Uint64("seq", uint64(seq)).Uint64("seen", uint64(p.Seen)).Msg("proposed")
			return nil
		})
	}
	_ = g.Wait() // outcomes are in out
	return out
}
