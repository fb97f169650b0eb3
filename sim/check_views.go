package sim

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/rutterhq/rutter/kernel"
)

// views: what a process has read of the log is what the log says up to there,
// however it came there: object by object, tombstones and the horizon too. In
// the end nobody has modified what it saw, and what a node was shown is so.
type views struct {
	w     *World
	reads int
}

// compareEvery is how many reads pass from one comparison to the next: each goes
// through all that there is.
const compareEvery = 4

// read is told of the View of a process that has read.
func (c *views) read(who string, v *kernel.View) {
	if c.reads++; c.reads%compareEvery > 0 {
		return
	}
	if err := difference(v, c.w.views[v.Seq()]); err != nil {
		c.w.fail(found(c, fmt.Errorf("%s has read up to %d and has %w", who, v.Seq(), err)))
	}
}

func (c *views) see(kernel.Event) error { return nil }

func (c *views) end() error {
	fresh, _ := kernel.NewView(c.w.rules).Fold(c.w.records...)
	for _, p := range c.w.processes {
		if err := c.same(p.name, p.view, fresh); err != nil {
			return err
		}
	}
	for _, s := range c.w.servers {
		if err := c.same(s.name, s.view, fresh); err != nil {
			return err
		}
	}
	for _, m := range c.w.machines {
		for _, a := range m.agents { // none, if the machine is lost
			for e := range a.view.All() {
				if now := fresh.Entry(e.Key); now == nil || now.Delete || now.Seq != e.Seq {
					return fmt.Errorf("%s holds %s as of %d, which is gone or another by now", m.name, e.Key, e.Seq)
				}
			}
		}
	}
	return nil
}

func (c *views) same(who string, v, fresh *kernel.View) error {
	if v.Seq() != fresh.Seq() {
		return fmt.Errorf("%s is at %d, the log at %d", who, v.Seq(), fresh.Seq())
	}
	if err := difference(v, fresh); err != nil {
		return fmt.Errorf("%s has %w", who, err)
	}
	for r := range fresh.All() {
		again, err := c.w.schema.Encode(v.Entry(r.Key).Object())
		if err != nil || !bytes.Equal(again, r.Body) {
			return fmt.Errorf("%s has modified %s in its view (%v)", who, r.Key, err)
		}
	}
	return nil
}

// difference is the first thing, in the order of the Keys, that a View has
// otherwise than the true one.
func difference(v, full *kernel.View) error {
	have, want := slices.Collect(v.Records()), slices.Collect(full.Records())
	for i := 0; i < max(len(have), len(want)); i++ {
		switch {
		case i == len(want), i < len(have) && have[i].Key != want[i].Key && have[i].Key.String() < want[i].Key.String():
			return fmt.Errorf("%s at %d, of which nothing is known", have[i].Key, have[i].Seq)
		case i == len(have), have[i].Key != want[i].Key:
			return fmt.Errorf("nothing of %s, which is at %d", want[i].Key, want[i].Seq)
		case have[i].Seq != want[i].Seq:
			return fmt.Errorf("%s at %d, it is at %d", have[i].Key, have[i].Seq, want[i].Seq)
		case have[i].Delete != want[i].Delete, !bytes.Equal(have[i].Body, want[i].Body):
			return fmt.Errorf("another %s", have[i].Key)
		}
	}
	return nil
}
