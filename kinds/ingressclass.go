package kinds

import (
	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

// IngressClasses say who serves an Ingress (k8s.io/api/networking/v1.IngressClass).
var IngressClasses = &Kind[*networkingv1.IngressClass]{
	Info: Info{
		Resource: kernel.Resource{Group: "networking.k8s.io", Plural: "ingressclasses"}, Version: "v1", Kind: "IngressClass",
		Singular: "ingressclass", Cluster: true,
	},
	New:      func() *networkingv1.IngressClass { return &networkingv1.IngressClass{} },
	NewList:  func() runtime.Object { return &networkingv1.IngressClassList{} },
	Default:  defaultIngressClass,
	Admit:    admitIngressClass,
	Validate: validateIngressClass,
	Columns: []Column[*networkingv1.IngressClass]{
		{
			Name: "Name", Format: "name", Description: nameColumn[*networkingv1.IngressClass]().Description,
			Value: column("", "", func(c *networkingv1.IngressClass) any {
				if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
					return c.Name + " (default)"
				}
				return c.Name
			}).Value,
		},
		column("Controller", "Who serves the class.", func(c *networkingv1.IngressClass) any { return c.Spec.Controller }),
		column("Parameters", "An object with more settings for the class.", func(c *networkingv1.IngressClass) any {
			p := c.Spec.Parameters
			switch {
			case p == nil:
				return none
			case p.APIGroup != nil:
				return p.Kind + "." + *p.APIGroup + "/" + p.Name
			}
			return p.Kind + "/" + p.Name
		}),
		ageColumn[*networkingv1.IngressClass](),
	},
}

// defaultIngressClass looks for parameters in the cluster, not in a namespace.
func defaultIngressClass(c *networkingv1.IngressClass) {
	if p := c.Spec.Parameters; p != nil && p.Scope == nil {
		p.Scope = pointer(networkingv1.IngressClassParametersReferenceScopeCluster)
	}
}

// maxControllerName is how long the name of an ingress controller may be, in bytes.
const maxControllerName = 250

// validateIngressClass checks the controller, which never changes, and the
// reference to parameters.
func validateIngressClass(now, old *networkingv1.IngressClass) field.ErrorList {
	errs := validateObjectMeta(now, false, apivalidation.NameIsDNSSubdomain)
	path := field.NewPath("spec", "controller")
	if len(now.Spec.Controller) > maxControllerName {
		errs = append(errs, field.TooLong(path, "", maxControllerName))
	}
	errs = append(errs, validation.IsDomainPrefixedPath(path, now.Spec.Controller)...)
	if p := now.Spec.Parameters; p != nil {
		errs = append(errs, validateIngressParameters(p, field.NewPath("spec", "parameters"))...)
	}
	if old != nil {
		errs = append(errs, validateMetaUpdate(now, old)...)
		errs = append(errs, apivalidation.ValidateImmutableField(now.Spec.Controller, old.Spec.Controller, path)...)
	}
	return errs
}

func validateIngressParameters(p *networkingv1.IngressClassParametersReference, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p.APIGroup != nil {
		errs = append(errs, invalid(path.Child("apiGroup"), *p.APIGroup, validation.IsDNS1123Subdomain(*p.APIGroup))...)
	}
	errs = append(errs, requiredSegment(path.Child("kind"), p.Kind)...)
	errs = append(errs, requiredSegment(path.Child("name"), p.Name)...)
	switch {
	case p.Scope == nil:
		errs = append(errs, field.Required(path.Child("scope"), ""))
	case *p.Scope == networkingv1.IngressClassParametersReferenceScopeNamespace && p.Namespace == nil:
		errs = append(errs, field.Required(path.Child("namespace"), "`parameters.scope` is set to 'Namespace'"))
	case *p.Scope == networkingv1.IngressClassParametersReferenceScopeNamespace:
		errs = append(errs, invalid(path.Child("namespace"), *p.Namespace, apivalidation.ValidateNamespaceName(*p.Namespace, false))...)
	case *p.Scope == networkingv1.IngressClassParametersReferenceScopeCluster && p.Namespace != nil:
		errs = append(errs, field.Forbidden(path.Child("namespace"), "`parameters.scope` is set to 'Cluster'"))
	case *p.Scope != networkingv1.IngressClassParametersReferenceScopeCluster:
		errs = append(errs, field.NotSupported(path.Child("scope"), *p.Scope, []string{
			networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace,
		}))
	}
	return errs
}

// admitIngressClass refuses parameters: nothing reads them.
func admitIngressClass(_ *kernel.View, _ kernel.Write, now, _ *networkingv1.IngressClass) field.ErrorList {
	if now.Spec.Parameters != nil {
		return field.ErrorList{notSupportedYet(field.NewPath("spec", "parameters"))}
	}
	return nil
}
