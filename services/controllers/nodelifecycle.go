package controllers

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// nodeLifecycle turns what is known of a node's health into taints, and taints
// into evictions. That a node is silent is the door's to observe: it sets the
// condition Ready to Unknown.
var nodeLifecycle = kernel.Decider{
	Name:   "controllers/nodelifecycle",
	Reads:  []kernel.Resource{kinds.Nodes.Resource, kinds.Pods.Resource},
	Writes: []kernel.Resource{kinds.Nodes.Resource, kinds.Pods.Resource},
	Wakes:  wakeNodes,
	Decide: decideNode,
}

func wakeNodes(v *kernel.View, e kernel.Event) []kernel.Key {
	if n, old, ok := kinds.Nodes.Of(e); ok {
		keys := []kernel.Key{e.Key}
		if n != nil && old != nil && nodeReady(n) == nodeReady(old) {
			return keys
		}
		// Whether any node is ready counts for those that are not.
		for one := range v.Entries(kinds.Nodes.Resource, "") {
			if one.Key != e.Key && nodeReady(one.Object().(*corev1.Node)) != corev1.ConditionTrue {
				keys = append(keys, one.Key)
			}
		}
		return keys
	}
	p, old, ok := kinds.Pods.Of(e)
	if !ok || p == nil || p.Spec.NodeName == "" || old != nil && old.Spec.NodeName != "" && ready(p) == ready(old) && p.Generation == old.Generation {
		return nil
	}
	return []kernel.Key{kinds.Nodes.Key("", p.Spec.NodeName)}
}

// nodeReady is the status of the node's condition Ready; "" if it has none.
func nodeReady(n *corev1.Node) corev1.ConditionStatus {
	return nodeCondition(n, corev1.NodeReady)
}

func nodeCondition(n *corev1.Node, t corev1.NodeConditionType) corev1.ConditionStatus {
	for _, c := range n.Status.Conditions {
		if c.Type == t {
			return c.Status
		}
	}
	return ""
}

func decideNode(v *kernel.View, k kernel.Key, now time.Time) kernel.Decision {
	n, ok := kinds.Nodes.Get(v, "", k.Name)
	if !ok {
		return kernel.Decision{}
	}
	var d kernel.Decision
	if taints := taintsFor(v, n, now); !same(taints, n.Spec.Taints) {
		own := n.DeepCopy()
		own.Spec.Taints = taints
		d.Changes = append(d.Changes, kinds.Nodes.Put(own, "node.tainted", ""))
	}
	silent := nodeReady(n) == corev1.ConditionUnknown
	evicting := slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Effect == corev1.TaintEffectNoExecute })
	if !silent && !evicting {
		return d
	}
	for e := range v.Entries(kinds.Pods.Resource, "") {
		p := e.Object().(*corev1.Pod)
		if p.Spec.NodeName != n.Name || finished(p) {
			continue
		}
		at, evicted := evictionTime(n.Spec.Taints, p)
		switch {
		case evicted && p.DeletionTimestamp == nil && !at.After(now):
			d.Changes = append(d.Changes, kinds.Pods.Remove(p, "pod.evicted", "it does not tolerate a taint of node "+n.Name))
			continue
		case evicted && p.DeletionTimestamp == nil:
			d.Revisit = earlier(d.Revisit, at)
		}
		if silent && ready(p) {
			d.Changes = append(d.Changes, kinds.Pods.Put(unready(p, now), "", "its node "+n.Name+" is silent"))
		}
	}
	return d
}

// unready is the pod as it counts while its node is silent: nobody knows
// whether it still answers.
func unready(p *corev1.Pod, now time.Time) *corev1.Pod {
	p = p.DeepCopy()
	c := condition(p, corev1.PodReady)
	c.Status, c.Reason, c.LastTransitionTime = corev1.ConditionFalse, "NodeNotReady", metav1.NewTime(now)
	return p
}

// clockSlack is by how much servers' clocks may differ.
const clockSlack = time.Minute

// wanted is a taint that is kept as long as its reason holds.
type wanted struct {
	key    string
	effect corev1.TaintEffect
	holds  bool
}

// anyReady tells whether at least one node is ready.
func anyReady(v *kernel.View) bool {
	for e := range v.Entries(kinds.Nodes.Resource, "") {
		if nodeReady(e.Object().(*corev1.Node)) == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

// taintsFor are the node's taints as they should be: those that stand for a
// condition of its own, and whatever else others put there.
func taintsFor(v *kernel.View, n *corev1.Node, now time.Time) []corev1.Taint {
	status := nodeReady(n)
	is := func(t corev1.NodeConditionType) bool { return nodeCondition(n, t) == corev1.ConditionTrue }
	notReady := status == corev1.ConditionFalse || status == ""
	unknown := status == corev1.ConditionUnknown
	// If no node at all is ready it is more likely that we are cut off than
	// that all have failed: then nothing is evicted, for there is nowhere to go.
	evict := anyReady(v)
	all := []wanted{
		{corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule, n.Spec.Unschedulable},
		{corev1.TaintNodeNotReady, corev1.TaintEffectNoSchedule, notReady},
		{corev1.TaintNodeUnreachable, corev1.TaintEffectNoSchedule, unknown},
		{corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule, is(corev1.NodeMemoryPressure)},
		{corev1.TaintNodeDiskPressure, corev1.TaintEffectNoSchedule, is(corev1.NodeDiskPressure)},
		{corev1.TaintNodePIDPressure, corev1.TaintEffectNoSchedule, is(corev1.NodePIDPressure)},
		{corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule, is(corev1.NodeNetworkUnavailable)},
		{corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute, notReady && evict},
		{corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute, unknown && evict},
	}
	var taints []corev1.Taint
	added := metav1.NewTime(now)
	for _, t := range n.Spec.Taints {
		i := slices.IndexFunc(all, func(w wanted) bool { return w.key == t.Key && w.effect == t.Effect })
		if i >= 0 && !all[i].holds {
			continue
		}
		if i >= 0 {
			all[i].holds = false // it is there already
		}
		// What tolerationSeconds are counted from. A clock that was ahead, and
		// no longer is, must not hold evictions up.
		if t.Effect == corev1.TaintEffectNoExecute && (t.TimeAdded == nil || t.TimeAdded.After(now.Add(clockSlack))) {
			t.TimeAdded = &added
		}
		taints = append(taints, t)
	}
	for _, w := range all {
		if w.holds {
			taints = append(taints, corev1.Taint{Key: w.key, Effect: w.effect, TimeAdded: &added})
		}
	}
	return taints
}

// evictionTime tells whether the pod has to leave a node with the taints, and
// when: at once for a taint that it does not tolerate, else when the shortest
// of its tolerations ends.
func evictionTime(taints []corev1.Taint, p *corev1.Pod) (at time.Time, evicted bool) {
	for i := range taints {
		t := &taints[i]
		if t.Effect != corev1.TaintEffectNoExecute || t.TimeAdded == nil {
			continue
		}
		ends, tolerated, limited := tolerationEnd(t, p)
		if !tolerated {
			return time.Time{}, true
		}
		if limited && (!evicted || ends.Before(at)) {
			at, evicted = ends, true
		}
	}
	return at, evicted
}

// tolerationEnd is until when the pod tolerates the taint. If one toleration
// for it has no limit, but another has, the limit counts, as in Kubernetes.
func tolerationEnd(t *corev1.Taint, p *corev1.Pod) (ends time.Time, tolerated, limited bool) {
	for i := range p.Spec.Tolerations {
		one := &p.Spec.Tolerations[i]
		if !toleratesTaint(one, t) {
			continue
		}
		tolerated = true
		if one.TolerationSeconds == nil {
			continue
		}
		end := t.TimeAdded.Add(time.Duration(max(*one.TolerationSeconds, 0)) * time.Second)
		if !limited || end.Before(ends) {
			ends, limited = end, true
		}
	}
	return ends, tolerated, limited
}

func toleratesTaint(t *corev1.Toleration, taint *corev1.Taint) bool {
	if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
		return false
	}
	if t.Operator == corev1.TolerationOpExists {
		return true
	}
	return (t.Operator == "" || t.Operator == corev1.TolerationOpEqual) && t.Key != "" && t.Value == taint.Value
}
