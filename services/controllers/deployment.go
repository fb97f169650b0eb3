package controllers

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// deploymentActor is the decider's name in the log.
const deploymentActor = "controllers/deployment"

// The annotations that Deployments and their ReplicaSets speak with; kubectl
// rollout reads the first two.
const (
	revisionAnnotation        = "deployment.kubernetes.io/revision"
	revisionHistoryAnnotation = "deployment.kubernetes.io/revision-history"
	desiredReplicasAnnotation = "deployment.kubernetes.io/desired-replicas" // the Deployment's replicas when it last scaled this set
	maxReplicasAnnotation     = "deployment.kubernetes.io/max-replicas"     // that and the surge
)

// maxRevisionHistory bounds the revision-history annotation, in bytes.
const maxRevisionHistory = 2000

// deployment keeps for each Deployment one ReplicaSet per pod template and
// moves its replicas from the old ones to the new one.
var deployment = kernel.Decider{
	Name:   deploymentActor,
	Reads:  []kernel.Resource{kinds.Deployments.Resource, kinds.ReplicaSets.Resource},
	Writes: []kernel.Resource{kinds.Deployments.Resource, kinds.ReplicaSets.Resource},
	Wakes:  wakeDeployments,
	Decide: decideDeployment,
}

func wakeDeployments(v *kernel.View, e kernel.Event) []kernel.Key {
	if e.Key.Resource == kinds.Deployments.Resource {
		return []kernel.Key{e.Key}
	}
	rs, old, ok := kinds.ReplicaSets.Of(e)
	if !ok {
		return nil
	}
	selector := func(d *appsv1.Deployment) *metav1.LabelSelector { return d.Spec.Selector }
	return append(keepersOf(v, kinds.Deployments, selector, rs), keepersOf(v, kinds.Deployments, selector, old)...)
}

func decideDeployment(v *kernel.View, k kernel.Key, now time.Time) kernel.Decision {
	d, ok := kinds.Deployments.Get(v, k.Namespace, k.Name)
	if !ok {
		return kernel.Decision{}
	}
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil || selector.Empty() {
		return kernel.Decision{} // refused by validation
	}
	r := newRollout(v, d, selector, now)
	switch {
	case r.d.DeletionTimestamp != nil:
		r.findNew()
		r.sumUp()
	case r.d.Spec.Paused:
		r.notePause()
		r.findNew()
		r.scale()
		r.cleanUp()
		r.sumUp()
	default:
		r.notePause()
		r.findNew()
		switch {
		case r.wasScaled():
			r.scale()
			r.sumUp()
		case r.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
			r.recreate()
			r.sumUp()
			r.estimateProgress()
		default:
			r.roll()
			r.sumUp()
			r.estimateProgress()
		}
	}
	return r.decision(v, k)
}

// rollout is one decision on one Deployment in the making. The Deployment and
// its ReplicaSets are copies, changed as the decision goes and compared with
// what they were at its end: so each is one change at most.
type rollout struct {
	d, was   *appsv1.Deployment
	now      time.Time
	sets     []*appsv1.ReplicaSet // all, oldest first
	new      *appsv1.ReplicaSet   // the one of the current template, in sets, or nil
	old      []*appsv1.ReplicaSet // the others in sets
	wasSet   map[string]*appsv1.ReplicaSet
	released []*appsv1.ReplicaSet
	removed  []*appsv1.ReplicaSet
	notes    []string          // what was scaled, for the Deployment's event
	setNotes map[string]string // the same by ReplicaSet
	free     func(name string) bool
}

func newRollout(v *kernel.View, d *appsv1.Deployment, selector labels.Selector, now time.Time) *rollout {
	r := &rollout{d: d.DeepCopy(), was: d, now: now, wasSet: map[string]*appsv1.ReplicaSet{}, setNotes: map[string]string{}}
	r.free = func(name string) bool {
		_, taken := kinds.ReplicaSets.Get(v, d.Namespace, name)
		return !taken
	}
	if r.d.Annotations == nil {
		r.d.Annotations = map[string]string{}
	}
	if r.d.Spec.Replicas == nil {
		r.d.Spec.Replicas = new(int32(1))
	}
	for _, rs := range kinds.ReplicaSets.List(v, d.Namespace) {
		ref := metav1.GetControllerOfNoCopy(rs)
		mine, matches := ref != nil && ref.UID == d.UID, selector.Matches(labels.Set(rs.Labels))
		keep := d.DeletionTimestamp == nil && rs.DeletionTimestamp == nil
		if !mine && (ref != nil || !matches || !keep) || mine && !matches && !keep {
			continue
		}
		own := rs.DeepCopy()
		if own.Annotations == nil {
			own.Annotations = map[string]string{}
		}
		r.wasSet[rs.Name] = rs
		if mine && !matches {
			own.OwnerReferences = slices.DeleteFunc(own.OwnerReferences, func(o metav1.OwnerReference) bool { return o.UID == d.UID })
			r.released = append(r.released, own)
			continue
		}
		if !mine {
			own.OwnerReferences = append(own.OwnerReferences, *metav1.NewControllerRef(d, kinds.Deployments.GVK()))
		}
		r.sets = append(r.sets, own)
	}
	slices.SortFunc(r.sets, compareAge)
	return r
}

// compareAge puts the older ReplicaSet first.
func compareAge(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// findNew tells the ReplicaSet of the Deployment's template from the others,
// and brings the revisions of both in step.
func (r *rollout) findNew() {
	for _, rs := range r.sets {
		if r.new == nil && sameTemplate(&rs.Spec.Template, &r.d.Spec.Template) {
			r.new = rs
		} else {
			r.old = append(r.old, rs)
		}
	}
	if r.new == nil || r.d.DeletionTimestamp != nil {
		return
	}
	r.annotate(r.new)
	r.new.Spec.MinReadySeconds = r.d.Spec.MinReadySeconds
	r.d.Annotations[revisionAnnotation] = r.new.Annotations[revisionAnnotation]
	if r.hasDeadline() && r.condition(appsv1.DeploymentProgressing) == nil {
		r.set(appsv1.DeploymentProgressing, corev1.ConditionTrue, "FoundNewReplicaSet", fmt.Sprintf("Found new replica set %q", r.new.Name))
	}
}

// sameTemplate compares two templates, without the hash that is added to a
// ReplicaSet's. Not the hashes: they change when a new field gets a default.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	x, y := *a, *b
	x.Labels, y.Labels = maps.Clone(a.Labels), maps.Clone(b.Labels)
	delete(x.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(y.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return apiequality.Semantic.DeepEqual(x, y)
}

// createNew makes the ReplicaSet of the current template.
func (r *rollout) createNew() {
	template := r.d.Spec.Template.DeepCopy()
	hash, name := "", ""
	for {
		hash = templateHash(template, r.d.Status.CollisionCount)
		name = r.d.Name[:min(len(r.d.Name), 252-len(hash))] + "-" + hash
		if r.free(name) {
			break
		}
		// Another ReplicaSet has this name: hash differently.
		count := int32(1)
		if r.d.Status.CollisionCount != nil {
			count += *r.d.Status.CollisionCount
		}
		r.d.Status.CollisionCount = &count
	}
	template.Labels = maps.Clone(template.Labels)
	if template.Labels == nil {
		template.Labels = map[string]string{}
	}
	template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	selector := r.d.Spec.Selector.DeepCopy()
	if selector.MatchLabels == nil {
		selector.MatchLabels = map[string]string{}
	}
	selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	r.new = &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: r.d.Namespace, Labels: maps.Clone(template.Labels), Annotations: map[string]string{},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(r.was, kinds.Deployments.GVK())},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: new(int32(0)), MinReadySeconds: r.d.Spec.MinReadySeconds, Selector: selector, Template: *template,
		},
	}
	r.annotate(r.new)
	r.markScale(r.new)
	r.sets = append(r.sets, r.new)
	r.d.Annotations[revisionAnnotation] = r.new.Annotations[revisionAnnotation]
	if r.hasDeadline() {
		r.set(appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", name))
	}
}

// templateHash names a pod template: the same number of the same characters as
// Kubernetes' pod-template-hash.
func templateHash(t *corev1.PodTemplateSpec, collisions *int32) string {
	body, err := json.Marshal(t)
	if err != nil {
		panic(fmt.Sprintf("a pod template that came out of the log does not encode: %v", err))
	}
	h := fnv.New32a()
	h.Write(body)
	if collisions != nil {
		h.Write([]byte(strconv.Itoa(int(*collisions))))
	}
	digits := []byte(strconv.FormatUint(uint64(h.Sum32()), 10))
	for i, c := range digits {
		digits[i] = safeAlphabet[int(c)%len(safeAlphabet)]
	}
	return string(digits)
}

// annotate gives the new ReplicaSet the Deployment's annotations and a
// revision above all others.
func (r *rollout) annotate(rs *appsv1.ReplicaSet) {
	for k, v := range r.d.Annotations { // in no order: each key is set once
		switch k {
		case corev1.LastAppliedConfigAnnotation, revisionAnnotation, revisionHistoryAnnotation,
			desiredReplicasAnnotation, maxReplicasAnnotation, appsv1.DeprecatedRollbackTo:
		default:
			rs.Annotations[k] = v
		}
	}
	next := int64(1)
	for _, o := range r.old {
		next = max(next, revision(o)+1)
	}
	had, has := rs.Annotations[revisionAnnotation]
	if revision(rs) >= next {
		return
	}
	rs.Annotations[revisionAnnotation] = strconv.FormatInt(next, 10)
	if !has {
		return
	}
	// It was an old one and is the current one again: a rollback.
	history := append(strings.FieldsFunc(rs.Annotations[revisionHistoryAnnotation], func(c rune) bool { return c == ',' }), had)
	for len(strings.Join(history, ",")) > maxRevisionHistory {
		history = history[1:]
	}
	rs.Annotations[revisionHistoryAnnotation] = strings.Join(history, ",")
}

// revision is a ReplicaSet's place in the Deployment's history; 0 if none.
func revision(rs *appsv1.ReplicaSet) int64 {
	n, err := strconv.ParseInt(rs.Annotations[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// cleanUp removes the oldest ReplicaSets beyond the revision history.
func (r *rollout) cleanUp() {
	limit := r.d.Spec.RevisionHistoryLimit
	if limit == nil || *limit == math.MaxInt32 {
		return
	}
	old := slices.DeleteFunc(slices.Clone(r.old), func(rs *appsv1.ReplicaSet) bool { return rs.DeletionTimestamp != nil })
	slices.SortFunc(old, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Or(cmp.Compare(revision(a), revision(b)), compareAge(a, b))
	})
	for _, rs := range old[:max(len(old)-int(*limit), 0)] {
		if rs.Status.Replicas == 0 && replicasOf(rs) == 0 && rs.Generation <= rs.Status.ObservedGeneration {
			r.removed = append(r.removed, rs)
		}
	}
}

// decision compares what has become of the Deployment and its ReplicaSets with
// what they were.
func (r *rollout) decision(v *kernel.View, k kernel.Key) kernel.Decision {
	var d kernel.Decision
	for _, rs := range r.sets {
		was := r.wasSet[rs.Name]
		if slices.Contains(r.removed, rs) || was != nil && apiequality.Semantic.DeepEqual(was, rs) {
			continue
		}
		ceType := ""
		if was != nil && len(was.OwnerReferences) < len(rs.OwnerReferences) {
			ceType = "replicaset.adopted"
		}
		d.Changes = append(d.Changes, kinds.ReplicaSets.Put(rs, ceType, r.setNotes[rs.Name]))
	}
	for _, rs := range r.released {
		note := fmt.Sprintf("its labels no longer match the selector of deployment %s", r.d.Name)
		d.Changes = append(d.Changes, kinds.ReplicaSets.Put(rs, "replicaset.released", note))
	}
	for _, rs := range r.removed {
		note := fmt.Sprintf("deployment %s keeps %d old revisions", r.d.Name, *r.d.Spec.RevisionHistoryLimit)
		d.Changes = append(d.Changes, kinds.ReplicaSets.Remove(rs, "", note))
	}
	if r.d.DeletionTimestamp == nil {
		d.Revisit = r.deadline()
	}
	if apiequality.Semantic.DeepEqual(r.was, r.d) {
		return d
	}
	// A Deployment's generation counts its annotations, too: the one that this
	// write makes has been observed, for nobody else can have made it.
	if !maps.Equal(r.was.Annotations, r.d.Annotations) {
		r.d.Status.ObservedGeneration++
	}
	// A mere change of the sums can wait; what was just done cannot, for the
	// next decision would not know of it.
	if at := mayWriteAt(v, k, deploymentActor, summaryEvery, r.now); at.After(r.now) && len(d.Changes) == 0 {
		d.Revisit = earlier(d.Revisit, at)
		return d
	}
	ceType := ""
	if len(r.notes) > 0 {
		ceType = "deployment.scaled" // what kubectl describe shows as ScalingReplicaSet
	}
	d.Changes = append(d.Changes, kinds.Deployments.Put(r.d, ceType, strings.Join(r.notes, "; ")))
	return d
}
