package sim

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// endpoints: a Service leads to no pod that its decision saw not ready, going,
// or somewhere else.
type endpoints struct{ w *World }

func (c *endpoints) see(e kernel.Event) error {
	slice, _, ok := kinds.EndpointSlices.Of(e)
	if !ok || slice == nil || e.Decision == nil {
		return nil
	}
	seen := c.w.views[e.Seen]
	for _, one := range slice.Endpoints {
		if one.Conditions.Ready == nil || !*one.Conditions.Ready {
			continue
		}
		if one.TargetRef == nil || len(one.Addresses) != 1 {
			return fmt.Errorf("event %d: an endpoint of %s names no pod or several addresses", e.Seq, slice.Name)
		}
		p, ok := kinds.Pods.Get(seen, slice.Namespace, one.TargetRef.Name)
		if !ok || p.UID != one.TargetRef.UID || p.Status.PodIP != one.Addresses[0] || !isReady(p) || p.DeletionTimestamp != nil {
			return fmt.Errorf("event %d: %s leads to %s as a ready pod, which %s was not", e.Seq, slice.Name, one.Addresses[0], one.TargetRef.Name)
		}
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
