package sim

import (
	"context"
	"errors"
	"time"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
)

// oldAge is how old events are before they are purged, and for how long at most
// a write of a process that is no more is on its way.
const oldAge = 10 * time.Minute

// keeper keeps states and forgets what is older, as the leader of the
// controllers does: first the state, then the horizon's event, then the purge.
type keeper struct {
	w       *World
	kept    kernel.Seq // of the newest state
	horizon kernel.Seq
}

// snapshot keeps the state as it is now.
func (k *keeper) snapshot(*dice) {
	if k.w.end() == 0 || k.w.end() == k.kept {
		return
	}
	k.kept = k.w.log.SaveNow()
	k.w.count("snapshot")
}

// purge moves the horizon up to what is old, to what everybody has read who
// writes and had read whose write is on its way, and to the newest state at the
// most; half of the time it dies before it purges.
func (k *keeper) purge(d *dice) {
	h := k.kept
	for h > 0 && k.w.landed[h-1].Add(oldAge).After(k.w.now) {
		h--
	}
	for _, p := range k.w.processes {
		h = min(h, p.view.Seq())
		for _, o := range p.outbox {
			h = min(h, o.Seen)
		}
	}
	for _, s := range k.w.servers {
		h = min(h, s.view.Seq())
		for _, c := range s.calls {
			if !c.over && c.waits.record != nil {
				h = min(h, c.waits.record.Seen)
			}
		}
	}
	if h <= k.horizon {
		return
	}
	var expect kernel.Seq
	if e := k.w.view().Entry(events.HorizonKey); e != nil {
		expect = e.Seq
	}
	if _, err := k.w.append(events.HorizonRecord(h, expect, k.w.end(), "history", k.w.now)); err != nil {
		k.w.fail(err)
		return
	}
	k.horizon = h
	k.w.count("horizon")
	if d.once(2) {
		return
	}
	if _, err := k.w.log.Forget(context.Background(), h); err != nil && !errors.Is(err, events.ErrGone) {
		k.w.fail(err)
	}
	k.w.count("purge")
}
