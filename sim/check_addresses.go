package sim

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// addresses: no cluster IP is two Services', no range of pod addresses two
// nodes', and no address two pods' that run.
type addresses struct {
	owner map[string]kernel.Key
	has   map[kernel.Key]string
}

func newAddresses() *addresses {
	return &addresses{owner: map[string]kernel.Key{}, has: map[kernel.Key]string{}}
}

func (c *addresses) see(e kernel.Event) error {
	value := ""
	switch e.Key.Resource {
	case kinds.Services.Resource, kinds.Nodes.Resource, kinds.Pods.Resource:
	default:
		return nil
	}
	if !e.Delete {
		switch o := e.Object().(type) {
		case *corev1.Service:
			value = o.Spec.ClusterIP
		case *corev1.Node:
			value = o.Spec.PodCIDR
		case *corev1.Pod:
			if o.Status.Phase == corev1.PodRunning {
				value = o.Status.PodIP
			}
		}
	}
	if had := c.has[e.Key]; had != value {
		delete(c.owner, had)
		delete(c.has, e.Key)
	}
	if value == "" || value == corev1.ClusterIPNone {
		return nil
	}
	if other, taken := c.owner[value]; taken && other != e.Key {
		return fmt.Errorf("event %d: %s has %s, which is that of %s", e.Seq, e.Key, value, other)
	}
	c.owner[value], c.has[e.Key] = e.Key, value
	return nil
}

func (c *addresses) end() error { return nil }
