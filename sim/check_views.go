package sim

import (
	"bytes"
	"fmt"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
)

// views: a process that has read the log to its end holds the same as one that
// reads it anew, however it came there; and what a node was shown is so.
type views struct{ w *World }

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
	known := map[kernel.Key]bool{}
	for r := range fresh.Records() {
		known[r.Key] = true
		own := v.Entry(r.Key)
		if own == nil || own.Delete != r.Delete || own.Seq != r.Seq || !bytes.Equal(own.Body, r.Body) {
			return fmt.Errorf("%s has another %s", who, r.Key)
		}
		if r.Delete || r.Key == events.HorizonKey {
			continue
		}
		again, err := c.w.schema.Encode(own.Object())
		if err != nil || !bytes.Equal(again, r.Body) {
			return fmt.Errorf("%s has modified %s in its view (%v)", who, r.Key, err)
		}
	}
	for r := range v.Records() {
		if !known[r.Key] {
			return fmt.Errorf("%s has %s at %d, of which nothing is known", who, r.Key, r.Seq)
		}
	}
	return nil
}
