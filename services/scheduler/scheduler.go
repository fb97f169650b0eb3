package scheduler

import (
	"cmp"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// actor is the decider's name in the log.
const actor = "scheduler"

const (
	// maxChanges bounds the changes of one decision, so that a large queue is
	// worked off in steps between which the View is brought up to date.
	maxChanges = 512
	// explainEvery is the least time between two changes of the message that
	// says why a pod fits nowhere: the message counts nodes, and would
	// otherwise change with every one of them.
	explainEvery = time.Second
)

// queue is the one key: all pods are decided upon in one order.
var queue = kernel.Key{Resource: kernel.Resource{Plural: "queue"}, Name: "queue"}

// Decider binds pods to nodes.
var Decider = kernel.Decider{
	Name:   actor,
	Reads:  []kernel.Resource{kinds.Pods.Resource, kinds.Nodes.Resource, kinds.Namespaces.Resource},
	Writes: []kernel.Resource{kinds.Pods.Resource},
	Wakes:  wakes,
	Decide: decide,
}

// Deciders are all deciders of the service.
func Deciders() []kernel.Decider { return []kernel.Decider{Decider} }

func wakes(_ *kernel.View, e kernel.Event) []kernel.Key {
	matters := false
	switch e.Key.Resource {
	case kinds.Pods.Resource:
		pod, old, _ := kinds.Pods.Of(e)
		matters = podMatters(pod, old)
	case kinds.Nodes.Resource:
		node, old, _ := kinds.Nodes.Of(e)
		matters = nodeMatters(node, old)
	case kinds.Namespaces.Resource: // pod affinity selects namespaces by label
		ns, old, _ := kinds.Namespaces.Of(e)
		matters = ns != nil && old != nil && !maps.Equal(ns.Labels, old.Labels)
	}
	if !matters {
		return nil
	}
	return []kernel.Key{queue}
}

// podMatters tells whether a pod's event may change what is decided: a pod that
// waits came or is another now, or what the nodes' pods take is. Other
// schedulers' pods do neither until they have a node.
func podMatters(pod, old *corev1.Pod) bool {
	switch {
	case pod != nil && waits(pod):
		// Its status is what this decider wrote; all else of it may count.
		return old == nil || pod.UID != old.UID || pod.Generation != old.Generation || !waits(old) || !maps.Equal(pod.Labels, old.Labels)
	case !takes(pod) || !takes(old):
		return takes(pod) || takes(old)
	}
	return pod.UID != old.UID || pod.Spec.NodeName != old.Spec.NodeName || !maps.Equal(pod.Labels, old.Labels)
}

// takes tells whether the pod takes room on a node.
func takes(p *corev1.Pod) bool { return p != nil && p.Spec.NodeName != "" && !finished(p) }

// nodeMatters tells whether a node's event may let some pod fit that did not.
func nodeMatters(node, old *corev1.Node) bool {
	if node == nil || old == nil {
		return true
	}
	return node.Spec.Unschedulable != old.Spec.Unschedulable ||
		!apiequality.Semantic.DeepEqual(node.Spec.Taints, old.Spec.Taints) ||
		!maps.Equal(node.Labels, old.Labels) ||
		!apiequality.Semantic.DeepEqual(node.Status.Allocatable, old.Status.Allocatable)
}

// waits tells whether the pod is one for this scheduler to place.
func waits(p *corev1.Pod) bool {
	return p.Spec.NodeName == "" && p.DeletionTimestamp == nil && p.Spec.SchedulerName == corev1.DefaultSchedulerName &&
		len(p.Spec.SchedulingGates) == 0 && !finished(p)
}

func finished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

func decide(v *kernel.View, _ kernel.Key, now time.Time) kernel.Decision {
	var waiting []*corev1.Pod
	for e := range v.Entries(kinds.Pods.Resource, "") {
		if p := e.Object().(*corev1.Pod); waits(p) {
			waiting = append(waiting, p)
		}
	}
	if len(waiting) == 0 {
		return kernel.Decision{}
	}
	slices.SortFunc(waiting, compareQueue)
	var d kernel.Decision
	c := newCluster(v)
	for _, pod := range waiting {
		if len(d.Changes) == maxChanges {
			d.Revisit = now
			break
		}
		p := c.newPod(pod)
		why, known := c.stuckLike(p)
		if !known {
			if chosen, trace := c.choose(p); chosen != nil {
				d.Changes = append(d.Changes, kinds.Pods.Put(bound(pod, chosen.name, now), "pod.bound", trace))
				c.place(p, chosen)
				continue
			}
			why = c.explain()
			c.stuck[p.owner] = stuck{p, why}
		}
		change, revisit := unschedulable(v, pod, why, now)
		if change != nil {
			d.Changes = append(d.Changes, *change)
		}
		if d.Revisit.IsZero() || !revisit.IsZero() && revisit.Before(d.Revisit) {
			d.Revisit = revisit
		}
	}
	return d
}

// compareQueue puts the pod of higher priority first, then the older one.
func compareQueue(a, b *corev1.Pod) int {
	return cmp.Or(
		cmp.Compare(priority(b), priority(a)),
		a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
		cmp.Compare(a.Namespace, b.Namespace),
		cmp.Compare(a.Name, b.Name),
	)
}

func priority(p *corev1.Pod) int32 {
	if p.Spec.Priority == nil {
		return 0
	}
	return *p.Spec.Priority
}

// bound is the pod with its node, and with the condition that says so.
func bound(pod *corev1.Pod, node string, now time.Time) *corev1.Pod {
	pod = pod.DeepCopy()
	pod.Spec.NodeName = node
	setScheduled(pod, corev1.PodCondition{Status: corev1.ConditionTrue}, now)
	return pod
}

// unschedulable is the change that tells why a pod fits nowhere, if that is
// news, or when it may be told.
func unschedulable(v *kernel.View, pod *corev1.Pod, why string, now time.Time) (*kernel.Change, time.Time) {
	for _, c := range pod.Status.Conditions {
		if c.Type != corev1.PodScheduled || c.Status != corev1.ConditionFalse || c.Reason != corev1.PodReasonUnschedulable {
			continue
		}
		if c.Message == why {
			return nil, time.Time{}
		}
		e := v.Entry(kinds.Pods.Key(pod.Namespace, pod.Name))
		if at := e.Time.Add(explainEvery); e.Source == actor && at.After(now) && !e.Time.After(now) {
			return nil, at
		}
	}
	pod = pod.DeepCopy()
	setScheduled(pod, corev1.PodCondition{Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: why}, now)
	change := kinds.Pods.Put(pod, "pod.unschedulable", why)
	return &change, time.Time{}
}

// setScheduled sets the condition PodScheduled, whose time is that of the last
// change of its status.
func setScheduled(pod *corev1.Pod, c corev1.PodCondition, now time.Time) {
	c.Type, c.LastTransitionTime, c.ObservedGeneration = corev1.PodScheduled, metav1.NewTime(now), pod.Generation
	for i, old := range pod.Status.Conditions {
		if old.Type != corev1.PodScheduled {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		pod.Status.Conditions[i] = c
		return
	}
	pod.Status.Conditions = append(pod.Status.Conditions, c)
}
