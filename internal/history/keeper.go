package history

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
)

// source is the actor of what a Keeper appends.
const source = "history"

// pressedAt is the part of the budget, in hundredths, from which on states are
// kept and events purged without waiting for more of them.
const pressedAt = 80

// Keeper keeps a log small and its past whole: it keeps states of the View,
// appends the horizon, and lets the log forget what is before it.
//
//	        H (old enough)      kept state          now
//	────────┼───────────────────┼───────────────────┼
//	purged, │ in the log, and in history            │
//	in      │ tombstones forgotten at the horizon's event
//	history │
//
// One at a time is enough, and several do no harm.
type Keeper struct {
	Log    events.Archive
	Mirror *kernel.Mirror // of everything, not only of some resources

	Events   kernel.Seq    // a state is kept after that many events,
	Every    time.Duration // or after that time, if there were at least Least
	Least    kernel.Seq    // events
	Age      time.Duration // events are purged when they have been there for that long, by no clock that can be set
	Interval time.Duration // between looks
	// Trouble is told of every failure; the next look tries again.
	Trouble func(error)

	saved   kernel.Seq // the newest state that is kept, as far as is known
	savedAt time.Time
	horizon kernel.Seq // that the log has forgotten what is before, as far as it could
	first   kernel.Seq // where the log began when it was asked last; 0: it was not
	asked   time.Time  // when it was asked to forget last
	tended  time.Time
	marks   []mark
}

// mark says that the log was at seq.
type mark struct {
	at  time.Time
	seq kernel.Seq
}

// forgetAgain is after what time a log that has put off a purge is asked again,
// if it has room enough. Asking costs a sync and questions to all who write.
const forgetAgain = 30 * time.Second

// tendEvery is how often a Keeper looks after the sizes of the log's parts.
const tendEvery = time.Minute

// DefaultKeeper keeps a state for every 100,000 events, which are read in half a
// second, and purges what is older than ten minutes: who is further behind
// starts anew.
func DefaultKeeper(log events.Archive, m *kernel.Mirror, trouble func(error)) *Keeper {
	return &Keeper{Log: log, Mirror: m, Events: 100_000, Every: 10 * time.Minute, Least: 1000,
		Age: 10 * time.Minute, Interval: 5 * time.Second, Trouble: trouble}
}

// Run looks now and then until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	select {
	case <-k.Mirror.Ready():
	case <-ctx.Done():
		return nil
	}
	t := time.NewTicker(k.Interval)
	defer t.Stop()
	for {
		if err := k.Look(ctx, time.Now()); err != nil && ctx.Err() == nil {
			k.Trouble(err)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Look does what is due. The Mirror is ready.
func (k *Keeper) Look(ctx context.Context, now time.Time) error {
	pressed, err := k.pressed(ctx, now)
	if err != nil {
		return err
	}
	if err := k.save(ctx, now, pressed); err != nil {
		return err
	}
	k.marks = append(k.marks, mark{now, k.Mirror.View().Seq()})
	if err := k.forget(ctx, now, pressed); err != nil {
		return err
	}
	if t, ok := k.Log.(interface{ Tend(context.Context) error }); ok && now.Sub(k.tended) >= tendEvery {
		k.tended = now
		return t.Tend(ctx)
	}
	return nil
}

// pressed tells whether the disk budget runs out, and finds the newest state
// that is kept.
func (k *Keeper) pressed(ctx context.Context, now time.Time) (bool, error) {
	if k.savedAt.IsZero() {
		k.savedAt = now
	}
	log, ok := k.Log.(events.Keeper)
	if !ok {
		return false, nil
	}
	u, err := log.Usage(ctx)
	if err != nil {
		return false, err
	}
	if n := len(u.Saved); n > 0 && u.Saved[n-1].Seq > k.saved {
		k.saved, k.savedAt = u.Saved[n-1].Seq, u.Saved[n-1].Time
	}
	return u.Budget > 0 && u.Used >= u.Budget/100*pressedAt, nil
}

// save keeps the state of the View if it is due.
func (k *Keeper) save(ctx context.Context, now time.Time, pressed bool) error {
	v := k.Mirror.View()
	fresh := v.Seq() - min(k.saved, v.Seq())
	due := fresh >= k.Events || fresh >= k.Least && now.Sub(k.savedAt) >= k.Every || pressed && fresh >= k.Least
	if fresh == 0 || !due {
		return nil
	}
	entries := slices.Collect(v.Records())
	slices.SortFunc(entries, func(a, b *kernel.Entry) int { return cmp.Compare(a.Seq, b.Seq) })
	err := k.Log.Save(ctx, v.Seq(), func(yield func(kernel.Record) bool) {
		for _, e := range entries {
			if !yield(e.Record) {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	k.saved, k.savedAt = v.Seq(), now
	return nil
}

// old returns the last event that has been there for as long as Age. What the
// Keeper has seen tells, for a clock may have been set since; if it has not been
// there for so long itself, only a log that fills up asks the times of events.
func (k *Keeper) old(ctx context.Context, now time.Time, pressed bool) (kernel.Seq, error) {
	n := 0
	for n+1 < len(k.marks) && now.Sub(k.marks[n+1].at) >= k.Age {
		n++
	}
	k.marks = k.marks[n:]
	if now.Sub(k.marks[0].at) >= k.Age {
		return k.marks[0].seq, nil
	}
	if !pressed {
		return 0, nil
	}
	old, err := k.Log.SeqAt(ctx, now.Add(-k.Age))
	if errors.Is(err, events.ErrGone) {
		return 0, nil
	}
	return old, err
}

// forget lets the log forget what is old, if that is much.
func (k *Keeper) forget(ctx context.Context, now time.Time, pressed bool) error {
	old, err := k.old(ctx, now, pressed)
	if err != nil {
		return err
	}
	v := k.Mirror.View()
	h := min(old, k.saved)
	last := kernel.Seq(0) // horizon
	if e := v.Entry(events.HorizonKey); e != nil {
		last, _ = events.HorizonOf(e.Record)
	}
	// Each horizon has all Views looked through for tombstones.
	least := max(k.Least, k.Events/10)
	if pressed {
		least = 1
	}
	switch {
	case h >= last+least:
		if err := k.tell(ctx, v, h, now); err != nil {
			return err
		}
	case last > k.horizon && (pressed || now.Sub(k.asked) >= forgetAgain): // told, but not yet forgotten
		h = last
	default:
		return nil
	}
	k.asked = now
	first, err := k.Log.Forget(ctx, h)
	if err != nil {
		return err
	}
	if first >= h || k.first > 0 && first > k.first { // else it was put off: not all who write know of h yet
		k.horizon = h
	}
	k.first = first
	return nil
}

// tell appends the horizon's event.
func (k *Keeper) tell(ctx context.Context, v *kernel.View, h kernel.Seq, now time.Time) error {
	expect := kernel.Seq(0)
	if e := v.Entry(events.HorizonKey); e != nil {
		expect = e.Seq
	}
	r := events.HorizonRecord(h, expect, v.Seq(), source, now)
	r.ID = uuid.NewString()
	if _, err := k.Log.Append(ctx, r); err != nil {
		return fmt.Errorf("append the horizon: %w", err)
	}
	return nil
}
