package nodeagent

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/nodeagent/podspec"
)

// GoalOf is what the View asks of a pod on a node, nil if nothing. Pure.
func GoalOf(v *kernel.View, node string, k kernel.Key, drainedAt func(kernel.Seq) bool) *Goal {
	e := v.Entry(k)
	if e == nil || e.Delete {
		return nil
	}
	p := e.Object().(*corev1.Pod)
	if p.Spec.NodeName != node {
		return nil
	}
	g := &Goal{Pod: p, Seq: e.Seq, Sources: stamp(v, p)}
	if p.DeletionTimestamp != nil {
		g.Stopping = true
		if s := p.DeletionGracePeriodSeconds; s != nil {
			g.Grace = time.Duration(*s) * time.Second
		}
		g.Routed = routed(v, p, e.Seq, drainedAt)
	}
	return g
}

// stamp changes whenever what the pod's volumes hold may have changed.
func stamp(v *kernel.View, p *corev1.Pod) string {
	var b strings.Builder
	for _, k := range podspec.Sources(p) {
		if e := v.Entry(k); e != nil {
			fmt.Fprintf(&b, "%d,", e.Seq)
		} else {
			b.WriteString("-,")
		}
	}
	for _, vol := range p.Spec.Volumes {
		if vol.DownwardAPI != nil || vol.Projected != nil {
			fmt.Fprintf(&b, "%v%v", p.Labels, p.Annotations)
			break
		}
	}
	return b.String()
}

// routed tells whether new connections may still be sent to a pod that goes:
// an endpoint names it as ready, or the local datapath is older than the last
// word about the endpoints of its namespace.
func routed(v *kernel.View, p *corev1.Pod, seq kernel.Seq, drainedAt func(kernel.Seq) bool) bool {
	for e := range v.Entries(kinds.EndpointSlices.Resource, p.Namespace) {
		slice, _ := kinds.EndpointSlices.Get(v, p.Namespace, e.Key.Name)
		for i := range slice.Endpoints {
			ep := &slice.Endpoints[i]
			if ep.TargetRef == nil || ep.TargetRef.UID != p.UID {
				continue
			}
			if ep.Conditions.Ready == nil || *ep.Conditions.Ready {
				return true
			}
			seq = max(seq, e.Seq)
		}
	}
	return drainedAt != nil && !drainedAt(seq)
}
