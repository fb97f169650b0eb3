package kinds

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/rutterhq/rutter/kernel"
)

// delete is Kubernetes' deletion as one step: the result either waits (for its
// grace period or its finalizers) with a deletionTimestamp, or is Gone.
func (f *finisher) delete() (kernel.Object, *kernel.Refusal) {
	if f.Old == nil {
		return nil, apierrors.NewNotFound(f.groupResource(), f.Key.Name)
	}
	if r := f.preconditions(); r != nil {
		return nil, r
	}
	o := f.Old.DeepCopyObject().(kernel.Object)
	if ns, ok := o.(*corev1.Namespace); ok {
		if done, r := f.deleteNamespace(ns); done || r != nil {
			return f.result(ns, r)
		}
	}
	asked := f.Grace
	if asked != nil && *asked < 0 {
		asked = ptr.To[int64](1)
	}
	if asked == nil && f.Subresource == kernel.Whole {
		// A decider that deletes what is being deleted already knows that
		// there is nothing left to wait for, such as a pod whose node is gone.
		asked = ptr.To(f.row.GraceOf(o, nil))
	}
	if o.GetDeletionTimestamp() != nil {
		if !f.shorten(o, asked) {
			return nil, nil
		}
	} else {
		f.begin(o, asked)
	}
	o.SetFinalizers(f.finalizers(o))
	return f.result(o, nil)
}

// result leaves out a delete that changes nothing.
func (f *finisher) result(o kernel.Object, r *kernel.Refusal) (kernel.Object, *kernel.Refusal) {
	if r != nil {
		return nil, r
	}
	if !Gone(o) && unchanged(o, f.Old) {
		return nil, nil
	}
	return o, nil
}

// preconditions refuses a delete of another object, or another version of it,
// than was meant.
func (f *finisher) preconditions() *kernel.Refusal {
	p := f.Preconditions
	if p == nil {
		return nil
	}
	gr := schema.GroupResource{Group: f.info.Resource.Group, Resource: f.info.Kind}
	if uid := f.Old.GetUID(); p.UID != nil && *p.UID != uid {
		return apierrors.NewConflict(gr, f.Key.Name, fmt.Errorf(
			"the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, uid))
	}
	if version := f.Old.GetResourceVersion(); p.ResourceVersion != nil && *p.ResourceVersion != version {
		return apierrors.NewConflict(gr, f.Key.Name, fmt.Errorf(
			"the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, version))
	}
	return nil
}

// begin marks an object as deleted for the first time.
func (f *finisher) begin(o kernel.Object, asked *int64) {
	grace := f.row.GraceOf(o, asked)
	at := timestamp(f.now.Add(time.Duration(grace) * time.Second))
	o.SetDeletionTimestamp(&at)
	o.SetDeletionGracePeriodSeconds(&grace)
	// Its controllers act differently from now on, which is what generation tells.
	if o.GetGeneration() > 0 {
		o.SetGeneration(o.GetGeneration() + 1)
	}
}

// shorten is a further delete of what is being deleted: it may only bring the
// end nearer. It tells whether there is anything to do.
func (f *finisher) shorten(o kernel.Object, asked *int64) bool {
	left := ptr.Deref(o.GetDeletionGracePeriodSeconds(), 0)
	if left == 0 {
		o.SetDeletionGracePeriodSeconds(new(int64))
		if o.GetDeletionTimestamp().After(f.now) {
			o.SetDeletionTimestamp(ptr.To(timestamp(f.now)))
		}
		return true
	}
	if asked == nil || *asked >= left {
		return false
	}
	period := *asked
	end := timestamp(o.GetDeletionTimestamp().Add(time.Duration(period-left) * time.Second))
	if now := timestamp(f.now); end.Before(&now) {
		end = now
		if period != 0 {
			// Still graceful: who runs the object sees the change and ends it.
			period = 1
		}
	}
	o.SetDeletionTimestamp(&end)
	o.SetDeletionGracePeriodSeconds(&period)
	return true
}

// notCollected are kinds that own nothing: propagation means nothing to them.
var notCollected = map[kernel.Resource]bool{
	{Plural: "events"}: true, {Group: "events.k8s.io", Plural: "events"}: true,
}

// finalizers are the object's, with the one that tells the garbage collector
// what to do with the dependents, by the policy asked for or else as they are.
func (f *finisher) finalizers(o kernel.Object) []string {
	have := o.GetFinalizers()
	if notCollected[f.info.Resource] {
		return have
	}
	orphan := slices.Contains(have, metav1.FinalizerOrphanDependents)
	foreground := !orphan && slices.Contains(have, metav1.FinalizerDeleteDependents)
	if f.Propagation != nil {
		orphan = *f.Propagation == metav1.DeletePropagationOrphan
		foreground = *f.Propagation == metav1.DeletePropagationForeground
	}
	var out []string
	for _, name := range have {
		if name != metav1.FinalizerOrphanDependents && name != metav1.FinalizerDeleteDependents {
			out = append(out, name)
		}
	}
	if orphan {
		out = append(out, metav1.FinalizerOrphanDependents)
	}
	if foreground {
		out = append(out, metav1.FinalizerDeleteDependents)
	}
	if len(out) == len(have) && sameSet(out, have) {
		return have
	}
	return out
}

func sameSet(a, b []string) bool {
	for _, s := range a {
		if !slices.Contains(b, s) {
			return false
		}
	}
	return true
}

// namespaceGrace stands in deletionGracePeriodSeconds of a namespace whose
// spec.finalizers hold it, in seconds, so that it is not Gone: its controller
// ends it, not time.
const namespaceGrace int64 = 1

// deleteNamespace deletes a namespace as far as that differs from other
// objects. It first becomes Terminating, and stays until its controller has
// emptied it and removes spec.finalizers or (with a Whole write) deletes it once
// more. done is false where the general rules go on.
func (f *finisher) deleteNamespace(ns *corev1.Namespace) (done bool, r *kernel.Refusal) {
	if slices.Contains(immortalNamespaces, ns.Name) {
		return false, apierrors.NewForbidden(f.groupResource(), ns.Name, fmt.Errorf("this namespace may not be deleted"))
	}
	if ns.DeletionTimestamp != nil {
		if f.Subresource == kernel.Whole {
			ns.Spec.Finalizers = nil
		}
		if len(ns.Spec.Finalizers) == 0 {
			ns.DeletionGracePeriodSeconds = new(int64)
		}
		return len(ns.Spec.Finalizers) > 0, nil
	}
	ns.Status.Phase = corev1.NamespaceTerminating
	if len(ns.Spec.Finalizers) == 0 {
		return false, nil
	}
	ns.DeletionTimestamp = ptr.To(timestamp(f.now))
	ns.DeletionGracePeriodSeconds = ptr.To(namespaceGrace)
	ns.Finalizers = f.finalizers(ns)
	return true, nil
}
