package sim

import (
	"fmt"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/services/nodeagent"
)

// room: no node runs more pods than it has room for, whoever bound them, and
// none is run by two nodes.
type room struct{ w *World }

// started is told whenever a container starts.
func (c *room) started(m *machine, p *podState) {
	n := 0
	for _, o := range m.pods {
		if running(o) {
			n++
		}
	}
	if n > machinePods {
		c.w.fail(found(c, fmt.Errorf("%s runs %d pods, it has room for %d", m.name, n, machinePods)))
	}
	for _, o := range c.w.machines {
		for _, other := range o.pods {
			if o != m && other.world.UID == p.world.UID && running(other) {
				c.w.fail(found(c, fmt.Errorf("pod %s runs on %s and on %s", p.spec.Name, m.name, o.name)))
			}
		}
	}
}

func running(p *podState) bool {
	for _, one := range p.world.Containers {
		if one.Phase == nodeagent.Running {
			return true
		}
	}
	return false
}

func (c *room) see(kernel.Event) error { return nil }

func (c *room) end() error { return nil }
