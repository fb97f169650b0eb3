package controllers

import (
	"hash/fnv"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// summaryEvery is the least time between two writes of a summary (a status, an
// endpoint slice) of one object, so that a hundred pods that become ready
// together are a few events and not a hundred.
const summaryEvery = 100 * time.Millisecond

// mayWriteAt returns when source may write the object at k again, if it wants
// at most one write per interval: now, or a later time. Only its own last write
// counts; whatever others change is answered at once.
func mayWriteAt(v *kernel.View, k kernel.Key, source string, every time.Duration, now time.Time) time.Time {
	e := v.Entry(k)
	if e == nil || e.Delete || e.Source != source || e.Time.After(now) { // a clock that jumped back delays nothing
		return now
	}
	if at := e.Time.Add(every); at.After(now) {
		return at
	}
	return now
}

// earlier returns the earlier of two times, of which the zero one means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// safeAlphabet has no vowels and no digits that look like letters, so that no
// suffix is a word: it is the one of Kubernetes' generated names.
const safeAlphabet = "bcdfghjklmnpqrstvwxz2456789"

// suffixLength is how long Kubernetes' generated suffixes are.
const suffixLength = 5

// suffix derives a short name part from the given parts.
func suffix(parts ...string) string {
	h := fnv.New64a()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0}) // so that ("a","bc") differs from ("ab","c")
	}
	sum := h.Sum64()
	sum ^= sum >> 29 // FNV's low bits change little with the last byte
	sum *= 0xbf58476d1ce4e5b9
	sum ^= sum >> 32
	out := make([]byte, suffixLength)
	for i := range out {
		out[i] = safeAlphabet[sum%uint64(len(safeAlphabet))]
		sum /= uint64(len(safeAlphabet))
	}
	return string(out)
}

// maxGeneratedBase bounds, in bytes, what comes before a generated suffix, so
// that the name is still a DNS label.
const maxGeneratedBase = 63 - suffixLength

// freeName returns the name for the next object that the owner makes: base and
// the suffix of the smallest n, from the given one on, whose name is neither
// live nor a tombstone. It returns the n after it, too.
func freeName(v *kernel.View, r kernel.Resource, namespace, base, ownerUID string, n int) (name string, next int) {
	base = base[:min(len(base), maxGeneratedBase)]
	for ; ; n++ {
		name = base + suffix(ownerUID, strconv.Itoa(n))
		if v.Entry(kernel.Key{Resource: r, Namespace: namespace, Name: name}) == nil {
			return name, n + 1
		}
	}
}

// condition returns the pod's condition of a type, or nil.
func condition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// ready tells whether the pod's Ready condition is true.
func ready(p *corev1.Pod) bool {
	c := condition(p, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// availableAt returns when a ready pod counts as available: it has to have been
// ready for minReadySeconds. ok is false for a pod that is not ready.
func availableAt(p *corev1.Pod, minReadySeconds int32) (at time.Time, ok bool) {
	c := condition(p, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionTrue {
		return time.Time{}, false
	}
	if minReadySeconds == 0 {
		return time.Time{}, true
	}
	return c.LastTransitionTime.Add(time.Duration(minReadySeconds) * time.Second), true
}

// finished tells whether the pod's containers have all ended for good.
func finished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// active tells whether the pod runs or will run.
func active(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && !finished(p)
}

// controls tells whether the object's controller is the one with the uid.
func controls(uid string, o metav1.Object) bool {
	ref := metav1.GetControllerOfNoCopy(o)
	return ref != nil && string(ref.UID) == uid
}

// controllerKey is the key of the object's controller if that is of the kind,
// which lives in the same namespace.
func controllerKey(o metav1.Object, gvk schema.GroupVersionKind, r kernel.Resource) (kernel.Key, bool) {
	ref := metav1.GetControllerOfNoCopy(o)
	if ref == nil || ref.Kind != gvk.Kind {
		return kernel.Key{}, false
	}
	if gv, err := schema.ParseGroupVersion(ref.APIVersion); err != nil || gv.Group != gvk.Group {
		return kernel.Key{}, false
	}
	return kernel.Key{Resource: r, Namespace: o.GetNamespace(), Name: ref.Name}, true
}

// refusedKey is the key of the decider whose Refusal the event is about, if any.
func refusedKey(e kernel.Event, decider string) []kernel.Key {
	r, old, ok := kinds.Refusals.Of(e)
	if r == nil {
		r = old
	}
	if !ok || r == nil || r.Spec.Decider != decider {
		return nil
	}
	k, err := events.ParseKey(r.Spec.Key)
	if err != nil {
		return nil // somebody else's writing
	}
	return []kernel.Key{k}
}

// refusedIn are the keys in a namespace for which the decider has a Refusal.
func refusedIn(v *kernel.View, decider, namespace string) []kernel.Key {
	var keys []kernel.Key
	for _, r := range kinds.Refusals.List(v, "") {
		if k, err := events.ParseKey(r.Spec.Key); err == nil && r.Spec.Decider == decider && k.Namespace == namespace {
			keys = append(keys, k)
		}
	}
	return keys
}

// part is an object that a workload keeps: a pod, a ReplicaSet.
type part interface {
	comparable
	metav1.Object
}

// keepersOf are the workloads of a kind that may keep an object: its controller
// or, if it has none, those that select it. o may be nil.
func keepersOf[T kernel.Object, P part](v *kernel.View, kind *kinds.Kind[T], selector func(T) *metav1.LabelSelector, o P) []kernel.Key {
	var none P
	if o == none {
		return nil
	}
	if k, ok := controllerKey(o, kind.GVK(), kind.Resource); ok {
		return []kernel.Key{k}
	}
	if metav1.GetControllerOfNoCopy(o) != nil {
		return nil
	}
	var keys []kernel.Key
	for _, w := range kind.List(v, o.GetNamespace()) {
		if selects(selector(w), o.GetLabels()) {
			keys = append(keys, kind.Key(w.GetNamespace(), w.GetName()))
		}
	}
	return keys
}

// selects tells whether a label selector that selects something selects the
// labels. An empty one selects nothing here: that is what workloads mean by it.
func selects(s *metav1.LabelSelector, set map[string]string) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && !selector.Empty() && selector.Matches(labels.Set(set))
}
