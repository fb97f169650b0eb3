package kinds

import (
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

// prepareService keeps clusterIP and clusterIPs in step for clients that know
// only one of them, gives back what the cluster chose and a client left out,
// and wipes what a change of type makes meaningless.
func prepareService(now, old *corev1.Service) {
	if old == nil {
		if now.Spec.ClusterIP != "" && len(now.Spec.ClusterIPs) == 0 {
			now.Spec.ClusterIPs = []string{now.Spec.ClusterIP}
		}
		return
	}
	if hasClusterIP(old) && hasClusterIP(now) {
		if now.Spec.ClusterIP == "" {
			now.Spec.ClusterIP = old.Spec.ClusterIP
		}
		if len(now.Spec.ClusterIPs) == 0 {
			now.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
		}
	}
	if hasNodePorts(old) && hasNodePorts(now) {
		keepNodePorts(now, old)
	}
	if needsHealthCheck(old) && needsHealthCheck(now) && now.Spec.HealthCheckNodePort == 0 {
		now.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
	pairClusterIPs(now, old)
	dropForType(now, old)
}

// hasClusterIP tells whether services of the type have an address, or are
// headless.
func hasClusterIP(s *corev1.Service) bool { return s.Spec.Type != corev1.ServiceTypeExternalName }

// hasNodePorts tells whether services of the type are reached through ports of
// the nodes.
func hasNodePorts(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
}

// keepNodePorts gives ports that come without a node port the one that the
// port of their name had, unless another has it now.
func keepNodePorts(now, old *corev1.Service) {
	was, used := map[string]int32{}, map[int32]bool{}
	for _, p := range old.Spec.Ports {
		was[p.Name] = p.NodePort
	}
	for _, p := range now.Spec.Ports {
		used[p.NodePort] = true
	}
	for i := range now.Spec.Ports {
		if p := &now.Spec.Ports[i]; p.NodePort == 0 && !used[was[p.Name]] {
			p.NodePort = was[p.Name]
		}
	}
}

// pairClusterIPs guesses what a client meant that changed only one of
// clusterIP and clusterIPs.
func pairClusterIPs(now, old *corev1.Service) {
	if len(old.Spec.ClusterIPs) > 0 && len(now.Spec.ClusterIPs) == 0 && old.Spec.ClusterIP == now.Spec.ClusterIP {
		now.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
	}
	if old.Spec.ClusterIP == now.Spec.ClusterIP || !slices.Equal(old.Spec.ClusterIPs, now.Spec.ClusterIPs) {
		return
	}
	if old.Spec.ClusterIP != "" && now.Spec.ClusterIP == "" {
		now.Spec.ClusterIPs = nil
	} else {
		now.Spec.ClusterIPs = []string{now.Spec.ClusterIP}
	}
}

// dropForType wipes what the old type had been given and the new one has no
// use for, unless the client changed it: then validation says so.
func dropForType(now, old *corev1.Service) {
	n, o := &now.Spec, &old.Spec
	if hasClusterIP(old) && !hasClusterIP(now) {
		if n.ClusterIP == o.ClusterIP && slices.Equal(n.ClusterIPs, o.ClusterIPs) {
			n.ClusterIP, n.ClusterIPs = "", nil
		}
		if reflect.DeepEqual(n.IPFamilies, o.IPFamilies) {
			n.IPFamilies = nil
		}
		if value(n.IPFamilyPolicy) == value(o.IPFamilyPolicy) {
			n.IPFamilyPolicy = nil
		}
	}
	if hasNodePorts(old) && !hasNodePorts(now) && noNewNodePort(n.Ports, o.Ports) {
		for i := range n.Ports {
			n.Ports[i].NodePort = 0
		}
	}
	if needsHealthCheck(old) && !needsHealthCheck(now) && n.HealthCheckNodePort == o.HealthCheckNodePort {
		n.HealthCheckNodePort = 0
	}
	if o.Type == corev1.ServiceTypeLoadBalancer && n.Type != corev1.ServiceTypeLoadBalancer {
		if a, b := n.AllocateLoadBalancerNodePorts, o.AllocateLoadBalancerNodePorts; a != nil && b != nil && *a == *b {
			n.AllocateLoadBalancerNodePorts = nil
		}
		if reflect.DeepEqual(n.LoadBalancerClass, o.LoadBalancerClass) {
			n.LoadBalancerClass = nil
		}
	}
	if externallyAccessible(old) && !externallyAccessible(now) && n.ExternalTrafficPolicy == o.ExternalTrafficPolicy {
		n.ExternalTrafficPolicy = ""
	}
	if o.Type == corev1.ServiceTypeLoadBalancer && n.Type != corev1.ServiceTypeLoadBalancer {
		now.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
}

// noNewNodePort tells whether every node port was there before.
func noNewNodePort(now, old []corev1.ServicePort) bool {
	for _, p := range now {
		if p.NodePort != 0 && !slices.ContainsFunc(old, func(o corev1.ServicePort) bool { return o.NodePort == p.NodePort }) {
			return false
		}
	}
	return true
}

// validateServiceChange checks what an update may not change: the first
// address and family, the class of a load balancer, the health check's port.
func validateServiceChange(now, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	n, o, path := &now.Spec, &old.Spec, field.NewPath("spec")
	if hasClusterIP(now) && hasClusterIP(old) && !(headless(now) && headless(old)) {
		errs = append(errs, validateIPChange(n, o, path)...)
		if !headless(now) && !headless(old) {
			errs = append(errs, validateFamilyChange(n, o, path)...)
		}
	}
	balanced := o.Type == corev1.ServiceTypeLoadBalancer && n.Type == corev1.ServiceTypeLoadBalancer
	if balanced && !reflect.DeepEqual(n.LoadBalancerClass, o.LoadBalancerClass) {
		errs = append(errs, field.Invalid(path.Child("loadBalancerClass"), n.LoadBalancerClass, "may not change once set"))
	}
	if needsHealthCheck(now) && needsHealthCheck(old) && n.HealthCheckNodePort != o.HealthCheckNodePort {
		errs = append(errs, field.Forbidden(path.Child("healthCheckNodePort"), "field is immutable"))
	}
	return errs
}

func validateIPChange(n, o *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	changed := func(i int) {
		errs = append(errs, field.Invalid(path.Child("clusterIPs").Index(i), n.ClusterIPs, "may not change once set"))
	}
	if len(n.ClusterIPs) == len(o.ClusterIPs) {
		for i := range n.ClusterIPs {
			if n.ClusterIPs[i] != o.ClusterIPs[i] {
				changed(i)
			}
		}
		return errs
	}
	if len(n.ClusterIPs) == 0 {
		return append(errs, field.Invalid(path.Child("clusterIPs").Index(0), n.ClusterIPs, "primary clusterIP can not be unset"))
	}
	if len(o.ClusterIPs) > 0 && n.ClusterIPs[0] != o.ClusterIPs[0] {
		changed(0)
	}
	if len(n.ClusterIPs) < len(o.ClusterIPs) && len(n.ClusterIPs) == 1 && value(n.IPFamilyPolicy) != corev1.IPFamilyPolicySingleStack {
		errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), n.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary clusterIP"))
	}
	return errs
}

func validateFamilyChange(n, o *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	first := path.Child("ipFamilies").Index(0)
	if len(n.IPFamilies) == len(o.IPFamilies) {
		if !slices.Equal(n.IPFamilies, o.IPFamilies) {
			errs = append(errs, field.Invalid(first, n.IPFamilies, "may not change once set"))
		}
		return errs
	}
	fewer := len(n.IPFamilies) < len(o.IPFamilies)
	if fewer && len(n.ClusterIPs) == 0 {
		errs = append(errs, field.Invalid(first, n.IPFamilies, "primary ipFamily can not be unset"))
	}
	if len(n.IPFamilies) > 0 && len(o.IPFamilies) > 0 && n.IPFamilies[0] != o.IPFamilies[0] {
		errs = append(errs, field.Invalid(first, n.IPFamilies, "may not change once set"))
	}
	if fewer && len(n.IPFamilies) == 1 && value(n.IPFamilyPolicy) != corev1.IPFamilyPolicySingleStack {
		errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), n.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary ipFamily"))
	}
	return errs
}

// admitService makes services single-stack, for there are only IPv4 addresses,
// and refuses what nothing carries out.
func admitService(_ *kernel.View, _ kernel.Write, now, _ *corev1.Service) field.ErrorList {
	spec, path := &now.Spec, field.NewPath("spec")
	if hasClusterIP(now) {
		if spec.IPFamilyPolicy == nil {
			spec.IPFamilyPolicy = pointer(corev1.IPFamilyPolicySingleStack)
		}
		if len(spec.IPFamilies) == 0 {
			spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
		}
	}
	var errs field.ErrorList
	refuse := func(valid bool, at *field.Path) {
		if valid {
			errs = append(errs, notSupportedYet(at))
		}
	}
	refuse(hasNodePorts(now), path.Child("type"))
	refuse(len(spec.ExternalIPs) > 0, path.Child("externalIPs"))
	refuse(spec.SessionAffinity == corev1.ServiceAffinityClientIP, path.Child("sessionAffinity"))
	refuse(slices.Contains(spec.IPFamilies, corev1.IPv6Protocol), path.Child("ipFamilies"))
	refuse(value(spec.IPFamilyPolicy) == corev1.IPFamilyPolicyRequireDualStack, path.Child("ipFamilyPolicy"))
	refuse(value(spec.InternalTrafficPolicy) == corev1.ServiceInternalTrafficPolicyLocal, path.Child("internalTrafficPolicy"))
	refuse(slices.Contains(trafficDistributions, value(spec.TrafficDistribution)), path.Child("trafficDistribution"))
	for i, p := range spec.Ports {
		refuse(p.Protocol == corev1.ProtocolSCTP, path.Child("ports").Index(i).Child("protocol"))
	}
	return errs
}
