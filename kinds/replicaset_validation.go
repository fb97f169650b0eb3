package kinds

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

// validateReplicaSet checks a create or an update of a ReplicaSet, whose
// selector never changes.
func validateReplicaSet(now, old *appsv1.ReplicaSet) field.ErrorList {
	var errs field.ErrorList
	var was *corev1.PodTemplateSpec
	path := field.NewPath("spec")
	if old == nil {
		errs = validateObjectMeta(now, true, apivalidation.NameIsDNSSubdomain)
	} else {
		was = &old.Spec.Template
		errs = validateMetaUpdate(now, old)
		errs = append(errs, apivalidation.ValidateImmutableField(now.Spec.Selector, old.Spec.Selector, path.Child("selector"))...)
	}
	errs = append(errs, notNegative(path.Child("replicas"), value(now.Spec.Replicas))...)
	errs = append(errs, notNegative(path.Child("minReadySeconds"), now.Spec.MinReadySeconds)...)
	return append(errs, validateSelected(now.Spec.Selector, &now.Spec.Template, was, path)...)
}

// validateReplicaSetStatus checks that the numbers of a status go together.
func validateReplicaSetStatus(now, old *appsv1.ReplicaSet) field.ErrorList {
	s, path := &now.Status, field.NewPath("status")
	errs := validateMetaUpdate(now, old)
	errs = append(errs, notNegative(path.Child("observedGeneration"), s.ObservedGeneration)...)
	errs = append(errs, notNegative(path.Child("fullyLabeledReplicas"), s.FullyLabeledReplicas)...)
	errs = append(errs, notNegative(path.Child("terminatingReplicas"), value(s.TerminatingReplicas))...)
	errs = append(errs, validateReplicas(path, s.Replicas, s.ReadyReplicas, s.AvailableReplicas)...)
	return append(errs, notAbove(path.Child("fullyLabeledReplicas"), s.FullyLabeledReplicas, s.Replicas, "status.replicas")...)
}

// validateReplicas checks how many of the replicas are ready and available.
func validateReplicas(path *field.Path, all, ready, available int32) field.ErrorList {
	errs := notNegative(path.Child("replicas"), all)
	errs = append(errs, notNegative(path.Child("readyReplicas"), ready)...)
	errs = append(errs, notNegative(path.Child("availableReplicas"), available)...)
	errs = append(errs, notAbove(path.Child("readyReplicas"), ready, all, "status.replicas")...)
	errs = append(errs, notAbove(path.Child("availableReplicas"), available, all, "status.replicas")...)
	return append(errs, notAbove(path.Child("availableReplicas"), available, ready, "readyReplicas")...)
}

// notAbove wants a number that is at most the limit.
func notAbove(path *field.Path, n, limit int32, name string) field.ErrorList {
	if n <= limit {
		return nil
	}
	return field.ErrorList{field.Invalid(path, n, "cannot be greater than "+name)}
}

// notNegative wants a number from zero up.
func notNegative[N int32 | int64](path *field.Path, n N) field.ErrorList {
	return apivalidation.ValidateNonnegativeField(int64(n), path)
}

// validateSelected checks the selector and the pod template of a spec: the
// first must select what is made of the second.
func validateSelected(s *metav1.LabelSelector, t, old *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("selector")
	if s == nil {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, at)...)
		if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
			errs = append(errs, field.Invalid(at, s, "empty selector is invalid for deployment"))
		}
	}
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return append(errs, field.Invalid(at, s, "invalid label selector"))
	}
	at = path.Child("template")
	if !selector.Empty() && !selector.Matches(labels.Set(t.Labels)) {
		errs = append(errs, field.Invalid(at.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`"))
	}
	errs = append(errs, validatePodTemplate(t, old, at)...)
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(at.Child("spec", "restartPolicy"), t.Spec.RestartPolicy,
			[]corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(at.Child("spec", "activeDeadlineSeconds"), "pods that are replaced when they end have no deadline"))
	}
	return errs
}

// admitReplicaSet refuses in the pod template what would be refused in a pod.
func admitReplicaSet(_ *kernel.View, _ kernel.Write, now, old *appsv1.ReplicaSet) field.ErrorList {
	var was *corev1.PodTemplateSpec
	if old != nil {
		was = &old.Spec.Template
	}
	return admitPodTemplate(&now.Spec.Template, was, field.NewPath("spec", "template"))
}
