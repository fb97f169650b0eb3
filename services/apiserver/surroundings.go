package apiserver

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"

	"github.com/rutterhq/rutter/kernel"
)

// Surroundings are all that writing takes from the world beside the log: the
// View, the clock, chance, and the order in which writers take their turns. A
// Server has the real ones; the simulator gives its own, so that the same
// writing code runs on one thread and does the same for the same seed.
type Surroundings struct {
	// View is the newest at hand; it may be old.
	View func() *kernel.View
	// Fresh is a View that has all that was durable when it was called.
	Fresh func(context.Context) (*kernel.View, error)
	// At is a View that has the event at seq. It waits for it until the time
	// given, at the longest; the zero time: as long as ctx lives.
	At func(ctx context.Context, seq kernel.Seq, until time.Time) (*kernel.View, error)
	// Turn waits until nobody else has the turn to write this object, and
	// returns what ends it.
	Turn func(context.Context, kernel.Key) (done func(), err error)
	Now  func() time.Time
	// Steady is a clock that is never set: for how long something lasts.
	Steady func() time.Time
	ID     func() string         // unique among all that was ever written: a random UUID
	Draw   func(n uint64) uint64 // a random number below n
}

// real are the surroundings of a Server.
func (s *Server) real() Surroundings {
	return Surroundings{
		View: s.cfg.Mirror.View, Fresh: s.index.view, Turn: s.turns.take, Now: time.Now, Steady: time.Now, ID: uuid.NewString, Draw: rand.Uint64N,
		At: func(ctx context.Context, seq kernel.Seq, until time.Time) (*kernel.View, error) {
			if !until.IsZero() {
				var cancel context.CancelFunc
				ctx, cancel = context.WithDeadline(ctx, until)
				defer cancel()
			}
			return s.cfg.Mirror.At(ctx, seq)
		},
	}
}
