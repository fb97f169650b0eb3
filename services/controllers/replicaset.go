package controllers

import (
	"cmp"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/kinds/rutterv1"
)

// maxCreates bounds the pods that one decision creates or deletes.
const maxCreates = 500

// replicaSetActor is the decider's name in the log.
const replicaSetActor = "controllers/replicaset"

// replicaSet keeps as many pods as each ReplicaSet asks for.
var replicaSet = kernel.Decider{
	Name:   replicaSetActor,
	Reads:  []kernel.Resource{kinds.ReplicaSets.Resource, kinds.Pods.Resource, kinds.Refusals.Resource, kinds.ServiceAccounts.Resource},
	Writes: []kernel.Resource{kinds.ReplicaSets.Resource, kinds.Pods.Resource},
	Wakes:  wakeReplicaSets,
	Decide: decideReplicaSet,
}

func wakeReplicaSets(v *kernel.View, e kernel.Event) []kernel.Key {
	switch e.Key.Resource {
	case kinds.ReplicaSets.Resource:
		return []kernel.Key{e.Key}
	case kinds.Refusals.Resource:
		return refusedKey(e, replicaSetActor)
	case kinds.ServiceAccounts.Resource:
		return refusedIn(v, replicaSetActor, e.Key.Namespace) // perhaps for want of it
	}
	pod, old, ok := kinds.Pods.Of(e)
	if !ok || pod != nil && old != nil && sameToReplicaSet(pod, old) {
		return nil
	}
	selector := func(rs *appsv1.ReplicaSet) *metav1.LabelSelector { return rs.Spec.Selector }
	return append(keepersOf(v, kinds.ReplicaSets, selector, pod), keepersOf(v, kinds.ReplicaSets, selector, old)...)
}

// sameToReplicaSet tells whether a change of a pod can be of no interest to a
// ReplicaSet: most of a pod's events are about its containers.
func sameToReplicaSet(a, b *corev1.Pod) bool {
	return a.UID == b.UID && a.Status.Phase == b.Status.Phase &&
		apiequality.Semantic.DeepEqual(condition(a, corev1.PodReady), condition(b, corev1.PodReady)) &&
		(a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) &&
		maps.Equal(a.Labels, b.Labels) && apiequality.Semantic.DeepEqual(a.OwnerReferences, b.OwnerReferences)
}

func decideReplicaSet(v *kernel.View, k kernel.Key, now time.Time) kernel.Decision {
	rs, ok := kinds.ReplicaSets.Get(v, k.Namespace, k.Name)
	if !ok {
		return kernel.Decision{}
	}
	own := claimPods(v, rs)
	d := kernel.Decision{Changes: own.changes}
	want := int(replicasOf(rs))
	have := len(own.active) + len(own.adopted)
	switch {
	case rs.DeletionTimestamp != nil: // its pods are the garbage collector's
	case have < want && own.rejectedUntil(now).After(now):
		d.Revisit = own.rejectedUntil(now)
	case have < want:
		d.Changes = append(d.Changes, createPods(v, rs, want, have)...)
	case have > want:
		d.Changes = append(d.Changes, deletePods(v, rs, own.active, have-want, now)...)
	}
	if len(d.Changes) >= maxCreates {
		d.Revisit = now
	}
	// The pods that this decision makes or removes wake it again, and then the
	// status can be told once. One that has been waiting for a second because
	// its pods are refused is told all the same.
	if len(d.Changes) > 0 && v.Entry(k).Time.Add(time.Second).After(now) {
		return d
	}
	status, revisit := replicaSetStatus(rs, own, now)
	status.Conditions = tellRefusal(status.Conditions, kinds.RefusalOf(v, replicaSetActor, k), have < want, now)
	d.Revisit = earlier(d.Revisit, revisit)
	if apiequality.Semantic.DeepEqual(status, rs.Status) {
		return d
	}
	if at := mayWriteAt(v, k, replicaSetActor, summaryEvery, now); at.After(now) {
		d.Revisit = earlier(d.Revisit, at)
		return d
	}
	rs = rs.DeepCopy()
	rs.Status = status
	d.Changes = append(d.Changes, kinds.ReplicaSets.Put(rs, "", ""))
	return d
}

func replicasOf(rs *appsv1.ReplicaSet) int32 {
	if rs.Spec.Replicas == nil {
		return 1 // the default, should it not have been filled in
	}
	return *rs.Spec.Replicas
}

// claimed are the pods of a ReplicaSet, by what they are to it.
type claimed struct {
	active      []*corev1.Pod
	adopted     []*corev1.Pod // active ones that become its own with this decision
	terminating int32
	changes     []kernel.Change // adoptions and releases
	rejections  []time.Time     // when its nodes refused pods that are still there
}

const (
	// rejectedFirst is how long the next pod waits after a node has refused two;
	// it doubles with every further one, up to rejectedMax. The scheduler may
	// send them all to one node, which has less room than the log knows: it is
	// still ending pods that are gone from the log.
	rejectedFirst = time.Second
	rejectedMax   = time.Minute
	// rejectedFor is for how long a refusal counts.
	rejectedFor = 10 * time.Minute
)

// rejectedUntil is when pods may be made again after nodes refused some.
func (c *claimed) rejectedUntil(now time.Time) time.Time {
	var newest time.Time
	n := 0
	for _, at := range c.rejections {
		if since := now.Sub(at); since < rejectedFor && since > -rejectedMax { // not by a clock that is hours ahead
			n++
			if at.After(newest) {
				newest = at
			}
		}
	}
	if n < 2 {
		return time.Time{}
	}
	wait := rejectedMax
	if n < 8 { // or it would overflow one day
		wait = min(rejectedFirst<<(n-2), rejectedMax)
	}
	return newest.Add(wait)
}

// rejected tells whether a node refused to run the pod at all.
func rejected(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed && pod.Status.Reason != "" && len(pod.Status.ContainerStatuses) == 0
}

// claimPods finds the pods that belong to the ReplicaSet, takes up those that
// match its selector and belong to nobody, and lets go of its own that do not
// match any longer.
func claimPods(v *kernel.View, rs *appsv1.ReplicaSet) claimed {
	var c claimed
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return c // refused by validation
	}
	for e := range v.Entries(kinds.Pods.Resource, rs.Namespace) {
		pod := e.Object().(*corev1.Pod)
		ref := metav1.GetControllerOfNoCopy(pod)
		mine := ref != nil && ref.UID == rs.UID
		if !mine && ref != nil {
			continue
		}
		matches := selector.Matches(labels.Set(pod.Labels))
		switch {
		case mine && matches && pod.DeletionTimestamp != nil && !finished(pod):
			c.terminating++
		case mine && matches && active(pod):
			c.active = append(c.active, pod)
		case mine && rejected(pod):
			c.rejections = append(c.rejections, e.Time)
		case !active(pod) || rs.DeletionTimestamp != nil:
		case mine && !matches:
			c.changes = append(c.changes, release(pod, rs))
		case !mine && matches:
			c.adopted = append(c.adopted, pod)
			c.changes = append(c.changes, adopt(pod, rs))
		}
	}
	return c
}

func release(pod *corev1.Pod, rs *appsv1.ReplicaSet) kernel.Change {
	pod = pod.DeepCopy()
	pod.OwnerReferences = slices.DeleteFunc(pod.OwnerReferences, func(r metav1.OwnerReference) bool { return r.UID == rs.UID })
	return kinds.Pods.Put(pod, "pod.released", fmt.Sprintf("its labels no longer match the selector of replicaset %s", rs.Name))
}

func adopt(pod *corev1.Pod, rs *appsv1.ReplicaSet) kernel.Change {
	pod = pod.DeepCopy()
	pod.OwnerReferences = append(pod.OwnerReferences, *metav1.NewControllerRef(rs, kinds.ReplicaSets.GVK()))
	return kinds.Pods.Put(pod, "pod.adopted", fmt.Sprintf("it has no controller and matches the selector of replicaset %s", rs.Name))
}

// createPods makes the pods that are missing.
func createPods(v *kernel.View, rs *appsv1.ReplicaSet, want, have int) []kernel.Change {
	var changes []kernel.Change
	note := fmt.Sprintf("replicaset %s has %d of %d pods", rs.Name, have, want)
	for n := 0; have < want && len(changes) < maxCreates; have++ {
		var name string
		name, n = freeName(v, kinds.Pods.Resource, rs.Namespace, rs.Name+"-", string(rs.UID), n)
		changes = append(changes, kinds.Pods.Put(podOf(rs, name), "", note))
	}
	return changes
}

func podOf(rs *appsv1.ReplicaSet, name string) *corev1.Pod {
	t := rs.Spec.Template.DeepCopy()
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, GenerateName: rs.Name + "-", Namespace: rs.Namespace,
			Labels: t.Labels, Annotations: t.Annotations, Finalizers: t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(rs, kinds.ReplicaSets.GVK())},
		},
		Spec: t.Spec,
	}
}

// deletePods removes the pods that are too many, the ones first that are
// missed least.
func deletePods(v *kernel.View, rs *appsv1.ReplicaSet, pods []*corev1.Pod, surplus int, now time.Time) []kernel.Change {
	ranks := rankPods(v, rs, pods, now)
	slices.SortFunc(ranks, compareRanks)
	note := fmt.Sprintf("replicaset %s has %d of %d pods", rs.Name, len(pods), replicasOf(rs))
	var changes []kernel.Change
	for _, r := range ranks[:min(surplus, len(ranks), maxCreates)] {
		changes = append(changes, kinds.Pods.Remove(r.pod, "", note))
	}
	return changes
}

// rank is what decides which of two pods is deleted first.
type rank struct {
	pod       *corev1.Pod
	neighbors int // pods of the same workload on its node
	now       time.Time
}

// rankPods counts for each pod the active pods of its workload (of all
// ReplicaSets of the same controller) on the same node.
func rankPods(v *kernel.View, rs *appsv1.ReplicaSet, pods []*corev1.Pod, now time.Time) []rank {
	family := map[string]bool{string(rs.UID): true}
	if ref := metav1.GetControllerOfNoCopy(rs); ref != nil {
		for _, other := range kinds.ReplicaSets.List(v, rs.Namespace) {
			if controls(string(ref.UID), other) {
				family[string(other.UID)] = true
			}
		}
	}
	onNode := map[string]int{}
	for _, p := range kinds.Pods.List(v, rs.Namespace) {
		if ref := metav1.GetControllerOfNoCopy(p); ref != nil && family[string(ref.UID)] && active(p) && p.Spec.NodeName != "" {
			onNode[p.Spec.NodeName]++
		}
	}
	ranks := make([]rank, len(pods))
	for i, p := range pods {
		ranks[i] = rank{p, onNode[p.Spec.NodeName], now}
	}
	return ranks
}

// compareRanks orders pods as Kubernetes' scale-down does, the first to be
// deleted first: unassigned, then pending, not ready, cheap to delete, doubled
// up on a node, ready for a short time, often restarted, new.
func compareRanks(a, b rank) int {
	p, q := a.pod, b.pod
	return cmp.Or(
		compareBool(p.Spec.NodeName != "", q.Spec.NodeName != ""),
		cmp.Compare(phaseRank(p), phaseRank(q)),
		compareBool(ready(p), ready(q)),
		cmp.Compare(deletionCost(p), deletionCost(q)),
		cmp.Compare(b.neighbors, a.neighbors),
		compareAges(readySince(p), readySince(q), a.now),
		cmp.Compare(restarts(q), restarts(p)),
		compareAges(p.CreationTimestamp.Time, q.CreationTimestamp.Time, a.now),
		cmp.Compare(p.UID, q.UID),
		cmp.Compare(p.Name, q.Name),
	)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func phaseRank(p *corev1.Pod) int {
	switch p.Status.Phase {
	case corev1.PodRunning:
		return 2
	case corev1.PodUnknown:
		return 1
	}
	return 0
}

func deletionCost(p *corev1.Pod) int32 {
	cost, err := strconv.ParseInt(p.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return int32(cost)
}

func readySince(p *corev1.Pod) time.Time {
	if c := condition(p, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}

func restarts(p *corev1.Pod) int32 {
	var most int32
	for _, s := range p.Status.ContainerStatuses {
		most = max(most, s.RestartCount)
	}
	for _, s := range p.Status.InitContainerStatuses {
		most = max(most, s.RestartCount)
	}
	return most
}

// compareAges puts younger before older, by the order of magnitude of the age
// only: pods of about the same age are deleted in an order that has nothing to
// do with it, so that not always the newest node loses its pods
// (https://kep.k8s.io/2185).
func compareAges(a, b, now time.Time) int {
	magnitude := func(t time.Time) int {
		if t.IsZero() {
			return 0
		}
		return bits.Len64(uint64(max(now.Sub(t), 0)))
	}
	return cmp.Compare(magnitude(a), magnitude(b))
}

// tellRefusal keeps the condition ReplicaFailure, which says that pods cannot be
// created, or deleted, and why.
func tellRefusal(conditions []appsv1.ReplicaSetCondition, r *rutterv1.Refusal, creates bool, now time.Time) []appsv1.ReplicaSetCondition {
	i := slices.IndexFunc(conditions, func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure })
	if r == nil {
		if i >= 0 {
			conditions = slices.Delete(conditions, i, i+1)
		}
		return conditions
	}
	failure := appsv1.ReplicaSetCondition{
		Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedDelete", Message: r.Spec.Message,
		LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
	}
	if creates {
		failure.Reason = "FailedCreate"
	}
	if i < 0 {
		return append(conditions, failure)
	}
	failure.LastTransitionTime = conditions[i].LastTransitionTime
	conditions[i] = failure
	return conditions
}

// replicaSetStatus sums up the pods, and says when the sum changes by itself.
func replicaSetStatus(rs *appsv1.ReplicaSet, own claimed, now time.Time) (appsv1.ReplicaSetStatus, time.Time) {
	status := *rs.Status.DeepCopy()
	status.ObservedGeneration = rs.Generation
	status.Replicas, status.FullyLabeledReplicas, status.ReadyReplicas, status.AvailableReplicas = 0, 0, 0, 0
	status.TerminatingReplicas = &own.terminating
	template := labels.SelectorFromSet(rs.Spec.Template.Labels)
	var revisit time.Time
	for _, pod := range slices.Concat(own.active, own.adopted) {
		status.Replicas++
		if template.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeledReplicas++
		}
		at, ok := availableAt(pod, rs.Spec.MinReadySeconds)
		if !ok {
			continue
		}
		status.ReadyReplicas++
		if at.After(now) {
			revisit = earlier(revisit, at)
		} else {
			status.AvailableReplicas++
		}
	}
	return status, revisit
}
