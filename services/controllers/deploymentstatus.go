package controllers

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The reasons of the condition Progressing that decide what happens next.
const (
	reasonComplete = "NewReplicaSetAvailable"
	reasonTimedOut = "ProgressDeadlineExceeded"
	reasonPaused   = "DeploymentPaused"
)

// hasDeadline tells whether the Deployment wants to be told when its rollout
// is stuck.
func (r *rollout) hasDeadline() bool {
	s := r.d.Spec.ProgressDeadlineSeconds
	return s != nil && *s != math.MaxInt32
}

func (r *rollout) condition(t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range r.d.Status.Conditions {
		if r.d.Status.Conditions[i].Type == t {
			return &r.d.Status.Conditions[i]
		}
	}
	return nil
}

// set sets a condition. One with the same status and reason stays as it is.
func (r *rollout) set(t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	now := metav1.NewTime(r.now)
	c := appsv1.DeploymentCondition{Type: t, Status: status, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now}
	if old := r.condition(t); old != nil {
		if old.Status == status && old.Reason == reason {
			return
		}
		if old.Status == status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		r.unset(t)
	}
	r.d.Status.Conditions = append(r.d.Status.Conditions, c)
}

func (r *rollout) unset(t appsv1.DeploymentConditionType) {
	r.d.Status.Conditions = slices.DeleteFunc(r.d.Status.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == t })
}

// notePause stops the clock of the progress deadline while the Deployment is
// paused. A timeout that was reported stays reported.
func (r *rollout) notePause() {
	c := r.condition(appsv1.DeploymentProgressing)
	if !r.hasDeadline() || c != nil && c.Reason == reasonTimedOut {
		return
	}
	paused := c != nil && c.Reason == reasonPaused
	switch {
	case r.d.Spec.Paused && !paused:
		r.set(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused")
	case !r.d.Spec.Paused && paused:
		r.set(appsv1.DeploymentProgressing, corev1.ConditionUnknown, "DeploymentResumed", "Deployment is resumed")
	}
}

// sumUp fills in the status from the sets as they are.
func (r *rollout) sumUp() {
	s := &r.d.Status
	s.ObservedGeneration = r.d.Generation
	s.Replicas = sum(r.sets, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.Replicas })
	s.ReadyReplicas = sum(r.sets, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.ReadyReplicas })
	s.AvailableReplicas = sum(r.sets, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.AvailableReplicas })
	s.UnavailableReplicas = max(sum(r.sets, replicasOf)-s.AvailableReplicas, 0)
	terminating := sum(r.sets, func(rs *appsv1.ReplicaSet) int32 {
		if rs.Status.TerminatingReplicas == nil {
			return 0
		}
		return *rs.Status.TerminatingReplicas
	})
	s.TerminatingReplicas = &terminating
	s.UpdatedReplicas = 0
	if r.new != nil {
		s.UpdatedReplicas = r.new.Status.Replicas
	}
	_, missing := limits(r.d)
	if s.AvailableReplicas >= *r.d.Spec.Replicas-missing {
		r.set(appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.")
	} else {
		r.set(appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
	}
	r.tellFailures()
}

// complete tells whether all that was wanted is there, and nothing else.
func complete(d *appsv1.Deployment, s *appsv1.DeploymentStatus) bool {
	return s.UpdatedReplicas == *d.Spec.Replicas && s.Replicas == *d.Spec.Replicas &&
		s.AvailableReplicas == *d.Spec.Replicas && s.ObservedGeneration >= d.Generation
}

// progressed tells whether the status is closer to the goal than the last one.
func progressed(was, is *appsv1.DeploymentStatus) bool {
	return is.UpdatedReplicas > was.UpdatedReplicas || is.Replicas-is.UpdatedReplicas < was.Replicas-was.UpdatedReplicas ||
		is.ReadyReplicas > was.ReadyReplicas || is.AvailableReplicas > was.AvailableReplicas
}

// tellFailures passes on what keeps the ReplicaSets from having their pods, the
// new one's before the others'.
func (r *rollout) tellFailures() {
	for _, rs := range append([]*appsv1.ReplicaSet{r.new}, r.sets...) {
		if rs == nil {
			continue
		}
		for _, c := range rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				r.set(appsv1.DeploymentReplicaFailure, c.Status, c.Reason, c.Message)
				return
			}
		}
	}
	r.unset(appsv1.DeploymentReplicaFailure)
}

// estimateProgress keeps the condition Progressing, which says whether the
// rollout is done, under way or stuck.
func (r *rollout) estimateProgress() {
	if !r.hasDeadline() {
		r.unset(appsv1.DeploymentProgressing)
		return
	}
	subject := fmt.Sprintf("Deployment %q", r.d.Name)
	if r.new != nil {
		subject = fmt.Sprintf("ReplicaSet %q", r.new.Name)
	}
	c := r.condition(appsv1.DeploymentProgressing)
	if c != nil && c.Reason == reasonComplete && r.d.Status.Replicas == r.d.Status.UpdatedReplicas {
		return // no rollout is under way
	}
	switch {
	case complete(r.d, &r.d.Status):
		r.set(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonComplete, subject+" has successfully progressed.")
		// A ReplicaSet that is refused is made anew by every decision, and said
		// to be. If that ends where it was, then not as of now, or each such
		// decision would change the Deployment and so lead to the next.
		is := r.condition(appsv1.DeploymentProgressing)
		for _, was := range r.was.Status.Conditions {
			if was.Type == is.Type && was.Status == is.Status && was.Reason == is.Reason && was.Message == is.Message {
				*is = was
			}
		}
	case progressed(&r.was.Status, &r.d.Status):
		// Also if the reason stays the same: the time of the last progress is
		// what the deadline is counted from.
		const reason = "ReplicaSetUpdated"
		if c != nil && c.Reason == reason {
			c.LastUpdateTime = metav1.NewTime(r.now)
			c.Message = subject + " is progressing."
		}
		r.set(appsv1.DeploymentProgressing, corev1.ConditionTrue, reason, subject+" is progressing.")
	case c != nil && !r.deadline().IsZero() && !r.deadline().After(r.now):
		r.set(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonTimedOut, subject+" has timed out progressing.")
	}
}

// deadline is when a rollout that makes no progress counts as stuck; zero if
// none is under way, or it has been called stuck already.
func (r *rollout) deadline() time.Time {
	c := r.condition(appsv1.DeploymentProgressing)
	if !r.hasDeadline() || c == nil || c.Reason == reasonComplete || c.Reason == reasonTimedOut || c.Reason == reasonPaused {
		return time.Time{}
	}
	return c.LastUpdateTime.Add(time.Duration(*r.d.Spec.ProgressDeadlineSeconds) * time.Second)
}
