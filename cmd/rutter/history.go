package main

import (
	"context"
	"errors"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/jetstream"
	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/kernel"
)

// keepHistory keeps the log small and its past whole, until ctx ends. Its
// Mirror must be of everything. Of several processes one does, under a lease.
func (s *service) keepHistory(ctx context.Context, log events.Archive) error {
	return s.lead(ctx, "history", s.keeper(log).Run)
}

func (s *service) keeper(log events.Archive) *history.Keeper {
	lg := s.named("history")
	return history.DefaultKeeper(log, s.mirror, func(err error) {
		lg.Warn().Err(err).Msg("the log is not made smaller for now")
	})
}

// apart is for a server that holds the log for services in processes of their
// own: what keeps that log small. No service may purge it, and the server has
// nobody else who could. Secrets stay sealed in its View.
func apart(ctx context.Context, f *folders, server *jetstream.Server, lg zerolog.Logger) (*service, *jetstream.Log, error) {
	schema, err := f.schema()
	if err != nil {
		return nil, nil, err
	}
	schema.Seal = nil
	nc, err := server.Connect()
	if err != nil {
		return nil, nil, err
	}
	log, err := jetstream.Open(ctx, nc, jetstream.Options{Budget: server.Budget(), Build: build})
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return &service{log: log, mirror: kernel.NewMirror(log, schema, nil), schema: schema, lg: lg}, log, nil
}

// keepApart keeps it small until ctx ends, and closes the server.
func keepApart(ctx context.Context, f *folders, server *jetstream.Server, lg zerolog.Logger) error {
	s, log, err := apart(ctx, f, server, lg)
	if err != nil {
		return errors.Join(err, server.Close())
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.mirror.Run(ctx) })
	g.Go(func() error { return s.keepHistory(ctx, log) })
	err = g.Wait()
	log.Close()
	return errors.Join(err, server.Close())
}
