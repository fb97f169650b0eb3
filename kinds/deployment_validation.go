package kinds

import (
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

// validateDeployment checks a create or an update of a Deployment, whose
// selector never changes.
func validateDeployment(now, old *appsv1.Deployment) field.ErrorList {
	var errs field.ErrorList
	var was *corev1.PodTemplateSpec
	s, path := &now.Spec, field.NewPath("spec")
	if old == nil {
		errs = validateObjectMeta(now, true, apivalidation.NameIsDNSSubdomain)
	} else {
		was = &old.Spec.Template
		errs = validateMetaUpdate(now, old)
		errs = append(errs, apivalidation.ValidateImmutableField(s.Selector, old.Spec.Selector, path.Child("selector"))...)
	}
	errs = append(errs, notNegative(path.Child("replicas"), value(s.Replicas))...)
	errs = append(errs, validateSelected(s.Selector, &s.Template, was, path)...)
	errs = append(errs, validateStrategy(&s.Strategy, path.Child("strategy"))...)
	errs = append(errs, notNegative(path.Child("minReadySeconds"), s.MinReadySeconds)...)
	errs = append(errs, notNegative(path.Child("revisionHistoryLimit"), value(s.RevisionHistoryLimit))...)
	if d := s.ProgressDeadlineSeconds; d != nil {
		path := path.Child("progressDeadlineSeconds")
		errs = append(errs, notNegative(path, *d)...)
		if *d <= s.MinReadySeconds {
			errs = append(errs, field.Invalid(path, *d, "must be greater than minReadySeconds"))
		}
	}
	return errs
}

// validateStrategy checks how pods are replaced: a rolling update must be able
// to take one away or to add one.
func validateStrategy(s *appsv1.DeploymentStrategy, path *field.Path) field.ErrorList {
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Forbidden(path.Child("rollingUpdate"), "may not be specified when strategy `type` is 'Recreate'")}
		}
		return nil
	case appsv1.RollingUpdateDeploymentStrategyType:
	default:
		return field.ErrorList{field.NotSupported(path, s.Type, []appsv1.DeploymentStrategyType{
			appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType,
		})}
	}
	path = path.Child("rollingUpdate")
	if s.RollingUpdate == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	unavailable, surge := value(s.RollingUpdate.MaxUnavailable), value(s.RollingUpdate.MaxSurge)
	errs := validateShare(unavailable, path.Child("maxUnavailable"))
	errs = append(errs, validateShare(surge, path.Child("maxSurge"))...)
	if share(unavailable) == 0 && share(surge) == 0 {
		errs = append(errs, field.Invalid(path.Child("maxUnavailable"), unavailable, "may not be 0 when `maxSurge` is 0"))
	}
	if isPercent(unavailable) && share(unavailable) > 100 {
		errs = append(errs, field.Invalid(path.Child("maxUnavailable"), unavailable, "must not be greater than 100%"))
	}
	return errs
}

// validateShare wants a number from zero up or a percentage.
func validateShare(v intstr.IntOrString, path *field.Path) field.ErrorList {
	if v.Type == intstr.String {
		return invalid(path, v, validation.IsValidPercent(v.StrVal))
	}
	return notNegative(path, v.IntVal)
}

func isPercent(v intstr.IntOrString) bool {
	return v.Type == intstr.String && len(validation.IsValidPercent(v.StrVal)) == 0
}

// share is the number, or how many percent it is; what is neither is zero.
func share(v intstr.IntOrString) int {
	if v.Type == intstr.Int {
		return int(v.IntVal)
	}
	n, err := strconv.Atoi(strings.TrimSuffix(v.StrVal, "%"))
	if err != nil {
		return 0
	}
	return n
}

// validateDeploymentStatus checks that the numbers of a status go together.
func validateDeploymentStatus(now, old *appsv1.Deployment) field.ErrorList {
	s, path := &now.Status, field.NewPath("status")
	errs := validateMetaUpdate(now, old)
	errs = append(errs, notNegative(path.Child("observedGeneration"), s.ObservedGeneration)...)
	errs = append(errs, notNegative(path.Child("updatedReplicas"), s.UpdatedReplicas)...)
	errs = append(errs, notNegative(path.Child("unavailableReplicas"), s.UnavailableReplicas)...)
	errs = append(errs, notNegative(path.Child("terminatingReplicas"), value(s.TerminatingReplicas))...)
	errs = append(errs, notNegative(path.Child("collisionCount"), value(s.CollisionCount))...)
	errs = append(errs, validateReplicas(path, s.Replicas, s.ReadyReplicas, s.AvailableReplicas)...)
	errs = append(errs, notAbove(path.Child("updatedReplicas"), s.UpdatedReplicas, s.Replicas, "status.replicas")...)
	if value(s.CollisionCount) < value(old.Status.CollisionCount) {
		errs = append(errs, field.Invalid(path.Child("collisionCount"), value(s.CollisionCount), "cannot be decremented"))
	}
	return errs
}

// admitDeployment refuses in the pod template what would be refused in a pod.
func admitDeployment(_ *kernel.View, _ kernel.Write, now, old *appsv1.Deployment) field.ErrorList {
	var was *corev1.PodTemplateSpec
	if old != nil {
		was = &old.Spec.Template
	}
	return admitPodTemplate(&now.Spec.Template, was, field.NewPath("spec", "template"))
}
