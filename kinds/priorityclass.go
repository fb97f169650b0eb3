package kinds

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

// priorityClasses is the resource, for functions that the row itself refers to.
var priorityClasses = kernel.Resource{Group: "scheduling.k8s.io", Plural: "priorityclasses"}

// PriorityClasses name how important pods are (k8s.io/api/scheduling/v1.PriorityClass).
var PriorityClasses = &Kind[*schedulingv1.PriorityClass]{
	Info: Info{
		Resource: priorityClasses, Version: "v1", Kind: "PriorityClass",
		Singular: "priorityclass", ShortNames: []string{"pc"}, Cluster: true,
	},
	New:      func() *schedulingv1.PriorityClass { return &schedulingv1.PriorityClass{} },
	NewList:  func() runtime.Object { return &schedulingv1.PriorityClassList{} },
	Default:  defaultPriorityClass,
	Admit:    admitPriorityClass,
	Validate: validatePriorityClass,
	Columns: []Column[*schedulingv1.PriorityClass]{
		nameColumn[*schedulingv1.PriorityClass](),
		number("Value", doc(schedulingv1.PriorityClass{}, "value"), func(p *schedulingv1.PriorityClass) int64 { return int64(p.Value) }),
		withType("boolean", column("Global-Default", doc(schedulingv1.PriorityClass{}, "globalDefault"), func(p *schedulingv1.PriorityClass) any { return p.GlobalDefault })),
		ageColumn[*schedulingv1.PriorityClass](),
		column("PreemptionPolicy", doc(schedulingv1.PriorityClass{}, "preemptionPolicy"), func(p *schedulingv1.PriorityClass) any {
			return string(value(p.PreemptionPolicy))
		}),
	},
}

// defaultPriorityClass lets pods of the class take the place of lesser ones.
func defaultPriorityClass(p *schedulingv1.PriorityClass) {
	if p.PreemptionPolicy == nil {
		p.PreemptionPolicy = pointer(corev1.PreemptLowerPriority)
	}
}

const (
	// systemPriorityPrefix is what only the two classes of the system begin with.
	systemPriorityPrefix = "system-"
	// highestUserPriority is the most that users may give; above it the system's begin.
	highestUserPriority int32 = 1_000_000_000
	// SystemClusterCritical is the priority of the class system-cluster-critical.
	SystemClusterCritical = 2 * highestUserPriority
	// SystemNodeCritical is the priority of the class system-node-critical.
	SystemNodeCritical = SystemClusterCritical + 1000
)

// systemPriorities are the classes that every cluster has.
var systemPriorities = map[string]int32{
	"system-cluster-critical": SystemClusterCritical,
	"system-node-critical":    SystemNodeCritical,
}

// validatePriorityClass keeps the system's range from users; a class never
// changes what it stands for.
func validatePriorityClass(now, old *schedulingv1.PriorityClass) field.ErrorList {
	if old != nil {
		errs := validateMetaUpdate(now, old)
		if now.Value != old.Value {
			errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
		}
		return append(errs, apivalidation.ValidateImmutableField(now.PreemptionPolicy, old.PreemptionPolicy, field.NewPath("preemptionPolicy"))...)
	}
	errs := validateObjectMeta(now, false, apivalidation.NameIsDNSSubdomain)
	if strings.HasPrefix(now.Name, systemPriorityPrefix) {
		if v, ok := systemPriorities[now.Name]; !ok || v != now.Value || now.GlobalDefault {
			errs = append(errs, field.Forbidden(metadataPath.Child("name"),
				"priority class names with '"+systemPriorityPrefix+"' prefix are reserved for system use only"))
		}
	} else if now.Value > highestUserPriority {
		errs = append(errs, field.Forbidden(field.NewPath("value"),
			fmt.Sprintf("maximum allowed value of a user defined priority is %d", highestUserPriority)))
	}
	if p := now.PreemptionPolicy; p != nil {
		errs = append(errs, oneOf(*p, field.NewPath("preemptionPolicy"), corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	return errs
}

// admitPriorityClass lets only one class be the one for pods that name none.
func admitPriorityClass(v *kernel.View, _ kernel.Write, now, old *schedulingv1.PriorityClass) field.ErrorList {
	if !now.GlobalDefault || old != nil && old.GlobalDefault {
		return nil
	}
	for e := range v.Entries(priorityClasses, "") {
		other := e.Object().(*schedulingv1.PriorityClass)
		if other.GlobalDefault && other.Name != now.Name {
			return field.ErrorList{field.Forbidden(field.NewPath("globalDefault"),
				fmt.Sprintf("PriorityClass %s is already marked as default. Only one default can exist", other.Name))}
		}
	}
	return nil
}
