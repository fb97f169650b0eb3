package kinds

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// metadataPath is where every object keeps its metadata.
var metadataPath = field.NewPath("metadata")

// standardFinalizers need no domain in their name.
var standardFinalizers = []string{string(corev1.FinalizerKubernetes), metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents}

// validateObjectMeta checks the metadata of a create. It wants a namespace if
// the kind is namespaced, else none, and a name that is one by the given rule.
// The other rules are the library's (k8s.io/apimachinery/pkg/api/validation).
func validateObjectMeta(now metav1.Object, namespaced bool, name apivalidation.ValidateNameFunc) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaAccessor(now, namespaced, name, metadataPath)
	return append(errs, validateFinalizers(now)...)
}

// validateMetaUpdate checks what may not change in the metadata, and that what
// may change is well-formed.
func validateMetaUpdate(now, old metav1.Object) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaAccessorUpdate(now, old, metadataPath)
	return append(errs, validateFinalizers(now)...)
}

// validateFinalizers wants of each finalizer that it names its domain or is
// one of Kubernetes' own.
func validateFinalizers(now metav1.Object) field.ErrorList {
	var errs field.ErrorList
	for i, name := range now.GetFinalizers() {
		errs = append(errs, validateFinalizerDomain(name, metadataPath.Child("finalizers").Index(i))...)
	}
	return errs
}

func validateFinalizerDomain(name string, path *field.Path) field.ErrorList {
	if strings.Contains(name, "/") || slices.Contains(standardFinalizers, name) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified")}
}

// invalid makes one error of each of the complaints about a value.
func invalid(path *field.Path, value any, complaints []string) field.ErrorList {
	var errs field.ErrorList
	for _, c := range complaints {
		errs = append(errs, field.Invalid(path, value, c))
	}
	return errs
}

// validateShortName wants a DNS label.
func validateShortName(name string, path *field.Path) field.ErrorList {
	return invalid(path, name, validation.IsDNS1123Label(name))
}

// validateQualifiedName wants a name with or without a domain before it.
func validateQualifiedName(name string, path *field.Path) field.ErrorList {
	return invalid(path, name, validation.IsQualifiedName(name))
}

// oneOf wants one of the allowed values, and says Required for none.
func oneOf[V ~string](v V, path *field.Path, allowed ...V) field.ErrorList {
	switch {
	case v == "":
		return field.ErrorList{field.Required(path, "")}
	case !slices.Contains(allowed, v):
		return field.ErrorList{field.NotSupported(path, v, allowed)}
	}
	return nil
}

// protocols are what ports may speak.
var protocols = []corev1.Protocol{corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP}

// frozen is the error for a field that may not change because the object says so.
func frozen(path *field.Path) *field.Error {
	return field.Forbidden(path, "field is immutable when `immutable` is set")
}
