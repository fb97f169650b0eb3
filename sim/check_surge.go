package sim

import (
	"fmt"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// surge: the ReplicaSets of a Deployment together never ask for more pods than
// its replicas and surge.
//
// That is a promise about several objects, and compare-and-set is about one.
// So it holds for what each decision wants on the View that it has seen,
// always; and for what there is, where one leader decides at a time and none of
// its writes arrives after its death (a calm world). Two leaders may exceed it
// by what they race with, until either has seen the other's writes.
type surge struct{ w *World }

func (c *surge) see(e kernel.Event) error {
	rs, old, ok := kinds.ReplicaSets.Of(e)
	if !ok || rs == nil || e.Decision == nil || !c.w.Calm {
		return nil
	}
	was := int32(0)
	if old != nil {
		was = *old.Spec.Replicas
	}
	ref := metav1.GetControllerOf(rs)
	if *rs.Spec.Replicas <= was || ref == nil {
		return nil
	}
	seen, now := c.w.views[e.Seen], c.w.view()
	limit := max(c.limit(seen, rs.Namespace, ref), c.limit(now, rs.Namespace, ref))
	if total := c.total(now, ref); total > limit {
		return fmt.Errorf("event %d: the replicasets of %s ask for %d pods of at most %d", e.Seq, ref.Name, total, limit)
	}
	return nil
}

// decided checks all that one decision wants.
func (c *surge) decided(seen *kernel.View, wanted []kernel.Record) error {
	then := seen
	var sets []*appsv1.ReplicaSet
	for i, r := range wanted {
		if r.Key.Resource == kinds.ReplicaSets.Resource {
			r.Seq = seen.Seq() + kernel.Seq(i) + 1 // as if it were the next
			then, _ = then.Fold(r)
			if rs, ok := kinds.ReplicaSets.Get(then, r.Key.Namespace, r.Key.Name); ok {
				sets = append(sets, rs)
			}
		}
	}
	for _, rs := range sets {
		ref := metav1.GetControllerOf(rs)
		if ref == nil {
			continue
		}
		limit, before, after := c.limit(seen, rs.Namespace, ref), c.total(seen, ref), c.total(then, ref)
		if after > max(limit, before) {
			return fmt.Errorf("it saw %s ask for %d pods of at most %d, and wants %d", ref.Name, before, limit, after)
		}
	}
	return nil
}

// limit is how many pods the Deployment allows, in a View.
func (c *surge) limit(v *kernel.View, ns string, ref *metav1.OwnerReference) int32 {
	d, ok := kinds.Deployments.Get(v, ns, ref.Name)
	if !ok || d.UID != ref.UID {
		return 0
	}
	limit := *d.Spec.Replicas
	if d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		surge := d.Spec.Strategy.RollingUpdate.MaxSurge
		limit += surge.IntVal
		if percent, ok := strings.CutSuffix(surge.StrVal, "%"); ok {
			n, err := strconv.Atoi(percent)
			if err != nil {
				panic(err) // the API would not have taken it
			}
			limit += (*d.Spec.Replicas*int32(n) + 99) / 100
		}
	}
	return limit
}

// total is how many pods the sets of the Deployment ask for, in a View.
func (c *surge) total(v *kernel.View, ref *metav1.OwnerReference) int32 {
	total := int32(0)
	for _, rs := range kinds.ReplicaSets.List(v, "") {
		if own := metav1.GetControllerOf(rs); own != nil && own.UID == ref.UID {
			total += *rs.Spec.Replicas
		}
	}
	return total
}

func (c *surge) end() error { return nil }
