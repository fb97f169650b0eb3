package sim

import (
	"fmt"
	"time"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// expired: an Event object is there for an hour after it was last written, and
// not for longer. How old it is, who wrote it and who removes it tell by their
// own clocks.
type expired struct{ w *World }

const eventAge = time.Hour

func (c *expired) see(e kernel.Event) error {
	if e.Type != "event.expired" {
		return nil
	}
	if age := c.w.now.Sub(c.w.views[e.Seen].Entry(e.Key).Time); age < eventAge-2*(c.w.worstSkew+maxSkew) {
		return fmt.Errorf("event %d: %s was removed after %s", e.Seq, e.Key, age)
	}
	return nil
}

func (c *expired) end() error {
	for _, o := range kinds.Events.List(c.w.view(), "") {
		e := c.w.view().Entry(kinds.Events.Key(o.Namespace, o.Name))
		if age := c.w.now.Sub(e.Time); age > eventAge+c.w.worstSkew+time.Minute {
			return fmt.Errorf("%s was written %s ago", e.Key, age)
		}
	}
	return nil
}
