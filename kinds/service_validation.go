package kinds

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// maxAffinitySeconds is for how long a client may keep to one endpoint: a day.
const maxAffinitySeconds = 86400

// trafficDistributions are the wishes for where an endpoint should be.
var trafficDistributions = []string{
	corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone,
	corev1.ServiceTrafficDistributionPreferSameNode,
}

// validateService checks a create or an update of a service.
func validateService(now, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	if old == nil {
		errs = validateObjectMeta(now, true, apivalidation.NameIsDNSLabel)
	} else {
		errs = validateMetaUpdate(now, old)
		errs = append(errs, validateServiceChange(now, old)...)
	}
	spec, path := &now.Spec, field.NewPath("spec")
	errs = append(errs, validateTopologyAnnotations(now)...)
	errs = append(errs, validateServiceType(now, path)...)
	errs = append(errs, validateServicePorts(now, path.Child("ports"))...)
	errs = append(errs, metav1validation.ValidateLabels(spec.Selector, path.Child("selector"))...)
	errs = append(errs, validateAffinity(spec, path)...)
	if spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, validateClusterIPs(now, old, path)...)
	}
	errs = append(errs, validateExternalIPs(now, old, path.Child("externalIPs"))...)
	errs = append(errs, validateBalancer(now, old, path)...)
	return append(errs, validateTraffic(now, path)...)
}

// validateTopologyAnnotations wants the old and the new annotation to agree.
func validateTopologyAnnotations(s *corev1.Service) field.ErrorList {
	hints, old := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	mode, set := s.Annotations[corev1.AnnotationTopologyMode]
	if !old || !set || hints == mode {
		return nil
	}
	return field.ErrorList{field.Invalid(metadataPath.Child("annotations").Key(corev1.AnnotationTopologyMode), mode,
		fmt.Sprintf("must match annotations[%s] when both are specified", corev1.DeprecatedAnnotationTopologyAwareHints))}
}

// headless tells whether the service has no address: its name leads to the pods.
func headless(s *corev1.Service) bool {
	return len(s.Spec.ClusterIPs) == 1 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

// validateServiceType checks what only some types may or must have.
func validateServiceType(s *corev1.Service, path *field.Path) field.ErrorList {
	spec := &s.Spec
	errs := oneOf(spec.Type, path.Child("type"),
		corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)
	if len(spec.Ports) == 0 && !headless(s) && spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(path.Child("ports"), ""))
	}
	switch spec.Type {
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort:
		if headless(s) {
			errs = append(errs, field.Invalid(path.Child("clusterIPs").Index(0), spec.ClusterIPs[0],
				fmt.Sprintf("may not be set to 'None' for %s services", spec.Type)))
		}
	case corev1.ServiceTypeExternalName:
		const not = "may not be set for ExternalName services"
		if len(spec.ClusterIPs) > 0 {
			errs = append(errs, field.Forbidden(path.Child("clusterIPs"), not))
		}
		if len(spec.IPFamilies) > 0 {
			errs = append(errs, field.Forbidden(path.Child("ipFamilies"), not))
		}
		if spec.IPFamilyPolicy != nil {
			errs = append(errs, field.Forbidden(path.Child("ipFamilyPolicy"), not))
		}
		if name := strings.TrimSuffix(spec.ExternalName, "."); name != "" {
			errs = append(errs, invalid(path.Child("externalName"), name, validation.IsDNS1123Subdomain(name))...)
		} else {
			errs = append(errs, field.Required(path.Child("externalName"), ""))
		}
	}
	return errs
}

// validateServicePorts wants each name, each port of a protocol and each node
// port of a protocol once.
func validateServicePorts(s *corev1.Service, path *field.Path) field.ErrorList {
	type id struct {
		protocol corev1.Protocol
		port     int32
	}
	var errs field.ErrorList
	names, ports, nodePorts := map[string]bool{}, map[id]bool{}, map[id]bool{}
	for i := range s.Spec.Ports {
		p, path := &s.Spec.Ports[i], path.Index(i)
		if p.Name != "" {
			errs = append(errs, validateShortName(p.Name, path.Child("name"))...)
			if names[p.Name] {
				errs = append(errs, field.Duplicate(path.Child("name"), p.Name))
			}
			names[p.Name] = true
		} else if len(s.Spec.Ports) > 1 {
			errs = append(errs, field.Required(path.Child("name"), ""))
		}
		errs = append(errs, invalid(path.Child("port"), p.Port, validation.IsValidPortNum(int(p.Port)))...)
		errs = append(errs, oneOf(p.Protocol, path.Child("protocol"), protocols...)...)
		errs = append(errs, validateTargetPort(p.TargetPort, path.Child("targetPort"))...)
		if p.AppProtocol != nil {
			errs = append(errs, validateQualifiedName(*p.AppProtocol, path.Child("appProtocol"))...)
		}
		if ports[id{p.Protocol, p.Port}] {
			errs = append(errs, field.Duplicate(path, id{p.Protocol, p.Port}))
		}
		ports[id{p.Protocol, p.Port}] = true
		if p.NodePort == 0 {
			continue
		}
		if s.Spec.Type == corev1.ServiceTypeClusterIP {
			errs = append(errs, field.Forbidden(path.Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
		}
		if nodePorts[id{p.Protocol, p.NodePort}] {
			errs = append(errs, field.Duplicate(path.Child("nodePort"), p.NodePort))
		}
		nodePorts[id{p.Protocol, p.NodePort}] = true
	}
	return errs
}

func validateTargetPort(p intstr.IntOrString, path *field.Path) field.ErrorList {
	if p.Type == intstr.String {
		return invalid(path, p.StrVal, validation.IsValidPortName(p.StrVal))
	}
	return invalid(path, p.IntVal, validation.IsValidPortNum(int(p.IntVal)))
}

func validateAffinity(s *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	errs := oneOf(s.SessionAffinity, path.Child("sessionAffinity"), corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	config := path.Child("sessionAffinityConfig")
	switch s.SessionAffinity {
	case corev1.ServiceAffinityNone:
		if s.SessionAffinityConfig != nil {
			errs = append(errs, field.Forbidden(config, "must not be set when session affinity is None"))
		}
	case corev1.ServiceAffinityClientIP:
		const when = "when session affinity type is ClientIP"
		switch c := s.SessionAffinityConfig; {
		case c == nil:
			errs = append(errs, field.Required(config, when))
		case c.ClientIP == nil:
			errs = append(errs, field.Required(config.Child("clientIP"), when))
		case c.ClientIP.TimeoutSeconds == nil:
			errs = append(errs, field.Required(config.Child("clientIP", "timeoutSeconds"), when))
		case *c.ClientIP.TimeoutSeconds <= 0 || *c.ClientIP.TimeoutSeconds > maxAffinitySeconds:
			errs = append(errs, field.Invalid(config.Child("clientIP", "timeoutSeconds"), *c.ClientIP.TimeoutSeconds,
				fmt.Sprintf("must be greater than 0 and less than %d", maxAffinitySeconds)))
		}
	}
	return errs
}

// validateClusterIPs checks the addresses, their families and how the two go
// together. Whether an address is free, its claim tells.
func validateClusterIPs(now, old *corev1.Service, path *field.Path) field.ErrorList {
	spec, ips := &now.Spec, path.Child("clusterIPs")
	var errs field.ErrorList
	switch {
	case spec.ClusterIP == "" && len(spec.ClusterIPs) > 0:
		errs = append(errs, field.Invalid(ips, spec.ClusterIPs, "must be empty when `clusterIP` is not specified"))
	case spec.ClusterIP != "" && len(spec.ClusterIPs) == 0:
		errs = append(errs, field.Required(ips, ""))
	case spec.ClusterIP != "" && spec.ClusterIPs[0] != spec.ClusterIP:
		errs = append(errs, field.Invalid(ips, spec.ClusterIPs, "first value must match `clusterIP`"))
	}
	errs = append(errs, validateFamilies(spec, path)...)
	var known []string
	if old != nil {
		known = old.Spec.ClusterIPs
	}
	bad := false
	for i, ip := range spec.ClusterIPs {
		if i == 0 && ip == corev1.ClusterIPNone {
			if len(spec.ClusterIPs) > 1 {
				bad = true
				errs = append(errs, field.Invalid(ips, spec.ClusterIPs, "'None' must be the first and only value"))
			}
			continue
		}
		wrong := validation.IsValidIPForLegacyField(ips.Index(i), ip, true, known)
		bad = bad || len(wrong) > 0
		errs = append(errs, wrong...)
	}
	if len(spec.ClusterIPs) > 2 {
		errs = append(errs, field.Invalid(ips, spec.ClusterIPs, "may only hold up to 2 values"))
	}
	if bad { // what follows would only confuse
		return errs
	}
	if len(spec.ClusterIPs) > 1 {
		if dual, err := netutils.IsDualStackIPStrings(spec.ClusterIPs); err != nil {
			errs = append(errs, field.InternalError(ips, err))
		} else if !dual {
			errs = append(errs, field.Invalid(ips, spec.ClusterIPs, "may specify no more than one IP for each IP family"))
		}
	}
	return append(errs, validateFamilyOfIPs(now, ips)...)
}

func validateFamilies(s *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	families := []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	for i, f := range s.IPFamilies {
		at := path.Child("ipFamilies").Index(i)
		if !slices.Contains(families, f) {
			errs = append(errs, field.NotSupported(at, f, families))
		}
		if slices.Contains(s.IPFamilies[:i], f) {
			errs = append(errs, field.Duplicate(at, f))
		}
	}
	policies := []corev1.IPFamilyPolicy{corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack}
	if p := s.IPFamilyPolicy; p != nil && !slices.Contains(policies, *p) {
		errs = append(errs, field.NotSupported(path.Child("ipFamilyPolicy"), *p, policies))
	}
	return errs
}

// validateFamilyOfIPs wants each address to be of the family at its place.
func validateFamilyOfIPs(s *corev1.Service, path *field.Path) field.ErrorList {
	if headless(s) {
		return nil
	}
	var errs field.ErrorList
	for i := range min(len(s.Spec.ClusterIPs), len(s.Spec.IPFamilies)) {
		ip, family := s.Spec.ClusterIPs[i], s.Spec.IPFamilies[i]
		is6 := netutils.IsIPv6String(ip)
		if family == corev1.IPv4Protocol && is6 || family == corev1.IPv6Protocol && !is6 {
			errs = append(errs, field.Invalid(path.Index(i), ip, fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%d]`", family, i)))
		}
	}
	return errs
}

func validateExternalIPs(now, old *corev1.Service, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	var known []string
	if old != nil {
		known = old.Spec.ExternalIPs
	}
	for i, ip := range now.Spec.ExternalIPs {
		wrong := validation.IsValidIPForLegacyField(path.Index(i), ip, true, known)
		if len(wrong) == 0 {
			wrong = validateEndpointIP(ip, path.Index(i))
		}
		errs = append(errs, wrong...)
	}
	return errs
}

// validateBalancer checks what is for services of type LoadBalancer only.
func validateBalancer(now, old *corev1.Service, path *field.Path) field.ErrorList {
	const only = "may only be used when `type` is 'LoadBalancer'"
	spec := &now.Spec
	balanced := spec.Type == corev1.ServiceTypeLoadBalancer
	errs := validateSourceRanges(now, old, path.Child("LoadBalancerSourceRanges"), only)
	switch {
	case !balanced && spec.AllocateLoadBalancerNodePorts != nil:
		errs = append(errs, field.Forbidden(path.Child("allocateLoadBalancerNodePorts"), only))
	case balanced && spec.AllocateLoadBalancerNodePorts == nil:
		errs = append(errs, field.Required(field.NewPath("allocateLoadBalancerNodePorts"), ""))
	}
	switch c := spec.LoadBalancerClass; {
	case c == nil:
	case balanced:
		errs = append(errs, validateQualifiedName(*c, path.Child("loadBalancerClass"))...)
	default:
		errs = append(errs, field.Forbidden(path.Child("loadBalancerClass"), only))
	}
	return errs
}

// validateSourceRanges checks from where clients may come: in the field or,
// without it, in the annotation that was before it. Ranges may be padded.
func validateSourceRanges(now, old *corev1.Service, path *field.Path, only string) field.ErrorList {
	var errs field.ErrorList
	balanced := now.Spec.Type == corev1.ServiceTypeLoadBalancer
	text, annotated := now.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]
	if len(now.Spec.LoadBalancerSourceRanges) > 0 {
		if !balanced {
			errs = append(errs, field.Forbidden(path, only))
		}
		var known []string
		if old != nil {
			for _, r := range old.Spec.LoadBalancerSourceRanges {
				known = append(known, strings.TrimSpace(r))
			}
		}
		for i, r := range now.Spec.LoadBalancerSourceRanges {
			errs = append(errs, validation.IsValidCIDRForLegacyField(path.Index(i), strings.TrimSpace(r), true, known)...)
		}
		return errs
	}
	if !annotated {
		return nil
	}
	path = metadataPath.Child("annotations").Key(corev1.AnnotationLoadBalancerSourceRangesKey)
	if !balanced {
		errs = append(errs, field.Forbidden(path, only))
	}
	if old != nil && old.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey] == text || strings.TrimSpace(text) == "" {
		return errs
	}
	for r := range strings.SplitSeq(strings.TrimSpace(text), ",") {
		errs = append(errs, validation.IsValidCIDRForLegacyField(path, strings.TrimSpace(r), true, nil)...)
	}
	return errs
}

// needsHealthCheck tells whether a load balancer must ask the nodes which of
// them have an endpoint.
func needsHealthCheck(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// validateTraffic checks where traffic goes that comes from outside, from
// inside, and the wish about both.
func validateTraffic(s *corev1.Service, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	spec, external := &s.Spec, path.Child("externalTrafficPolicy")
	if externallyAccessible(s) {
		errs = append(errs, oneOf(spec.ExternalTrafficPolicy, external, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)...)
	} else if spec.ExternalTrafficPolicy != "" {
		errs = append(errs, field.Invalid(external, spec.ExternalTrafficPolicy, "may only be set for externally-accessible services"))
	}
	check := path.Child("healthCheckNodePort")
	switch port := spec.HealthCheckNodePort; {
	case needsHealthCheck(s) && port == 0:
		errs = append(errs, field.Required(check, ""))
	case needsHealthCheck(s):
		errs = append(errs, invalid(check, port, validation.IsValidPortNum(int(port)))...)
	case port != 0:
		errs = append(errs, field.Invalid(check, port, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
	}
	internal := path.Child("internalTrafficPolicy")
	policies := []corev1.ServiceInternalTrafficPolicy{corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal}
	switch p := spec.InternalTrafficPolicy; {
	case p == nil && (spec.Type == corev1.ServiceTypeClusterIP || spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer):
		errs = append(errs, field.Required(internal, ""))
	case p != nil && !slices.Contains(policies, *p):
		errs = append(errs, field.NotSupported(internal, *p, policies))
	}
	if d := spec.TrafficDistribution; d != nil && !slices.Contains(trafficDistributions, *d) {
		errs = append(errs, field.NotSupported(path.Child("trafficDistribution"), *d, trafficDistributions))
	}
	return errs
}

// validateServiceStatus checks where a load balancer can be reached.
func validateServiceStatus(now, old *corev1.Service) field.ErrorList {
	errs := validateMetaUpdate(now, old)
	points, path := now.Status.LoadBalancer.Ingress, field.NewPath("status", "loadBalancer", "ingress")
	if now.Spec.Type != corev1.ServiceTypeLoadBalancer && len(points) > 0 {
		return append(errs, field.Forbidden(path, "may only be used when `spec.type` is 'LoadBalancer'"))
	}
	var known []string
	for _, in := range old.Status.LoadBalancer.Ingress {
		if in.IP != "" {
			known = append(known, in.IP)
		}
	}
	modes := []corev1.LoadBalancerIPMode{corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP}
	for i, in := range points {
		path := path.Index(i)
		errs = append(errs, validateBalancerPoint(in.IP, in.Hostname, known, path)...)
		switch m := in.IPMode; {
		case m == nil && in.IP != "":
			errs = append(errs, field.Required(path.Child("ipMode"), "must be specified when `ip` is set"))
		case m != nil && in.IP == "":
			errs = append(errs, field.Forbidden(path.Child("ipMode"), "may not be specified when `ip` is not set"))
		case m != nil && !slices.Contains(modes, *m):
			errs = append(errs, field.NotSupported(path.Child("ipMode"), *m, modes))
		}
	}
	return errs
}
