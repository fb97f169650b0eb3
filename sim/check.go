package sim

import (
	"fmt"

	"github.com/rutterhq/rutter/kernel"
)

// checker watches one invariant. It looks at events and at what others were
// told or shown, and shares no code with what it checks.
type checker interface {
	// see is shown every event, in order.
	see(kernel.Event) error
	// end is asked when the world has come to rest.
	end() error
}

// witnesses are the checkers that are told of more than events.
type witnesses struct {
	replays  *replays
	surge    *surge
	starts   *starts
	door     *door
	acks     *acks
	room     *room
	presence *presence
	views    *views
}

func newCheckers(w *World) {
	w.told = witnesses{
		replays: &replays{w: w, dropped: map[place]bool{}}, surge: &surge{w: w}, starts: &starts{w: w},
		door: &door{w: w}, acks: &acks{w: w}, room: &room{w: w}, presence: &presence{w}, views: &views{w: w},
	}
	w.checkers = []checker{
		&bindings{}, &phases{}, newReplicas(), w.told.surge, &endpoints{w: w}, &envelopes{deciders: w.deciders}, newAddresses(),
		w.told.door, w.told.room, w.told.acks, &orphans{w: w}, &expired{w: w}, w.told.views, w.told.starts, w.told.replays, w.told.presence,
	}
}

// finding is what a checker found.
type finding struct {
	checker string
	error
}

func (f finding) Error() string { return f.checker + ": " + f.error.Error() }

func (f finding) Unwrap() error { return f.error }

// found names the checker, as its type is called.
func found(c checker, err error) error { return finding{fmt.Sprintf("%T", c)[len("*sim."):], err} }
