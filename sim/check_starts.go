package sim

import (
	"fmt"

	"github.com/rutterhq/rutter/kernel"
)

// starts: who begins with a state that was kept, and reads the tail, has the
// same View as who read everything: bodies, tombstones and horizon too.
type starts struct {
	w *World
}

// began is told of every View that was folded from the log's beginning.
func (c *starts) began(who string, v *kernel.View) error {
	if c.w.keeper.horizon == 0 {
		return nil
	}
	c.w.count("start from a state that was kept")
	full := c.w.view()
	if v.Seq() != full.Seq() {
		return finding{"starts", fmt.Errorf("%s began at %d, the log is at %d", who, v.Seq(), full.Seq())}
	}
	if err := difference(v, full); err != nil {
		return finding{"starts", fmt.Errorf("%s began at %d with %w", who, v.Seq(), err)}
	}
	return nil
}

func (c *starts) see(kernel.Event) error { return nil }

func (c *starts) end() error {
	v, _ := kernel.NewView(c.w.rules).Fold(c.w.mustAfter(0)...)
	return c.began("a reader at the end", v)
}
