package main

import (
	"context"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/internal/history"
)

// keepHistory keeps the log small and its past whole, until ctx ends. Its
// Mirror must be of everything.
func (s *service) keepHistory(ctx context.Context, log events.Archive) error {
	lg := s.named("history")
	return history.DefaultKeeper(log, s.mirror, func(err error) {
		lg.Warn().Err(err).Msg("the log is not made smaller for now")
	}).Run(ctx)
}
