package sim

import (
	"bytes"
	"fmt"

	"github.com/rutterhq/rutter/kernel"
)

// views: a process that has read the log to its end holds the same as one that
// reads it anew, however it came there.
type views struct{ w *World }

func (c *views) see(kernel.Event) error { return nil }

func (c *views) end() error {
	fresh, _ := kernel.NewView(c.w.schema).Fold(c.w.records...)
	for _, p := range c.w.processes {
		if p.view.Seq() != fresh.Seq() {
			return fmt.Errorf("%s is at %d, the log at %d", p.name, p.view.Seq(), fresh.Seq())
		}
		for r := range fresh.All() {
			own := p.view.Entry(r.Key)
			if own == nil || own.Delete || own.Seq != r.Seq || !bytes.Equal(own.Body, r.Body) {
				return fmt.Errorf("%s has another %s", p.name, r.Key)
			}
			again, err := c.w.schema.Encode(own.Object())
			if err != nil || !bytes.Equal(again, r.Body) {
				return fmt.Errorf("%s has modified %s in its view (%v)", p.name, r.Key, err)
			}
		}
	}
	return nil
}
