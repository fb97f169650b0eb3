package kinds

import (
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// defaultPodTemplate fills in the template of something that makes pods. What
// only a pod gets (requests from limits, for one) it gets when it is made.
func defaultPodTemplate(t *corev1.PodTemplateSpec) { defaultPodSpec(&t.Spec) }

// validatePodTemplate checks a template of pods at path. old is the template
// that it replaces, nil on a create: one that has not changed stays accepted,
// also if the rules have become stricter since.
func validatePodTemplate(t, old *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	if old != nil && apiequality.Semantic.DeepEqual(t, old) {
		return nil
	}
	c := &podCheck{spec: &t.Spec}
	c.add(metav1validation.ValidateLabels(t.Labels, path.Child("labels"))...)
	c.add(apivalidation.ValidateAnnotations(t.Annotations, path.Child("annotations"))...)
	c.annotations(t.Annotations, path.Child("annotations"))
	c.podSpec(path.Child("spec"))
	c.profilesMatch(t.Annotations, path.Child("spec"))
	if len(t.Spec.EphemeralContainers) > 0 {
		c.forbidden(path.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template")
	}
	return c.errs
}

// admitPodTemplate refuses a template whose pods would be refused for what is
// not supported yet. One that has not changed was told so before.
func admitPodTemplate(t, old *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	if old != nil && apiequality.Semantic.DeepEqual(t.Spec, old.Spec) {
		return nil
	}
	return unsupportedPodFields(&t.Spec, path.Child("spec"))
}
