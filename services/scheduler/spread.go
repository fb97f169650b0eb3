package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// spreadConstraint is a topologySpreadConstraint of a pod with the counts that
// it is about (https://kep.k8s.io/895).
type spreadConstraint struct {
	key      string
	hard     bool // DoNotSchedule
	maxSkew  int64
	self     int64            // 1 if the pod counts for itself
	counts   map[string]int64 // pods by the label's value, of all eligible nodes
	fewest   int64
	eligible map[string]bool // nodes that count, by name
}

// spreadOf counts, for each constraint of the pod, the pods that it means.
func (c *cluster) spreadOf(p *corev1.Pod) []spreadConstraint {
	var out []spreadConstraint
	for i := range p.Spec.TopologySpreadConstraints {
		t := &p.Spec.TopologySpreadConstraints[i]
		selector, err := metav1.LabelSelectorAsSelector(t.LabelSelector)
		if err != nil {
			continue // refused by validation
		}
		one := spreadConstraint{
			key: t.TopologyKey, hard: t.WhenUnsatisfiable == corev1.DoNotSchedule, maxSkew: int64(t.MaxSkew),
			counts: map[string]int64{}, eligible: map[string]bool{},
		}
		for _, n := range c.nodes {
			if value, ok := n.Labels[one.key]; ok && countsFor(t, p, n) {
				one.eligible[n.name] = true
				one.counts[value] += 0
			}
		}
		for j := range c.placed {
			other := &c.placed[j]
			if other.Namespace == p.Namespace && other.DeletionTimestamp == nil && one.eligible[other.on.name] &&
				selector.Matches(labels.Set(other.Labels)) {
				one.counts[other.on.Labels[one.key]]++
			}
		}
		if selector.Matches(labels.Set(p.Labels)) {
			one.self = 1
		}
		one.fewest = math.MaxInt64
		for _, n := range one.counts { // in no order: a minimum
			one.fewest = min(one.fewest, n)
		}
		if t.MinDomains != nil && len(one.counts) < int(*t.MinDomains) {
			one.fewest = 0
		}
		out = append(out, one)
	}
	return out
}

// countsFor tells whether the pods of a node count for a constraint: by default
// those of the nodes that the pod's own node affinity lets it on.
func countsFor(t *corev1.TopologySpreadConstraint, p *corev1.Pod, n *node) bool {
	if (t.NodeAffinityPolicy == nil || *t.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor) && !matchesNode(&p.Spec, n.Node) {
		return false
	}
	return t.NodeTaintsPolicy == nil || *t.NodeTaintsPolicy == corev1.NodeInclusionPolicyIgnore ||
		filterTaints(nil, &pod{Pod: p}, n) == nil
}

func filterSpread(_ *cluster, p *pod, n *node) []string {
	for i := range p.spread {
		s := &p.spread[i]
		if !s.hard {
			continue
		}
		value, ok := n.Labels[s.key]
		if !ok {
			return []string{"node(s) didn't match pod topology spread constraints (missing required label)"}
		}
		if s.counts[value]+s.self-s.fewest > s.maxSkew {
			return []string{"node(s) didn't match pod topology spread constraints"}
		}
	}
	return nil
}

// crowding is how many pods that the soft constraints want spread are where
// the node is.
func (p *pod) crowding(n *node) int64 {
	var total int64
	for i := range p.spread {
		s := &p.spread[i]
		if value, ok := n.Labels[s.key]; !s.hard && ok {
			total += s.counts[value]
		}
	}
	return total
}
