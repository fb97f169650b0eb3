package sim

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// reached tells what is missing until all is as the users want it, or nil.
// Once faults have stopped, that must come within settleWithin.
func reached(w *World) error {
	v := w.view()
	wanted := map[string]int32{} // replicas by namespace, app and image
	owners := map[string]bool{}  // uids of Deployments
	for _, one := range w.users.wishes {
		o, exists := v.Get(one.key)
		if one.met != one.version || exists != one.wanted {
			return fmt.Errorf("%s: it exists: %t, wanted: %t", one.key, exists, one.wanted)
		}
		d, ok := o.(*appsv1.Deployment)
		if !ok {
			continue
		}
		s := d.Status
		if s.ObservedGeneration != d.Generation || s.Replicas != one.replicas || s.UpdatedReplicas != one.replicas || s.AvailableReplicas != one.replicas {
			return fmt.Errorf("%s: %d replicas of %s are wanted, its status is generation %d of %d, replicas %d, updated %d, available %d",
				one.key, one.replicas, one.image, s.ObservedGeneration, d.Generation, s.Replicas, s.UpdatedReplicas, s.AvailableReplicas)
		}
		owners[string(d.UID)] = true
		wanted[one.key.Namespace+" "+one.key.Name+" "+one.image] = one.replicas
	}
	for _, rs := range kinds.ReplicaSets.List(v, "") {
		ref := metav1.GetControllerOf(rs)
		if ref == nil || !owners[string(ref.UID)] {
			return fmt.Errorf("replicaset %s: its owner is gone", rs.Name)
		}
		owners[string(rs.UID)] = true
	}
	if err := reachedPods(v, wanted, owners); err != nil {
		return err
	}
	for _, n := range kinds.Nodes.List(v, "") {
		if len(n.Spec.Taints) > 0 || !kinds.NodeReady(n) {
			return fmt.Errorf("node %s is not ready, or has taints", n.Name)
		}
	}
	return reachedEndpoints(v)
}

// reachedPods counts the pods, which are to have one of the owners. Those that
// failed are kept for who wants to know why.
func reachedPods(v *kernel.View, wanted map[string]int32, owners map[string]bool) error {
	have := map[string]int32{}
	for _, p := range kinds.Pods.List(v, "") {
		switch ref := metav1.GetControllerOf(p); {
		case ref == nil || !owners[string(ref.UID)]:
			return fmt.Errorf("pod %s: its owner is gone", p.Name)
		case p.DeletionTimestamp != nil:
			return fmt.Errorf("pod %s: it was deleted at %s and is still there", p.Name, p.DeletionTimestamp.Format(time.TimeOnly))
		case p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded:
			continue
		case p.Spec.NodeName == "" || !isReady(p):
			return fmt.Errorf("pod %s: on node %q, ready: %t", p.Name, p.Spec.NodeName, isReady(p))
		}
		have[p.Namespace+" "+p.Labels["app"]+" "+p.Spec.Containers[0].Image]++
	}
	for what, n := range wanted {
		if have[what] != n {
			return fmt.Errorf("deployment %s: %d pods, %d are wanted", what, have[what], n)
		}
		delete(have, what)
	}
	for what := range have {
		return fmt.Errorf("pods that nobody wants: %s", what)
	}
	return nil
}

// reachedEndpoints compares what the Services lead to with the ready pods, in
// EndpointSlices and in Endpoints.
func reachedEndpoints(v *kernel.View) error {
	for _, s := range kinds.Services.List(v, "") {
		var slices, old []string
		for _, slice := range kinds.EndpointSlices.List(v, s.Namespace) {
			if slice.Labels["kubernetes.io/service-name"] == s.Name {
				for _, e := range slice.Endpoints {
					slices = append(slices, e.Addresses[0])
				}
			}
		}
		if o, ok := kinds.Endpoints.Get(v, s.Namespace, s.Name); ok {
			for _, sub := range o.Subsets {
				for _, a := range append(sub.Addresses, sub.NotReadyAddresses...) {
					old = append(old, a.IP)
				}
			}
		}
		for what, has := range map[string][]string{"EndpointSlices": slices, "Endpoints": old} {
			missing := map[string]bool{}
			for _, p := range kinds.Pods.List(v, s.Namespace) {
				if p.Labels["app"] == s.Spec.Selector["app"] && isReady(p) {
					missing[p.Status.PodIP] = true
				}
			}
			for _, ip := range has {
				if !missing[ip] {
					return fmt.Errorf("service %s: the address %s in its %s is no pod's, or is there twice", s.Name, ip, what)
				}
				delete(missing, ip)
			}
			if len(missing) > 0 {
				return fmt.Errorf("service %s: %d pods are not among its %s", s.Name, len(missing), what)
			}
		}
	}
	return nil
}
