package controllers

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

const (
	// maxFinished is how many finished pods are kept (Kubernetes' default).
	maxFinished = 12_500
	// nodeQuarantine is for how long a node may be gone before its pods are: it
	// may be registering anew (Kubernetes' value).
	nodeQuarantine = 40 * time.Second
)

// podGCKey is the one key: it counts all pods.
var podGCKey = kernel.Key{Resource: kernel.Resource{Plural: "queue"}, Name: "podgc"}

// podGC removes pods that nobody else would: the oldest of very many finished
// ones, and those of nodes that no longer exist.
var podGC = kernel.Decider{
	Name:   "controllers/podgc",
	Reads:  []kernel.Resource{kinds.Pods.Resource, kinds.Nodes.Resource},
	Writes: []kernel.Resource{kinds.Pods.Resource},
	Wakes: func(v *kernel.View, e kernel.Event) []kernel.Key {
		if e.Key.Resource == kinds.Nodes.Resource {
			if e.Delete {
				return []kernel.Key{podGCKey}
			}
			return nil
		}
		p, old, ok := kinds.Pods.Of(e)
		if !ok || p == nil {
			return nil
		}
		_, onNode := kinds.Nodes.Get(v, "", p.Spec.NodeName)
		if finished(p) && (old == nil || !finished(old)) || p.Spec.NodeName != "" && !onNode {
			return []kernel.Key{podGCKey}
		}
		return nil
	},
	Decide: decidePodGC,
}

func decidePodGC(v *kernel.View, _ kernel.Key, now time.Time) kernel.Decision {
	var d kernel.Decision
	var ended []*corev1.Pod
	for e := range v.Entries(kinds.Pods.Resource, "") {
		p := e.Object().(*corev1.Pod)
		if p.Spec.NodeName != "" {
			if at, gone := goneSince(v, p); gone {
				// Who deleted it may have had another clock. What is more
				// than the quarantine ahead of this one says nothing.
				if until := at.Add(nodeQuarantine); until.After(now) && !at.After(now.Add(nodeQuarantine)) {
					d.Revisit = earlier(d.Revisit, until)
				} else if len(d.Changes) < maxDeletes {
					d.Changes = append(d.Changes, orphaned(p, now)...)
				}
				continue
			}
		}
		if finished(p) && p.DeletionTimestamp == nil {
			ended = append(ended, p)
		}
	}
	if surplus := len(ended) - maxFinished; surplus > 0 {
		slices.SortFunc(ended, func(a, b *corev1.Pod) int {
			return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
		})
		for _, p := range ended[:surplus] {
			if len(d.Changes) >= maxDeletes {
				break
			}
			d.Changes = append(d.Changes, kinds.Pods.Remove(p, "", "more than 12500 finished pods are not kept"))
		}
	}
	if len(d.Changes) >= maxDeletes {
		d.Revisit = now
	}
	return d
}

// goneSince tells whether the pod's node does not exist, and since when.
func goneSince(v *kernel.View, p *corev1.Pod) (time.Time, bool) {
	e := v.Entry(kinds.Nodes.Key("", p.Spec.NodeName))
	switch {
	case e == nil:
		return p.CreationTimestamp.Time, true
	case e.Delete:
		return e.Time, true
	}
	return time.Time{}, false
}

// orphaned ends a pod whose node is gone. It is first called failed, which it
// is, for a finished pod needs no node to be deleted.
func orphaned(p *corev1.Pod, now time.Time) []kernel.Change {
	if finished(p) {
		return []kernel.Change{kinds.Pods.Remove(p, "", "its node "+p.Spec.NodeName+" no longer exists")}
	}
	p = p.DeepCopy()
	p.Status.Phase = corev1.PodFailed
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			c.Status, c.Reason, c.LastTransitionTime = corev1.ConditionFalse, "PodFailed", metav1.NewTime(now)
		}
	}
	c := corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now),
		Reason: "DeletionByPodGC", Message: "PodGC: node no longer exists",
	}
	if condition(p, c.Type) == nil {
		p.Status.Conditions = append(p.Status.Conditions, c)
	}
	return []kernel.Change{kinds.Pods.Put(p, "", "its node "+p.Spec.NodeName+" no longer exists")}
}
