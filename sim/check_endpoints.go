package sim

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// endpoints: a Service leads to no pod that its decision saw not ready, going,
// or somewhere else: neither its EndpointSlices nor its Endpoints.
type endpoints struct{ w *World }

func (c *endpoints) see(e kernel.Event) error {
	if e.Decision == nil {
		return nil
	}
	if slice, _, ok := kinds.EndpointSlices.Of(e); ok && slice != nil {
		for _, one := range slice.Endpoints {
			if one.Conditions.Ready == nil || !*one.Conditions.Ready {
				continue
			}
			if len(one.Addresses) != 1 {
				return fmt.Errorf("event %d: an endpoint of %s has %d addresses", e.Seq, slice.Name, len(one.Addresses))
			}
			if err := c.leads(e, one.TargetRef, one.Addresses[0]); err != nil {
				return err
			}
		}
	}
	if o, _, ok := kinds.Endpoints.Of(e); ok && o != nil {
		for _, s := range o.Subsets {
			for _, a := range s.Addresses {
				if err := c.leads(e, a.TargetRef, a.IP); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// leads tells whether a pod was ready, at that address, when it was decided to
// lead to it.
func (c *endpoints) leads(e kernel.Event, to *corev1.ObjectReference, ip string) error {
	if to == nil {
		return fmt.Errorf("event %d: an address of %s is no pod's", e.Seq, e.Key)
	}
	p, ok := kinds.Pods.Get(c.w.views[e.Seen], e.Key.Namespace, to.Name)
	if !ok || p.UID != to.UID || p.Status.PodIP != ip || !isReady(p) || p.DeletionTimestamp != nil {
		return fmt.Errorf("event %d: %s leads to %s as a ready pod, which %s was not", e.Seq, e.Key, ip, to.Name)
	}
	return nil
}

func (c *endpoints) end() error { return nil }

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
