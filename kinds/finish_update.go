package kinds

import (
	"errors"
	"fmt"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

func (f *finisher) update() (kernel.Object, *kernel.Refusal) {
	if f.Old == nil {
		return nil, apierrors.NewNotFound(f.groupResource(), f.Key.Name)
	}
	o, old := f.New, f.Old
	if r := f.keepIdentity(o, old); r != nil {
		return nil, r
	}
	f.row.DefaultObject(o)
	if r := f.manageFields(o, old); r != nil {
		return nil, r
	}
	f.keepOther(o, old)
	if f.Subresource != "status" {
		if r := f.admit(o, old); r != nil {
			return nil, r
		}
	}
	// Deciders and the door write what they mean; a namespace is finalized by
	// what users may not write.
	if f.Subresource != kernel.Whole && f.Subresource != "finalize" {
		f.row.PrepareObject(o, old)
	}
	f.keepSystemMetadata(o, old)
	if f.Subresource != "status" && generations[f.info.Resource].counts(o, old) {
		o.SetGeneration(old.GetGeneration() + 1)
	}
	if r := f.invalid(o, f.validateUpdate(o, old)); r != nil {
		return nil, r
	}
	f.endNamespace(o)
	keepManagedTimes(o, old)
	if !Gone(o) && unchanged(o, old) {
		return nil, nil
	}
	return o, nil
}

// keepIdentity refuses an update that means another object, and takes over
// what an update may leave out.
func (f *finisher) keepIdentity(o, old kernel.Object) *kernel.Refusal {
	if r := f.setIdentity(o); r != nil {
		return r
	}
	if uid := o.GetUID(); uid != "" && uid != old.GetUID() {
		failed := fmt.Sprintf("Precondition failed: UID in precondition: %v, UID in object meta: %v", uid, old.GetUID())
		return apierrors.NewConflict(f.groupResource(), o.GetName(), errors.New(failed))
	}
	o.SetUID(old.GetUID())
	o.SetGeneration(old.GetGeneration())
	o.SetSelfLink("")
	if o.GetResourceVersion() == "" {
		o.SetResourceVersion(old.GetResourceVersion())
	}
	return nil
}

// keepOther gives the object those parts of the old one that the subresource
// does not write.
func (f *finisher) keepOther(o, old kernel.Object) {
	switch {
	case f.Subresource == kernel.Whole || !f.info.Status:
	case f.Subresource == "status":
		keepAllButStatus(o, old)
		if f.info.Resource.Plural == "deployments" {
			o.SetLabels(old.GetLabels())
		}
	case f.Subresource == "finalize":
		keepStatus(o, old)
		keepMetaForFinalize(o, old)
	default:
		keepStatus(o, old)
	}
}

// keepAllButStatus keeps the old spec. Of the metadata a status write may change
// labels, annotations and finalizers, as in Kubernetes, but not the owners:
// kubelets are known to lose them.
func keepAllButStatus(o, old kernel.Object) {
	kept := reflect.ValueOf(old.DeepCopyObject()).Elem()
	v := reflect.ValueOf(o).Elem()
	for i := range v.NumField() {
		switch v.Type().Field(i).Name {
		case "TypeMeta", "ObjectMeta", "Status":
		default:
			v.Field(i).Set(kept.Field(i))
		}
	}
	o.SetOwnerReferences(old.GetOwnerReferences())
	o.SetDeletionTimestamp(nil)
}

// keepMetaForFinalize: the finalize subresource of a namespace writes
// spec.finalizers and nothing else.
func keepMetaForFinalize(o, old kernel.Object) {
	o.SetLabels(old.GetLabels())
	o.SetAnnotations(old.GetAnnotations())
	o.SetOwnerReferences(old.GetOwnerReferences())
	o.SetFinalizers(old.GetFinalizers())
}

// keepSystemMetadata puts back what no update changes: rest.BeforeUpdate's rule
// is that the old times win, and a grace period that was left out is the old one.
func (f *finisher) keepSystemMetadata(o, old kernel.Object) {
	o.SetCreationTimestamp(old.GetCreationTimestamp())
	if old.GetDeletionTimestamp() != nil || f.Subresource == kernel.Whole {
		o.SetDeletionTimestamp(old.GetDeletionTimestamp())
	}
	if o.GetDeletionGracePeriodSeconds() == nil || f.Subresource == kernel.Whole {
		o.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	}
}

// validateUpdate runs the metadata's rules and the kind's. A Whole write is by
// a decider or a node through the door: it is checked as a write of what it
// changes, of the spec, the status or both.
func (f *finisher) validateUpdate(o, old kernel.Object) field.ErrorList {
	errs := validateCommonMeta(o, old, f.info)
	switch f.Subresource {
	case "status":
		return append(errs, f.row.ValidateObject(o, old, "status")...)
	case kernel.Whole:
		if !bodyEqual(o, old) {
			errs = append(errs, f.row.ValidateObject(o, old, "")...)
		}
		if f.info.Status && !same(statusOf(o).Interface(), statusOf(old).Interface()) {
			// The status is judged as if the rest had been written before it.
			between := o.DeepCopyObject().(kernel.Object)
			keepStatus(between, old)
			errs = append(errs, f.row.ValidateObject(o, between, "status")...)
		}
		return errs
	}
	return append(errs, f.row.ValidateObject(o, old, "")...)
}

// validatePathSegment wants a name that can stand in a URL: it is asked of every
// kind, whatever else its names may be.
func validatePathSegment(name string, prefix bool) []string {
	if prefix {
		return content.IsPathSegmentPrefix(name)
	}
	return content.IsPathSegmentName(name)
}

// validateCommonMeta checks what holds for the metadata of every kind.
func validateCommonMeta(o, old kernel.Object, i *Info) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaAccessor(o, !i.Cluster, validatePathSegment, metadataPath)
	if old != nil && old.GetResourceVersion() != "" {
		errs = append(errs, apivalidation.ValidateObjectMetaAccessorUpdate(o, old, metadataPath)...)
	}
	return errs
}

// unchanged tells whether a write leaves the object as it is, apart from its
// version and the times in managedFields. Objects are compared in plaintext.
func unchanged(o, old kernel.Object) bool {
	version, type_ := o.GetResourceVersion(), o.GetObjectKind().GroupVersionKind()
	o.SetResourceVersion(old.GetResourceVersion())
	o.GetObjectKind().SetGroupVersionKind(old.GetObjectKind().GroupVersionKind())
	equal := same(o, old)
	o.SetResourceVersion(version)
	o.GetObjectKind().SetGroupVersionKind(type_)
	return equal
}

// generation says which changes of a kind metadata.generation counts, beside
// the first deletionTimestamp. The zero value counts none.
type generation uint8

const (
	countsNothing       generation = iota // begins with 1 and stays
	countsSpec                            // all but metadata and status
	countsSpecAndNotes                    // and annotations: they are copied to ReplicaSets
	countsBodyAndLabels                   // and labels
)

// generations are the kinds that have a generation; for those that are not
// here it stays 0, as in Kubernetes.
var generations = map[kernel.Resource]generation{
	{Plural: "pods"}:                                                     countsSpec,
	{Plural: "replicationcontrollers"}:                                   countsSpec,
	{Plural: "podtemplates"}:                                             countsSpec,
	{Group: "apps", Plural: "replicasets"}:                               countsSpec,
	{Group: "apps", Plural: "deployments"}:                               countsSpecAndNotes,
	{Group: "apps", Plural: "daemonsets"}:                                countsSpec,
	{Group: "apps", Plural: "statefulsets"}:                              countsSpec,
	{Group: "batch", Plural: "jobs"}:                                     countsSpec,
	{Group: "batch", Plural: "cronjobs"}:                                 countsSpec,
	{Group: "autoscaling", Plural: "horizontalpodautoscalers"}:           countsSpec,
	{Group: "policy", Plural: "poddisruptionbudgets"}:                    countsSpec,
	{Group: "networking.k8s.io", Plural: "ingresses"}:                    countsSpec,
	{Group: "networking.k8s.io", Plural: "ingressclasses"}:               countsSpec,
	{Group: "networking.k8s.io", Plural: "networkpolicies"}:              countsSpec,
	{Group: "discovery.k8s.io", Plural: "endpointslices"}:                countsBodyAndLabels,
	{Group: "scheduling.k8s.io", Plural: "priorityclasses"}:              countsNothing,
	{Group: "apiextensions.k8s.io", Plural: "customresourcedefinitions"}: countsSpec,
}

// counts tells whether the change from old to o raises the generation.
func (g generation) counts(o, old kernel.Object) bool {
	switch g {
	case countsSpec:
		return !bodyEqual(o, old)
	case countsSpecAndNotes:
		return !bodyEqual(o, old) || !same(o.GetAnnotations(), old.GetAnnotations())
	case countsBodyAndLabels:
		return !bodyEqual(o, old) || !same(o.GetLabels(), old.GetLabels())
	}
	return false
}

// endNamespace lets a namespace go whose spec.finalizers are done: they hold a
// deleted one like metadata.finalizers hold other objects (see delete).
func (f *finisher) endNamespace(o kernel.Object) {
	ns, ok := o.(*corev1.Namespace)
	if ok && ns.DeletionTimestamp != nil && len(ns.Spec.Finalizers) == 0 {
		ns.DeletionGracePeriodSeconds = new(int64)
	}
}

// keepManagedTimes keeps the old managedFields if they say the same, for a new
// time alone is no change.
func keepManagedTimes(o, old kernel.Object) {
	now, before := o.GetManagedFields(), old.GetManagedFields()
	if len(now) != len(before) {
		return
	}
	for i := range now {
		a, b := now[i], before[i]
		a.Time, b.Time = nil, nil
		if !same(a, b) {
			return
		}
	}
	o.SetManagedFields(append([]metav1.ManagedFieldsEntry(nil), before...))
}
