package controllers

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// available counts the set's available pods, but never more than it shall
// have: what it counted before it was scaled down is on its way out.
func available(rs *appsv1.ReplicaSet) int32 {
	return min(rs.Status.AvailableReplicas, replicasOf(rs))
}

// present counts the pods that the set has or may have at any moment: those
// that it was scaled down by are there until it says that they are not.
func present(rs *appsv1.ReplicaSet) int32 {
	return max(replicasOf(rs), rs.Status.Replicas)
}

// sum adds up a number of each set.
func sum(sets []*appsv1.ReplicaSet, of func(*appsv1.ReplicaSet) int32) int32 {
	var total int32
	for _, rs := range sets {
		total += of(rs)
	}
	return total
}

// running are the sets that shall have pods.
func running(sets []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	return slices.DeleteFunc(slices.Clone(sets), func(rs *appsv1.ReplicaSet) bool { return replicasOf(rs) == 0 })
}

// limits are how many pods a rolling update may have above, and lack below, the
// Deployment's replicas: percentages are rounded up for the surge and down for
// the missing, and they are not both zero, or nothing could move.
func limits(d *appsv1.Deployment) (surge, missing int32) {
	replicas := *d.Spec.Replicas
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return 0, 0
	}
	if u := d.Spec.Strategy.RollingUpdate; u != nil {
		surge, missing = portion(u.MaxSurge, replicas, true), portion(u.MaxUnavailable, replicas, false)
	}
	if surge == 0 && missing == 0 {
		missing = 1
	}
	return surge, min(missing, replicas)
}

// portion is a number, or a percentage of the whole, in integers.
func portion(p *intstr.IntOrString, whole int32, up bool) int32 {
	if p == nil {
		return 0
	}
	if p.Type == intstr.Int {
		return p.IntVal
	}
	percent, err := strconv.ParseInt(strings.TrimSuffix(p.StrVal, "%"), 10, 32)
	if err != nil {
		return 0 // refused by validation
	}
	hundredths := percent * int64(whole)
	if up {
		hundredths += 99
	}
	return int32(hundredths / 100)
}

// scaleTo changes how many pods a set shall have.
func (r *rollout) scaleTo(rs *appsv1.ReplicaSet, replicas int32) {
	from := replicasOf(rs)
	if from == replicas {
		return
	}
	direction := "up"
	if from > replicas {
		direction = "down"
	}
	note := fmt.Sprintf("Scaled %s replica set %s from %d to %d", direction, rs.Name, from, replicas)
	rs.Spec.Replicas = &replicas
	r.markScale(rs)
	r.notes, r.setNotes[rs.Name] = append(r.notes, note), note
}

// markScale notes on the set the size of the Deployment that it was scaled
// for: so a later scaling is told from a rollout.
func (r *rollout) markScale(rs *appsv1.ReplicaSet) {
	surge, _ := limits(r.d)
	rs.Annotations[desiredReplicasAnnotation] = strconv.Itoa(int(*r.d.Spec.Replicas))
	rs.Annotations[maxReplicasAnnotation] = strconv.Itoa(int(*r.d.Spec.Replicas + surge))
}

// wasScaled tells whether a user has changed the Deployment's replicas since
// its sets were scaled last.
func (r *rollout) wasScaled() bool {
	return slices.ContainsFunc(running(r.sets), func(rs *appsv1.ReplicaSet) bool {
		desired, err := strconv.ParseInt(rs.Annotations[desiredReplicasAnnotation], 10, 32)
		return err == nil && int32(desired) != *r.d.Spec.Replicas
	})
}

// roll is one step of a rolling update: more new pods as far as the surge
// allows, fewer old ones as far as enough are available.
func (r *rollout) roll() {
	if r.new == nil {
		r.createNew()
	}
	replicas := *r.d.Spec.Replicas
	surge, _ := limits(r.d)
	total := sum(r.sets, present)
	switch have := replicasOf(r.new); {
	case have > replicas:
		r.scaleTo(r.new, replicas)
	case have < replicas && total < replicas+surge:
		r.scaleTo(r.new, have+min(replicas+surge-total, replicas-have))
	}
	r.shrinkOld()
	if complete(r.d, &r.was.Status) {
		r.cleanUp()
	}
}

// shrinkOld scales the old sets down: first by the pods that are not available
// anyway, then by what the new set makes up for.
func (r *rollout) shrinkOld() {
	old := running(r.old)
	if len(old) == 0 {
		return
	}
	_, missing := limits(r.d)
	minimum := *r.d.Spec.Replicas - missing
	// New pods that are not available yet must not let old ones go that are.
	spare := sum(r.sets, replicasOf) - minimum - (replicasOf(r.new) - available(r.new))
	for _, rs := range old {
		if unhealthy := min(spare, replicasOf(rs)-available(rs)); unhealthy > 0 {
			r.scaleTo(rs, replicasOf(rs)-unhealthy)
			spare -= unhealthy
		}
	}
	spare = min(spare, sum(r.sets, available)-minimum)
	for _, rs := range old {
		if n := min(spare, replicasOf(rs)); n > 0 {
			r.scaleTo(rs, replicasOf(rs)-n)
			spare -= n
		}
	}
}

// recreate is one step of a Recreate: no new pod before the last old one is gone.
func (r *rollout) recreate() {
	for _, rs := range running(r.old) {
		r.scaleTo(rs, 0)
	}
	for _, rs := range r.old {
		// The set counts its pods up to the last moment of their termination;
		// what it counted before it knew of its new size says nothing.
		left := rs.Status.TerminatingReplicas
		if rs.Status.Replicas > 0 || left != nil && *left > 0 || rs.Status.ObservedGeneration < rs.Generation || len(r.notes) > 0 {
			return
		}
	}
	if r.new == nil {
		r.createNew()
	}
	r.scaleTo(r.new, *r.d.Spec.Replicas)
	if complete(r.d, &r.was.Status) {
		r.cleanUp()
	}
}

// scale follows a change of the Deployment's replicas. In the midst of a
// rollout every set gets its share, so that a bad template does not gain.
func (r *rollout) scale() {
	replicas := *r.d.Spec.Replicas
	active := running(r.sets)
	switch {
	case len(active) == 1:
		r.scaleTo(active[0], replicas)
		r.markScale(active[0])
		return
	case len(active) == 0:
		if r.new != nil {
			r.scaleTo(r.new, replicas)
		} else if len(r.old) > 0 {
			r.scaleTo(r.old[len(r.old)-1], replicas)
		}
		return
	case r.saturated():
		for _, rs := range running(r.old) {
			r.scaleTo(rs, 0)
		}
		return
	case r.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		for _, rs := range active { // nothing to share out; but it is no scaling event any more
			r.markScale(rs)
		}
		return
	}
	r.shareOut(active)
}

// saturated tells whether the new set has all the pods, and all are available.
func (r *rollout) saturated() bool {
	replicas := *r.d.Spec.Replicas
	return r.new != nil && replicasOf(r.new) == replicas && r.new.Status.AvailableReplicas == replicas &&
		r.new.Annotations[desiredReplicasAnnotation] == strconv.Itoa(int(replicas))
}

// shareOut scales the active sets to the Deployment's new size by their shares
// in the old one, from the largest to the smallest; what rounding leaves over
// is the largest one's.
func (r *rollout) shareOut(active []*appsv1.ReplicaSet) {
	allowed := int32(0)
	if *r.d.Spec.Replicas > 0 {
		surge, _ := limits(r.d)
		allowed = *r.d.Spec.Replicas + surge
	}
	toAdd := allowed - sum(active, replicasOf)
	slices.SortFunc(active, func(a, b *appsv1.ReplicaSet) int {
		byAge := compareAge(a, b) // of equal ones the older shrinks first ...
		if toAdd > 0 {
			byAge = -byAge // ... and the newer grows first
		}
		return cmp.Or(cmp.Compare(replicasOf(b), replicasOf(a)), byAge)
	})
	sizes, added := make([]int32, len(active)), int32(0)
	for i, rs := range active {
		share := int32(0)
		if left := toAdd - added; left != 0 {
			// Sets may have been scaled for different sizes of the Deployment:
			// then one's share may point the other way, and is none.
			if share = r.share(rs, allowed); toAdd > 0 {
				share = max(min(share, left), 0)
			} else {
				share = min(max(share, left), 0)
			}
		}
		sizes[i] = replicasOf(rs) + share
		added += share
	}
	sizes[0] = max(sizes[0]+toAdd-added, 0)
	for i, rs := range active {
		r.scaleTo(rs, sizes[i])
		r.markScale(rs)
	}
}

// share is by how much a set grows or shrinks when the Deployment's greatest
// size becomes allowed, rounded half away from zero.
func (r *rollout) share(rs *appsv1.ReplicaSet, allowed int32) int32 {
	if *r.d.Spec.Replicas == 0 {
		return -replicasOf(rs)
	}
	before, err := strconv.ParseInt(rs.Annotations[maxReplicasAnnotation], 10, 32)
	if err != nil || before <= 0 {
		before = int64(r.was.Status.Replicas)
	}
	if before == 0 {
		return 0
	}
	size := int64(replicasOf(rs)) * int64(allowed)
	return int32((2*size+before)/(2*before)) - replicasOf(rs)
}
