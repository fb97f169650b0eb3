package scheduler

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// filters say whether a node may have a pod: each returns why not, or nothing.
// They are asked in this order, and the first that rejects a node is the one
// that is told, as in Kubernetes.
var filters = []func(*cluster, *pod, *node) []string{
	filterUnschedulable,
	filterNodeName,
	filterTaints,
	filterNodeAffinity,
	filterPorts,
	filterResources,
	filterPodAffinity,
	filterSpread,
}

// reject returns why the node may not have the pod, or nothing.
func (c *cluster) reject(p *pod, n *node) []string {
	for _, f := range filters {
		if why := f(c, p, n); why != nil {
			return why
		}
	}
	return nil
}

// explain sums up why no node may have the pod that was just looked at.
func (c *cluster) explain() string {
	if len(c.nodes) == 0 {
		return "no nodes available to schedule pods"
	}
	return fmt.Sprintf("0/%d nodes are available: %s.", len(c.nodes), c.reasons())
}

// reasons counts the nodes by why they may not have the pod.
func (c *cluster) reasons() string {
	var parts []string
	for why, count := range c.rejected { // in no order: sorted below
		parts = append(parts, strconv.Itoa(count)+" "+why)
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

var unschedulableTaint = corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}

func filterUnschedulable(_ *cluster, p *pod, n *node) []string {
	if n.Spec.Unschedulable && !tolerates(p.Spec.Tolerations, &unschedulableTaint) {
		return []string{"node(s) were unschedulable"}
	}
	return nil
}

// filterNodeName is for pods that name their node themselves. They need no
// scheduler, but the field is part of what a node must match.
func filterNodeName(_ *cluster, p *pod, n *node) []string {
	if p.Spec.NodeName != "" && p.Spec.NodeName != n.name {
		return []string{"node(s) didn't match the requested node name"}
	}
	return nil
}

func filterTaints(_ *cluster, p *pod, n *node) []string {
	for i := range n.Spec.Taints {
		t := &n.Spec.Taints[i]
		if t.Effect != corev1.TaintEffectPreferNoSchedule && !tolerates(p.Spec.Tolerations, t) {
			return []string{fmt.Sprintf("node(s) had untolerated taint {%s: %s}", t.Key, t.Value)}
		}
	}
	return nil
}

// tolerates tells whether one of the tolerations is for the taint.
func tolerates(ts []corev1.Toleration, taint *corev1.Taint) bool {
	return slices.ContainsFunc(ts, func(t corev1.Toleration) bool {
		if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
			return false
		}
		switch t.Operator {
		case corev1.TolerationOpExists:
			return true
		case "", corev1.TolerationOpEqual:
			return t.Key != "" && t.Value == taint.Value
		case corev1.TolerationOpLt, corev1.TolerationOpGt:
			return compareIntegers(taint.Value, t.Value, t.Operator == corev1.TolerationOpGt)
		}
		return false
	})
}

// compareIntegers tells whether a is greater, or else less, than b.
func compareIntegers(a, b string, greater bool) bool {
	x, err := strconv.ParseInt(a, 10, 64)
	if err != nil {
		return false
	}
	y, err := strconv.ParseInt(b, 10, 64)
	if err != nil {
		return false
	}
	if greater {
		return x > y
	}
	return x < y
}

func filterNodeAffinity(_ *cluster, p *pod, n *node) []string {
	if !matchesNode(&p.Spec, n.Node) {
		return []string{"node(s) didn't match Pod's node affinity/selector"}
	}
	return nil
}

func filterPorts(_ *cluster, p *pod, n *node) []string {
	for _, port := range p.ports {
		if port.clashes(n.ports) {
			return []string{"node(s) didn't have free ports for the requested pod ports"}
		}
	}
	return nil
}

func filterResources(_ *cluster, p *pod, n *node) []string {
	var why []string
	lacks := func(name string, want, have, taken int64) {
		if want > 0 && want > have-taken {
			why = append(why, "Insufficient "+name)
		}
	}
	if n.pods+1 > n.maxPods {
		why = append(why, "Too many pods")
	}
	lacks("cpu", p.request.cpu, n.allocatable.cpu, n.taken.cpu)
	lacks("memory", p.request.memory, n.allocatable.memory, n.taken.memory)
	lacks("ephemeral-storage", p.request.storage, n.allocatable.storage, n.taken.storage)
	for name, want := range p.request.other { // in no order: the reasons are counted and sorted
		lacks(string(name), want, n.allocatable.other[name], n.taken.other[name])
	}
	return why
}
