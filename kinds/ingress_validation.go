package kinds

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/rutterhq/rutter/kernel"
)

// ingressClassAnnotation named the class before there was a field for it.
const ingressClassAnnotation = "kubernetes.io/ingress.class"

// What a path may not hold, and not end with: a proxy might read it as
// another path.
var (
	badPathParts = []string{"//", "/./", "/../", "%2f", "%2F"}
	badPathEnds  = []string{"/..", "/."}
)

// ingressCheck is how strict the check is: what is stored already and was
// allowed by older rules stays writable.
type ingressCheck struct {
	anySecretName   bool
	anyWildcardRule bool
}

// validateIngress checks rules, backends and TLS.
func validateIngress(now, old *networkingv1.Ingress) field.ErrorList {
	errs := validateObjectMeta(now, true, apivalidation.NameIsDNSSubdomain)
	var c ingressCheck
	if old != nil {
		errs = append(errs, validateMetaUpdate(now, old)...)
		c.anySecretName = slices.ContainsFunc(old.Spec.TLS, func(t networkingv1.IngressTLS) bool {
			return len(validateTLSSecret(t.SecretName)) > 0
		})
		c.anyWildcardRule = slices.ContainsFunc(old.Spec.Rules, func(r networkingv1.IngressRule) bool {
			return strings.Contains(r.Host, "*") && len(validateIngressPaths(r.HTTP, nil)) > 0
		})
	}
	errs = append(errs, c.spec(&now.Spec, field.NewPath("spec"))...)
	class, ok := now.Annotations[ingressClassAnnotation]
	if old == nil && ok && now.Spec.IngressClassName != nil && class != *now.Spec.IngressClassName {
		errs = append(errs, field.Invalid(field.NewPath("annotations").Child(ingressClassAnnotation), class,
			"must match `ingressClassName` when both are specified"))
	}
	return errs
}

func (c ingressCheck) spec(s *networkingv1.IngressSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(s.Rules) == 0 && s.DefaultBackend == nil {
		errs = append(errs, field.Invalid(path, nil, "either `defaultBackend` or `rules` must be specified"))
	}
	if s.DefaultBackend != nil {
		errs = append(errs, validateIngressBackend(s.DefaultBackend, path.Child("defaultBackend"))...)
	}
	for i := range s.Rules {
		errs = append(errs, c.rule(&s.Rules[i], path.Child("rules").Index(i))...)
	}
	for i := range s.TLS {
		t, path := &s.TLS[i], path.Child("tls").Index(i)
		for j, h := range t.Hosts {
			errs = append(errs, validateIngressHost(h, path.Child("hosts").Index(j))...)
		}
		if !c.anySecretName {
			errs = append(errs, invalid(path.Child("secretName"), t.SecretName, validateTLSSecret(t.SecretName))...)
		}
	}
	if n := s.IngressClassName; n != nil {
		errs = append(errs, invalid(path.Child("ingressClassName"), *n, apivalidation.NameIsDNSSubdomain(*n, false))...)
	}
	return errs
}

func (c ingressCheck) rule(r *networkingv1.IngressRule, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.Host != "" {
		if netutils.ParseIPSloppy(r.Host) != nil {
			errs = append(errs, field.Invalid(path.Child("host"), r.Host, "must be a DNS name, not an IP address"))
		}
		errs = append(errs, validateIngressHost(r.Host, path.Child("host"))...)
	}
	if c.anyWildcardRule && strings.Contains(r.Host, "*") {
		return errs
	}
	return append(errs, validateIngressPaths(r.HTTP, path.Child("http"))...)
}

// validateIngressHost wants a DNS name, or one with a wildcard as first label.
func validateIngressHost(host string, path *field.Path) field.ErrorList {
	if strings.Contains(host, "*") {
		return invalid(path, host, validation.IsWildcardDNS1123Subdomain(host))
	}
	return invalid(path, host, validation.IsDNS1123Subdomain(host))
}

// validateTLSSecret gives the complaints about the name of a secret; none is fine.
func validateTLSSecret(name string) []string {
	if name == "" {
		return nil
	}
	return apivalidation.NameIsDNSSubdomain(name, false)
}

func validateIngressPaths(http *networkingv1.HTTPIngressRuleValue, path *field.Path) field.ErrorList {
	if http == nil {
		return nil
	}
	var errs field.ErrorList
	if len(http.Paths) == 0 {
		errs = append(errs, field.Required(path.Child("paths"), ""))
	}
	for i := range http.Paths {
		errs = append(errs, validateIngressPath(&http.Paths[i], path.Child("paths").Index(i))...)
	}
	return errs
}

func validateIngressPath(p *networkingv1.HTTPIngressPath, path *field.Path) field.ErrorList {
	if p.PathType == nil {
		return field.ErrorList{field.Required(path.Child("pathType"), "pathType must be specified")}
	}
	var errs field.ErrorList
	bad := func(text string) { errs = append(errs, field.Invalid(path.Child("path"), p.Path, text)) }
	switch *p.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		if !strings.HasPrefix(p.Path, "/") {
			bad("must be an absolute path")
		}
		for _, part := range badPathParts {
			if strings.Contains(p.Path, part) {
				bad(fmt.Sprintf("must not contain '%s'", part))
			}
		}
		for _, end := range badPathEnds {
			if strings.HasSuffix(p.Path, end) {
				bad(fmt.Sprintf("cannot end with '%s'", end))
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" && !strings.HasPrefix(p.Path, "/") {
			bad("must be an absolute path")
		}
	default:
		errs = append(errs, field.NotSupported(path.Child("pathType"), *p.PathType, []networkingv1.PathType{
			networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix,
		}))
	}
	return append(errs, validateIngressBackend(&p.Backend, path.Child("backend"))...)
}

// validateIngressBackend wants a service with one of name and number of a
// port, or else a reference to another object.
func validateIngressBackend(b *networkingv1.IngressBackend, path *field.Path) field.ErrorList {
	switch {
	case b.Resource != nil && b.Service != nil:
		return field.ErrorList{field.Invalid(path, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		return validateTypedReference(b.Resource, path.Child("resource"))
	case b.Service == nil:
		return field.ErrorList{field.Invalid(path, "", "resource or service backend is required")}
	}
	var errs field.ErrorList
	service := path.Child("service")
	if b.Service.Name == "" {
		errs = append(errs, field.Required(service.Child("name"), ""))
	} else {
		errs = append(errs, invalid(service.Child("name"), b.Service.Name, apivalidation.NameIsDNSLabel(b.Service.Name, false))...)
	}
	port := b.Service.Port
	switch {
	case port.Name != "" && port.Number != 0:
		errs = append(errs, field.Invalid(path, "", "cannot set both port name & port number"))
	case port.Name != "":
		errs = append(errs, invalid(service.Child("port", "name"), port.Name, validation.IsValidPortName(port.Name))...)
	case port.Number != 0:
		errs = append(errs, invalid(service.Child("port", "number"), port.Number, validation.IsValidPortNum(int(port.Number)))...)
	default:
		errs = append(errs, field.Required(path, "port name or number is required"))
	}
	return errs
}

func validateTypedReference(r *corev1.TypedLocalObjectReference, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.APIGroup != nil {
		errs = append(errs, invalid(path.Child("apiGroup"), *r.APIGroup, validation.IsDNS1123Subdomain(*r.APIGroup))...)
	}
	errs = append(errs, requiredSegment(path.Child("kind"), r.Kind)...)
	return append(errs, requiredSegment(path.Child("name"), r.Name)...)
}

// validateIngressStatus checks where an Ingress can be reached.
func validateIngressStatus(now, old *networkingv1.Ingress) field.ErrorList {
	errs := validateMetaUpdate(now, old)
	var known []string
	for _, in := range old.Status.LoadBalancer.Ingress {
		if in.IP != "" {
			known = append(known, in.IP)
		}
	}
	for i, in := range now.Status.LoadBalancer.Ingress {
		errs = append(errs, validateBalancerPoint(in.IP, in.Hostname, known, field.NewPath("status", "loadBalancer", "ingress").Index(i))...)
	}
	return errs
}

// validateBalancerPoint checks the address and the host name of one point of a
// load balancer. Addresses in known were stored before and stay valid.
func validateBalancerPoint(ip, host string, known []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if ip != "" {
		errs = append(errs, validation.IsValidIPForLegacyField(path.Child("ip"), ip, true, known)...)
	}
	if host != "" {
		errs = append(errs, invalid(path.Child("hostname"), host, validation.IsDNS1123Subdomain(host))...)
		if netutils.ParseIPSloppy(host) != nil {
			errs = append(errs, field.Invalid(path.Child("hostname"), host, "must be a DNS name, not an IP address"))
		}
	}
	return errs
}

// admitIngress gives an Ingress that names no class the default one, and
// refuses backends that are not services.
func admitIngress(v *kernel.View, _ kernel.Write, now, old *networkingv1.Ingress) field.ErrorList {
	if _, ok := now.Annotations[ingressClassAnnotation]; old == nil && !ok && now.Spec.IngressClassName == nil {
		if class := defaultClass(v); class != nil {
			now.Spec.IngressClassName = pointer(class.Name)
		}
	}
	var errs field.ErrorList
	check := func(b *networkingv1.IngressBackend, path *field.Path) {
		if b != nil && b.Resource != nil {
			errs = append(errs, notSupportedYet(path.Child("resource")))
		}
	}
	check(now.Spec.DefaultBackend, field.NewPath("spec", "defaultBackend"))
	for i, r := range now.Spec.Rules {
		if r.HTTP == nil {
			continue
		}
		for j := range r.HTTP.Paths {
			check(&r.HTTP.Paths[j].Backend, field.NewPath("spec", "rules").Index(i).Child("http", "paths").Index(j).Child("backend"))
		}
	}
	return errs
}

// defaultClass is the class that is marked as default, of several the newest,
// of equally new ones the first by name.
func defaultClass(v *kernel.View) *networkingv1.IngressClass {
	var best *networkingv1.IngressClass
	for e := range v.Entries(IngressClasses.Resource, "") {
		c := e.Object().(*networkingv1.IngressClass)
		if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] != "true" {
			continue
		}
		if best == nil || best.CreationTimestamp.Before(&c.CreationTimestamp) {
			best = c
		}
	}
	return best
}
