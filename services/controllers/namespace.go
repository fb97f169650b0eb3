package controllers

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// namespaceActor is the decider's name in the log.
const namespaceActor = "controllers/namespace"

const (
	// maxDeletes bounds the objects that one decision deletes.
	maxDeletes = 500
	// blockedEvery is the least time between two writes of what still blocks a
	// namespace: its numbers change with every object that goes.
	blockedEvery = time.Second
)

// namespace empties namespaces that are deleted, and lets them go.
var namespace = kernel.Decider{
	Name:   namespaceActor,
	Reads:  append([]kernel.Resource{kinds.Namespaces.Resource}, namespaced...),
	Writes: append([]kernel.Resource{kinds.Namespaces.Resource}, namespaced...),
	Wakes: func(v *kernel.View, e kernel.Event) []kernel.Key {
		if e.Key.Resource == kinds.Namespaces.Resource {
			return []kernel.Key{e.Key}
		}
		if ns, ok := kinds.Namespaces.Get(v, "", e.Key.Namespace); ok && ns.DeletionTimestamp != nil {
			return []kernel.Key{kinds.Namespaces.Key("", ns.Name)}
		}
		return nil
	},
	Decide: decideNamespace,
}

// namespaced are the resources whose objects are in namespaces, in the order
// of kinds.All.
var namespaced = func() []kernel.Resource {
	var rs []kernel.Resource
	for _, row := range kinds.All {
		if info := row.Describe(); !info.Cluster {
			rs = append(rs, info.Resource)
		}
	}
	return rs
}()

func decideNamespace(v *kernel.View, k kernel.Key, now time.Time) kernel.Decision {
	ns, ok := kinds.Namespaces.Get(v, "", k.Name)
	if !ok || ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return kernel.Decision{}
	}
	left := contents{finalizers: map[string]int{}}
	var d kernel.Decision
	for _, r := range namespaced {
		d.Changes = append(d.Changes, left.add(v, r, ns.Name, maxDeletes-len(d.Changes))...)
	}
	switch {
	case len(d.Changes) > 0: // those that go at once need not be told of
		if len(d.Changes) == maxDeletes {
			d.Revisit = now
		}
		return d
	case left.objects == 0:
		ns = ns.DeepCopy()
		ns.Spec.Finalizers = slices.DeleteFunc(ns.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
		return kernel.Decision{Changes: []kernel.Change{kinds.Namespaces.Put(ns, "", "nothing is left in it")}}
	}
	was := ns
	ns = ns.DeepCopy()
	left.explain(ns, now)
	if same(was, ns) {
		return kernel.Decision{}
	}
	if at := mayWriteAt(v, k, namespaceActor, blockedEvery, now); at.After(now) {
		return kernel.Decision{Revisit: at}
	}
	return kernel.Decision{Changes: []kernel.Change{kinds.Namespaces.Put(ns, "namespace.blocked", left.remaining())}}
}

// contents is what is left in a namespace.
type contents struct {
	objects    int
	kinds      []string       // "pods. has 2 resource instances"
	finalizers map[string]int // objects by the finalizer that keeps them
}

// add counts the objects of a resource and deletes those that nobody has
// deleted yet, but no more than room.
func (c *contents) add(v *kernel.View, r kernel.Resource, ns string, room int) []kernel.Change {
	var changes []kernel.Change
	count := 0
	for e := range v.Entries(r, ns) {
		o := e.Object()
		count++
		if o.GetDeletionTimestamp() == nil {
			if len(changes) < room {
				changes = append(changes, kernel.Change{Key: e.Key, Note: "its namespace is deleted"})
			}
			continue
		}
		for _, f := range o.GetFinalizers() {
			c.finalizers[f]++
		}
	}
	if count > 0 {
		// As Kubernetes says it: resource and group, divided by a dot.
		c.kinds = append(c.kinds, fmt.Sprintf("%s.%s has %d resource instances", r.Plural, r.Group, count))
	}
	c.objects += count
	return changes
}

func (c *contents) remaining() string {
	return "Some resources are remaining: " + strings.Join(c.kinds, ", ")
}

// explain sets the conditions that say what keeps the namespace.
func (c *contents) explain(ns *corev1.Namespace, now time.Time) {
	set := func(t corev1.NamespaceConditionType, status corev1.ConditionStatus, reason, message string) {
		one := corev1.NamespaceCondition{Type: t, Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(now)}
		for i, old := range ns.Status.Conditions {
			if old.Type == t {
				if old.Status == status {
					one.LastTransitionTime = old.LastTransitionTime
				}
				ns.Status.Conditions[i] = one
				return
			}
		}
		ns.Status.Conditions = append(ns.Status.Conditions, one)
	}
	set(corev1.NamespaceDeletionDiscoveryFailure, corev1.ConditionFalse, "ResourcesDiscovered", "All resources successfully discovered")
	set(corev1.NamespaceDeletionGVParsingFailure, corev1.ConditionFalse, "ParsedGroupVersions", "All legacy kube types successfully parsed")
	set(corev1.NamespaceDeletionContentFailure, corev1.ConditionFalse, "ContentDeleted",
		"All content successfully deleted, may be waiting on finalization")
	set(corev1.NamespaceContentRemaining, corev1.ConditionTrue, "SomeResourcesRemain", c.remaining())
	if len(c.finalizers) == 0 {
		set(corev1.NamespaceFinalizersRemaining, corev1.ConditionFalse, "ContentHasNoFinalizers", "All content-preserving finalizers finished")
		return
	}
	var names []string
	for _, f := range slices.Sorted(maps.Keys(c.finalizers)) {
		names = append(names, fmt.Sprintf("%s in %d resource instances", f, c.finalizers[f]))
	}
	set(corev1.NamespaceFinalizersRemaining, corev1.ConditionTrue, "SomeFinalizersRemain",
		"Some content in the namespace has finalizers remaining: "+strings.Join(names, ", "))
}
