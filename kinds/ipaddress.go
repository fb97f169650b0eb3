package kinds

import (
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

// IPAddresses are claims: one named after an address says who has it
// (k8s.io/api/networking/v1.IPAddress). As the log takes only one of two
// creates of a name, no address is given twice.
var IPAddresses = &Kind[*networkingv1.IPAddress]{
	Info: Info{
		Resource: kernel.Resource{Group: "networking.k8s.io", Plural: "ipaddresses"}, Version: "v1", Kind: "IPAddress",
		Singular: "ipaddress", ShortNames: []string{"ip"}, Cluster: true,
	},
	New:      func() *networkingv1.IPAddress { return &networkingv1.IPAddress{} },
	NewList:  func() runtime.Object { return &networkingv1.IPAddressList{} },
	Validate: validateIPAddress,
	Columns: []Column[*networkingv1.IPAddress]{
		nameColumn[*networkingv1.IPAddress](),
		column("ParentRef", doc(networkingv1.IPAddressSpec{}, "parentRef"), func(a *networkingv1.IPAddress) any {
			p := a.Spec.ParentRef
			if p == nil {
				return none
			}
			text := strings.ToLower(schema.GroupResource{Group: p.Group, Resource: p.Resource}.String())
			if p.Namespace != "" {
				text += "/" + p.Namespace
			}
			return text + "/" + p.Name
		}),
	},
	Type: func(now, old *networkingv1.IPAddress) string {
		switch {
		case Gone(now):
			return "ipaddress.released"
		case old == nil:
			return "ipaddress.claimed"
		}
		return ""
	},
}

// isIPAddressName wants the canonical form of an address.
func isIPAddressName(name string, _ bool) []string {
	var complaints []string
	for _, e := range validation.IsValidIP(nil, name) {
		complaints = append(complaints, e.Detail)
	}
	return complaints
}

// validateIPAddress checks the address and whose it is, which never changes.
func validateIPAddress(now, old *networkingv1.IPAddress) field.ErrorList {
	path := field.NewPath("spec", "parentRef")
	errs := validateObjectMeta(now, false, isIPAddressName)
	if old != nil {
		errs = append(errs, validateMetaUpdate(now, old)...)
		errs = append(errs, apivalidation.ValidateImmutableField(now.Spec.ParentRef, old.Spec.ParentRef, path)...)
	}
	parent := now.Spec.ParentRef
	if parent == nil {
		return append(errs, field.Required(path, ""))
	}
	if parent.Group != "" {
		errs = append(errs, invalid(path.Child("group"), parent.Group, validation.IsDNS1123Subdomain(parent.Group))...)
	}
	errs = append(errs, requiredSegment(path.Child("resource"), parent.Resource)...)
	errs = append(errs, requiredSegment(path.Child("name"), parent.Name)...)
	if parent.Namespace != "" {
		errs = append(errs, invalid(path.Child("namespace"), parent.Namespace, content.IsPathSegmentName(parent.Namespace))...)
	}
	return errs
}

// requiredSegment wants what can stand between two slashes of a URL's path.
func requiredSegment(path *field.Path, v string) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return invalid(path, v, content.IsPathSegmentName(v))
}
