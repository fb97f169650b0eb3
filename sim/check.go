package sim

import "github.com/rutterhq/rutter/kernel"

// checker watches one invariant. It looks at events only, and shares no code
// with what it checks.
type checker interface {
	// see is shown every event, in order.
	see(kernel.Event) error
	// end is asked when the world has come to rest.
	end() error
}

func newCheckers(w *World) []checker {
	w.surge = &surge{w: w}
	w.replays = &replays{w: w, dropped: map[place]bool{}}
	return []checker{
		&bindings{}, newReplicas(w), w.surge, &endpoints{w: w}, &envelopes{deciders: w.Deciders}, w.replays, &views{w: w},
	}
}
