package kinds

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/rutterhq/rutter/kernel"
)

// Services give a set of pods one address and name (k8s.io/api/core/v1.Service).
// The address itself is claimed by the apiserver, as an object of IPAddresses.
var Services = &Kind[*corev1.Service]{
	Info: Info{
		Resource: kernel.Resource{Plural: "services"}, Version: "v1", Kind: "Service",
		Singular: "service", ShortNames: []string{"svc"}, Categories: []string{"all"}, Status: true,
	},
	New:            func() *corev1.Service { return &corev1.Service{} },
	NewList:        func() runtime.Object { return &corev1.ServiceList{} },
	Default:        defaultService,
	Prepare:        prepareService,
	Admit:          admitService,
	Validate:       validateService,
	ValidateStatus: validateServiceStatus,
	Columns: []Column[*corev1.Service]{
		nameColumn[*corev1.Service](),
		column("Type", doc(corev1.ServiceSpec{}, "type"), func(s *corev1.Service) any { return string(s.Spec.Type) }),
		column("Cluster-IP", doc(corev1.ServiceSpec{}, "clusterIP"), func(s *corev1.Service) any {
			if len(s.Spec.ClusterIPs) == 0 {
				return none
			}
			return s.Spec.ClusterIPs[0]
		}),
		column("External-IP", doc(corev1.ServiceSpec{}, "externalIPs"), func(s *corev1.Service) any { return externalAddress(s) }),
		column("Port(s)", doc(corev1.ServiceSpec{}, "ports"), func(s *corev1.Service) any { return servicePorts(s.Spec.Ports) }),
		ageColumn[*corev1.Service](),
		wide(column("Selector", doc(corev1.ServiceSpec{}, "selector"), func(s *corev1.Service) any { return selectorText(s.Spec.Selector) })),
	},
	Fields: func(s *corev1.Service) fields.Set {
		return fields.Set{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
	},
}

// defaultService makes a service one of type ClusterIP whose ports speak TCP
// and lead to the same ports of the pods.
func defaultService(s *corev1.Service) {
	spec := &s.Spec
	if spec.SessionAffinity == "" {
		spec.SessionAffinity = corev1.ServiceAffinityNone
	}
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityNone:
		spec.SessionAffinityConfig = nil
	case corev1.ServiceAffinityClientIP:
		if c := spec.SessionAffinityConfig; c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
			spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{
				ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: pointer(corev1.DefaultClientIPServiceAffinitySeconds)},
			}
		}
	}
	if spec.Type == "" {
		spec.Type = corev1.ServiceTypeClusterIP
	}
	for i := range spec.Ports {
		p := &spec.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if externallyAccessible(s) && spec.ExternalTrafficPolicy == "" {
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}
	known := []corev1.ServiceType{corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer}
	if spec.InternalTrafficPolicy == nil && slices.Contains(known, spec.Type) {
		spec.InternalTrafficPolicy = pointer(corev1.ServiceInternalTrafficPolicyCluster)
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		defaultLoadBalancer(s)
	}
}

// defaultLoadBalancer fills in what only services of type LoadBalancer have.
func defaultLoadBalancer(s *corev1.Service) {
	if s.Spec.AllocateLoadBalancerNodePorts == nil {
		s.Spec.AllocateLoadBalancerNodePorts = pointer(true)
	}
	for i := range s.Status.LoadBalancer.Ingress {
		if in := &s.Status.LoadBalancer.Ingress[i]; in.IP != "" && in.IPMode == nil {
			in.IPMode = pointer(corev1.LoadBalancerIPModeVIP)
		}
	}
}

// externallyAccessible tells whether traffic from outside the cluster may come
// in through the service.
func externallyAccessible(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer || s.Spec.Type == corev1.ServiceTypeNodePort ||
		s.Spec.Type == corev1.ServiceTypeClusterIP && len(s.Spec.ExternalIPs) > 0
}

// externalAddress is the External-IP cell.
func externalAddress(s *corev1.Service) string {
	external := strings.Join(s.Spec.ExternalIPs, ",")
	switch s.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return orNone(external)
	case corev1.ServiceTypeLoadBalancer:
		var parts []string
		for _, in := range s.Status.LoadBalancer.Ingress {
			parts = append(parts, in.IP, in.Hostname)
		}
		all := append(addresses(parts), s.Spec.ExternalIPs...)
		if len(all) == 0 {
			return "<pending>"
		}
		return strings.Join(all, ",")
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	}
	return unknown
}

// addresses takes (address, host name) pairs and returns what there is of each
// pair, the address first, sorted and each once.
func addresses(pairs []string) []string {
	var out []string
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i] != "" {
			out = append(out, pairs[i])
		} else if pairs[i+1] != "" {
			out = append(out, pairs[i+1])
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// servicePorts is the Port(s) cell: "80/TCP,443:30443/TCP".
func servicePorts(ports []corev1.ServicePort) string {
	var parts []string
	for _, p := range ports {
		if p.NodePort > 0 {
			parts = append(parts, fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol))
		} else {
			parts = append(parts, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
		}
	}
	return orNone(strings.Join(parts, ","))
}
