package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

const (
	// shredEvery is how often keys are looked for that no object needs.
	shredEvery = 10 * time.Minute
	// keyUnused is how long a key must have been known here, and its object never
	// seen, before it is taken for one of a write that failed: ten times what a
	// write may take.
	keyUnused = 10 * answerTimeout
)

// unusedKeys are those whose objects have never been seen.
type unusedKeys struct {
	mu sync.Mutex // held by who sweeps; protects the following field
	// since is when each was first found so, by this process' own clock, which no
	// one can set: by the time at which it was made a key would be old at once
	// when the wall clock is set forward, while its object is still being written.
	since map[string]time.Time
}

// shred destroys the keys of objects that are gone, so that nobody can read any
// more what the log held of their values. It follows the log, so it does not
// matter who deleted them and how.
func (s *Server) shred(ctx context.Context) error {
	if s.cfg.Schema.Keys == nil {
		return nil
	}
	for step := range s.cfg.Mirror.Follow(ctx) {
		if step.Fresh {
			s.sweep(ctx) // perhaps nobody ran when something was deleted
			continue
		}
		for _, e := range step.Events {
			if !e.Delete || !sealed(e.Entry) {
				continue
			}
			if err := s.cfg.Schema.Keys.Destroy(ctx, uidOf(e.Entry)); err != nil && ctx.Err() == nil {
				s.cfg.Logger.Warn().Err(err).Stringer("key", e.Key).Msg("the key of an object that is gone is not destroyed yet")
			}
		}
	}
	return nil
}

// sweepAll sweeps now and then, for what shred could not do.
func (s *Server) sweepAll(ctx context.Context) error {
	if s.cfg.Schema.Keys == nil {
		return nil
	}
	tick := time.NewTicker(shredEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.sweep(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// sweep destroys the keys that no object has.
func (s *Server) sweep(ctx context.Context) {
	n, err := s.sweepKeys(ctx)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		s.cfg.Logger.Warn().Err(err).Msg("keys of objects that are gone are not destroyed yet")
	case n > 0:
		s.cfg.Logger.Info().Int("keys", n).Msg("destroyed keys of objects that are gone")
	}
}

func (s *Server) sweepKeys(ctx context.Context) (destroyed int, err error) {
	s.unused.mu.Lock()
	defer s.unused.mu.Unlock()
	keys := s.cfg.Schema.Keys
	all, err := keys.All(ctx)
	if err != nil || len(all) == 0 {
		return 0, err
	}
	// After the keys: an object that used one of them is in it.
	v, err := s.out.Fresh(ctx)
	if err != nil {
		return 0, fmt.Errorf("sweep keys: %w", err)
	}
	gone := map[string]bool{} // by uid; false: it lives
	for e := range v.Records() {
		if sealed(e) {
			gone[uidOf(e)] = e.Delete
		}
	}
	now, unused := s.out.Now(), map[string]time.Time{}
	for _, id := range all {
		dead, seen := gone[id]
		if !seen {
			since, found := s.unused.since[id]
			if !found {
				since = now
			}
			unused[id] = since
			dead = now.Sub(since) > keyUnused
		}
		if !dead {
			continue
		}
		if err := keys.Destroy(ctx, id); err != nil {
			return destroyed, err
		}
		destroyed++
	}
	s.unused.since = unused
	return destroyed, nil
}

// sealed tells whether an object is of a kind whose values are sealed in the log.
func sealed(e *kernel.Entry) bool {
	row, ok := kinds.RowFor(e.Key.Resource)
	return ok && row.Describe().Sealed
}

// uidOf reads an object's uid, without its values.
func uidOf(e *kernel.Entry) string {
	var o struct{ Metadata struct{ UID string } }
	_ = json.Unmarshal(e.Body, &o) // it was decoded before it was appended
	return o.Metadata.UID
}
