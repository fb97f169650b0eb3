package kinds

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// How much an EndpointSlice may hold.
const (
	maxSliceEndpoints = 1000
	maxSlicePorts     = 20000
	maxSliceAddresses = 100 // of one endpoint
	maxSliceHints     = 8   // zones, and nodes, of one endpoint
)

// prepareEndpointSlice drops the deprecated topology from endpoints that were
// written anew; a node named there before, and only there, is kept as nodeName.
func prepareEndpointSlice(now, old *discoveryv1.EndpointSlice) {
	var known []string
	if old != nil {
		if equality.Semantic.DeepEqual(now.Endpoints, old.Endpoints) {
			return
		}
		for i := range old.Endpoints {
			if n, ok := old.Endpoints[i].DeprecatedTopology[corev1.LabelHostname]; ok {
				known = append(known, n)
			}
		}
	}
	for i := range now.Endpoints {
		e := &now.Endpoints[i]
		n, ok := e.DeprecatedTopology[corev1.LabelHostname]
		if ok && e.NodeName == nil && slices.Contains(known, n) && len(apivalidation.NameIsDNSSubdomain(n, false)) == 0 {
			e.NodeName = &n
		}
		e.DeprecatedTopology = nil
	}
}

// validateEndpointSlice checks addresses against the slice's type, which never
// changes. Endpoints that were stored so already stay writable.
func validateEndpointSlice(now, old *discoveryv1.EndpointSlice) field.ErrorList {
	errs := validateObjectMeta(now, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, oneOf(now.AddressType, field.NewPath("addressType"),
		discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)...)
	errs = append(errs, validateSlicePorts(now.Ports, field.NewPath("ports"))...)
	if old == nil || !equality.Semantic.DeepEqual(now.Endpoints, old.Endpoints) {
		errs = append(errs, validateSliceEndpoints(now, field.NewPath("endpoints"))...)
	}
	if old != nil {
		errs = append(errs, validateMetaUpdate(now, old)...)
		errs = append(errs, apivalidation.ValidateImmutableField(now.AddressType, old.AddressType, field.NewPath("addressType"))...)
	}
	return errs
}

func validateSlicePorts(ports []discoveryv1.EndpointPort, path *field.Path) field.ErrorList {
	if len(ports) > maxSlicePorts {
		return field.ErrorList{field.TooMany(path, len(ports), maxSlicePorts)}
	}
	var errs field.ErrorList
	names := map[string]bool{}
	for i := range ports {
		p, path := &ports[i], path.Index(i)
		name := value(p.Name)
		if name != "" {
			errs = append(errs, validateShortName(name, path.Child("name"))...)
		}
		if names[name] {
			errs = append(errs, field.Duplicate(path.Child("name"), name))
		}
		names[name] = true
		switch {
		case p.Protocol == nil:
			errs = append(errs, field.Required(path.Child("protocol"), ""))
		case !slices.Contains(protocols, *p.Protocol):
			errs = append(errs, field.NotSupported(path.Child("protocol"), *p.Protocol, protocols))
		}
		if p.AppProtocol != nil {
			errs = append(errs, validateQualifiedName(*p.AppProtocol, path.Child("appProtocol"))...)
		}
	}
	return errs
}

func validateSliceEndpoints(s *discoveryv1.EndpointSlice, path *field.Path) field.ErrorList {
	if len(s.Endpoints) > maxSliceEndpoints {
		return field.ErrorList{field.TooMany(path, len(s.Endpoints), maxSliceEndpoints)}
	}
	var errs field.ErrorList
	for i := range s.Endpoints {
		e, path := &s.Endpoints[i], path.Index(i)
		if n := len(e.Addresses); n == 0 {
			errs = append(errs, field.Required(path.Child("addresses"), "must contain at least 1 address"))
		} else if n > maxSliceAddresses {
			errs = append(errs, field.TooMany(path.Child("addresses"), n, maxSliceAddresses))
		}
		for j, a := range e.Addresses {
			errs = append(errs, validateSliceAddress(a, s.AddressType, path.Child("addresses"), j)...)
		}
		if e.NodeName != nil {
			errs = append(errs, invalid(path.Child("nodeName"), *e.NodeName, apivalidation.NameIsDNSSubdomain(*e.NodeName, false))...)
		}
		errs = append(errs, metav1validation.ValidateLabels(e.DeprecatedTopology, path.Child("deprecatedTopology"))...)
		if e.Hostname != nil {
			errs = append(errs, validateShortName(*e.Hostname, path.Child("hostname"))...)
		}
		if e.Hints != nil {
			errs = append(errs, validateHints(e.Hints, path.Child("hints"))...)
		}
	}
	return errs
}

// validateSliceAddress checks the address at index i of path by its type.
func validateSliceAddress(a string, t discoveryv1.AddressType, path *field.Path, i int) field.ErrorList {
	var errs field.ErrorList
	switch t {
	case discoveryv1.AddressTypeIPv4:
		errs = validation.IsValidIPForLegacyField(path.Index(i), a, true, nil)
		if len(errs) == 0 && !netutils.IsIPv4String(a) {
			errs = append(errs, field.Invalid(path, a, "must be an IPv4 address"))
		}
	case discoveryv1.AddressTypeIPv6:
		errs = validation.IsValidIP(path.Index(i), a)
		if len(errs) == 0 && !netutils.IsIPv6String(a) {
			errs = append(errs, field.Invalid(path, a, "must be an IPv6 address"))
		}
	case discoveryv1.AddressTypeFQDN:
		return validation.IsFullyQualifiedDomainName(path.Index(i), a)
	default:
		return nil
	}
	if netutils.ParseIPSloppy(a) != nil && len(validation.IsValidIPForLegacyField(path, a, true, nil)) == 0 {
		errs = append(errs, validateEndpointIP(a, path.Index(i))...)
	}
	return errs
}

// validateHints checks the zones and nodes that an endpoint is best for.
func validateHints(h *discoveryv1.EndpointHints, path *field.Path) field.ErrorList {
	if n := len(h.ForZones); n > maxSliceHints {
		return field.ErrorList{field.TooMany(path.Child("forZones"), n, maxSliceHints)}
	}
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, z := range h.ForZones {
		path := path.Child("forZones").Index(i).Child("name")
		if seen[z.Name] {
			errs = append(errs, field.Duplicate(path, z.Name))
		}
		seen[z.Name] = true
		errs = append(errs, invalid(path, z.Name, validation.IsValidLabelValue(z.Name))...)
	}
	if n := len(h.ForNodes); n > maxSliceHints {
		return append(errs, field.TooMany(path.Child("forNodes"), n, maxSliceHints))
	}
	clear(seen)
	for i, n := range h.ForNodes {
		path := path.Child("forNodes").Index(i).Child("name")
		if seen[n.Name] {
			errs = append(errs, field.Duplicate(path, n.Name))
		}
		seen[n.Name] = true
		errs = append(errs, invalid(path, n.Name, apivalidation.NameIsDNSSubdomain(n.Name, false))...)
	}
	return errs
}
