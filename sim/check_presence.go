package sim

import (
	"fmt"
	"time"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/services/apiserver"
)

// connectedFor is how long a node must have been connected to an apiserver for
// all of them to know: words may be lost for deafFor.
const connectedFor = deafFor + apiserver.TellEvery + lookEvery

// presence: no apiserver calls a node silent while it has been connected to any
// of them for a while.
type presence struct{ w *World }

// calls is told of what an apiserver is about to write.
func (c *presence) calls(by *server, r kernel.Record) {
	if r.Type != "node.silent" {
		return
	}
	for _, s := range c.w.servers {
		to := c.w.now // what an apiserver heard that is cut off is heard for longer than it takes to know
		if s.link.cut() {
			to = s.link.cutAt
		}
		for _, one := range s.streams {
			from := one.opened
			if s.link.since.After(from) {
				from = s.link.since
			}
			if open := to.Sub(from); one.node == r.Key.Name && !one.broken && open > connectedFor {
				c.w.fail(found(c, fmt.Errorf("%s calls %s silent, which has been connected to %s for %s", by.name, one.node, s.name, open.Round(time.Millisecond))))
			}
		}
	}
}

func (c *presence) see(kernel.Event) error { return nil }

func (c *presence) end() error { return nil }
