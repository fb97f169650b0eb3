package kinds

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// taintsAnnotation held the taints before there was a field for them; what is
// in it must still be well-formed.
const taintsAnnotation = "scheduler.alpha.kubernetes.io/taints"

// declaredFeature is the form of a feature's name: "Feature" or "Feature/part".
var declaredFeature = regexp.MustCompile(`^[A-Z][a-zA-Z0-9]*(/[a-zA-Z][a-zA-Z0-9]*)*$`)

// wholeResources are counted in whole units.
var wholeResources = []corev1.ResourceName{
	corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers,
	corev1.ResourceSecrets, corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims,
	corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
}

// validateNode checks a create or an update of a node with everything in it: a
// node may come with its status.
func validateNode(now, old *corev1.Node) field.ErrorList {
	errs := validateObjectMeta(now, false, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, validateNodeAlways(now)...)
	if s := now.Status.NodeInfo.Swap; s != nil && s.Capacity != nil && *s.Capacity <= 0 {
		errs = append(errs, field.Invalid(metadataPath.Child("nodeSwapStatus", "capacity"), *s.Capacity, "must be greater than zero"))
	}
	errs = append(errs, validatePodCIDRs(now.Spec.PodCIDRs, field.NewPath("spec", "podCIDRs"))...)
	if old != nil {
		errs = append(errs, validateNodeStatus(now, old)...)
	}
	return errs
}

// validateNodeAlways is what every write of a node is checked for.
func validateNodeAlways(n *corev1.Node) field.ErrorList {
	annotations := metadataPath.Child("annotations")
	errs := validateTaints(n.Spec.Taints, metadataPath.Child("taints"))
	if text := n.Annotations[taintsAnnotation]; text != "" {
		var taints []corev1.Taint
		if err := json.Unmarshal([]byte(text), &taints); err != nil {
			errs = append(errs, field.Invalid(annotations, taintsAnnotation, err.Error()))
		}
		errs = append(errs, validateTaints(taints, annotations.Child(taintsAnnotation))...)
	}
	if text := n.Annotations[corev1.PreferAvoidPodsAnnotationKey]; text != "" {
		errs = append(errs, validateAvoidPods(text, annotations)...)
	}
	for name, q := range n.Status.Capacity {
		errs = append(errs, validateQuantity(name, q, field.NewPath("status", "capacity", string(name)))...)
	}
	for name, q := range n.Status.Allocatable {
		errs = append(errs, validateQuantity(name, q, field.NewPath("status", "allocatable", string(name)))...)
	}
	return append(errs, validateDeclaredFeatures(n.Status.DeclaredFeatures, field.NewPath("status", "declaredFeatures"))...)
}

// validateNodeStatus checks what an update of a node, or of its status, may
// change: its pod range and its provider's name for it are given once.
func validateNodeStatus(now, old *corev1.Node) field.ErrorList {
	errs := validateMetaUpdate(now, old)
	errs = append(errs, validateNodeAlways(now)...)
	seen := map[corev1.NodeAddress]bool{}
	for i, a := range now.Status.Addresses {
		if seen[a] {
			errs = append(errs, field.Duplicate(field.NewPath("status", "addresses").Index(i), a))
		}
		seen[a] = true
	}
	spec := field.NewPath("spec")
	if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(now.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		errs = append(errs, field.Forbidden(spec.Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
	}
	if was := old.Spec.ProviderID; was != "" && now.Spec.ProviderID != was {
		errs = append(errs, field.Invalid(spec.Child("providerID"), now.Spec.ProviderID, "field cannot be modified once set"))
	}
	if now.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID {
		errs = append(errs, field.Forbidden(spec.Child("externalID"), "may not be updated"))
	}
	return errs
}

// validateTaints wants each key and effect once.
func validateTaints(taints []corev1.Taint, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	type id struct {
		key    string
		effect corev1.TaintEffect
	}
	seen := map[id]bool{}
	for i, t := range taints {
		path := path.Index(i)
		errs = append(errs, metav1validation.ValidateLabelName(t.Key, path.Child("key"))...)
		if complaints := validation.IsValidLabelValue(t.Value); len(complaints) > 0 {
			errs = append(errs, field.Invalid(path.Child("value"), t.Value, strings.Join(complaints, ";")))
		}
		errs = append(errs, oneOf(t.Effect, path.Child("effect"),
			corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)...)
		if seen[id{t.Key, t.Effect}] {
			twice := field.Duplicate(path, t)
			twice.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, twice)
		}
		seen[id{t.Key, t.Effect}] = true
	}
	return errs
}

// validateAvoidPods checks the annotation that names pods a node would rather
// not have: each by the controller that makes it.
func validateAvoidPods(text string, path *field.Path) field.ErrorList {
	var avoid corev1.AvoidPods
	if err := json.Unmarshal([]byte(text), &avoid); err != nil {
		return field.ErrorList{field.Invalid(path.Child("AvoidPods"), corev1.PreferAvoidPodsAnnotationKey, err.Error())}
	}
	var errs field.ErrorList
	for i, e := range avoid.PreferAvoidPods {
		path := path.Child(corev1.PreferAvoidPodsAnnotationKey).Index(i).Child("PodSignature")
		if c := e.PodSignature.PodController; c == nil {
			errs = append(errs, field.Required(path, ""))
		} else if !value(c.Controller) {
			errs = append(errs, field.Invalid(path.Child("PodController", "Controller"), false, "must point to a controller"))
		}
	}
	return errs
}

// validateQuantity wants no negative amount, and whole numbers of what is counted.
func validateQuantity(name corev1.ResourceName, q resource.Quantity, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if q.Sign() < 0 {
		errs = append(errs, field.Invalid(path, q.String(), apivalidation.IsNegativeErrorMsg))
	}
	counted := slices.Contains(wholeResources, name) || isExtendedResource(name)
	if counted && q.MilliValue()%1000 != 0 {
		errs = append(errs, field.Invalid(path, q.String(), "must be an integer"))
	}
	return errs
}

// isExtendedResource tells whether a resource is one that Kubernetes itself
// knows nothing of, such as example.com/gpu.
func isExtendedResource(name corev1.ResourceName) bool {
	s := string(name)
	if !strings.Contains(s, "/") || strings.Contains(s, corev1.ResourceDefaultNamespacePrefix) ||
		strings.HasPrefix(s, corev1.DefaultResourceRequestsPrefix) {
		return false
	}
	return len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+s)) == 0
}

// validateDeclaredFeatures wants well-formed names in order, each once.
func validateDeclaredFeatures(names []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, name := range names {
		if len(name) > validation.DNS1123SubdomainMaxLength || !declaredFeature.MatchString(name) {
			errs = append(errs, field.Invalid(path.Index(i), name, "must be the name of a feature, such as Feature or Feature/part"))
		}
		if i == 0 {
			continue
		}
		switch strings.Compare(names[i-1], name) {
		case 0:
			errs = append(errs, field.Duplicate(path.Index(i), name))
		case 1:
			errs = append(errs, field.Invalid(path.Index(i), name, "list must be sorted alphabetically"))
		}
	}
	return errs
}

// validatePodCIDRs wants at most one range of each IP family.
func validatePodCIDRs(ranges []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, r := range ranges {
		errs = append(errs, validation.IsValidCIDRForLegacyField(path.Index(i), r, true, nil)...)
	}
	if len(ranges) < 2 {
		return errs
	}
	dual, err := netutils.IsDualStackCIDRStrings(ranges)
	if err != nil {
		errs = append(errs, field.InternalError(path, err))
	}
	if !dual || len(ranges) > 2 {
		errs = append(errs, field.Invalid(path, ranges, "may specify no more than one CIDR for each IP family"))
	}
	return errs
}
