package controllers

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// backend is a pod behind a service, with the service's ports as the pod has
// them: a named target port may be another number in every pod.
type backend struct {
	*corev1.Pod
	ports []backendPort
}

type backendPort struct {
	name        string
	number      int32
	protocol    corev1.Protocol
	appProtocol *string
}

// portsKey is the same for backends whose ports are all the same.
func (b *backend) portsKey() string { return portsKey(b.ports) }

func portsKey(ports []backendPort) string {
	var key strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&key, "%s|%d|%s|", p.name, p.number, p.protocol)
		if p.appProtocol != nil {
			key.WriteString(*p.appProtocol)
		}
		key.WriteByte(';')
	}
	return key.String()
}

func comparePorts(a, b backendPort) int {
	return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.number, b.number), cmp.Compare(a.protocol, b.protocol))
}

// selecting tells whether the service's endpoints are ours to keep: one without
// a selector has its endpoints written by somebody else.
func selecting(s *corev1.Service) bool {
	return len(s.Spec.Selector) > 0 && s.Spec.Type != corev1.ServiceTypeExternalName
}

// contains tells whether the labels have all that the selector asks for.
func contains(labels, selector map[string]string) bool {
	for k, v := range selector { // in no order: all must match
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// backendsOf are the pods that the service selects and that have an address,
// in the order of their names. They may be not ready, or on their way out.
func backendsOf(v *kernel.View, s *corev1.Service) []backend {
	var out []backend
	for e := range v.Entries(kinds.Pods.Resource, s.Namespace) {
		p := e.Object().(*corev1.Pod)
		if p.Status.PodIP == "" || finished(p) || !contains(p.Labels, s.Spec.Selector) {
			continue
		}
		b := backend{Pod: p}
		for i := range s.Spec.Ports {
			port := &s.Spec.Ports[i]
			if number, ok := targetPort(p, port); ok {
				b.ports = append(b.ports, backendPort{port.Name, number, port.Protocol, port.AppProtocol})
			}
		}
		slices.SortFunc(b.ports, comparePorts)
		out = append(out, b)
	}
	return out
}

// targetPort finds the number of a service's port in a pod.
func targetPort(p *corev1.Pod, port *corev1.ServicePort) (int32, bool) {
	if port.TargetPort.Type == intstr.Int {
		if port.TargetPort.IntVal == 0 {
			return port.Port, true
		}
		return port.TargetPort.IntVal, true
	}
	find := func(c *corev1.Container) (int32, bool) {
		for _, one := range c.Ports {
			if one.Name == port.TargetPort.StrVal && one.Protocol == port.Protocol {
				return one.ContainerPort, true
			}
		}
		return 0, false
	}
	for i := range p.Spec.Containers {
		if n, ok := find(&p.Spec.Containers[i]); ok {
			return n, true
		}
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			continue
		}
		if n, ok := find(c); ok {
			return n, true
		}
	}
	return 0, false
}

// hostnameFor is the name under which DNS knows the pod in the service's
// domain, if the pod asks for one.
func hostnameFor(p *corev1.Pod, s *corev1.Service) string {
	if p.Spec.Hostname != "" && p.Spec.Subdomain == s.Name && p.Namespace == s.Namespace {
		return p.Spec.Hostname
	}
	return ""
}

// addresses are the pod's addresses of one family.
func addresses(p *corev1.Pod, family corev1.IPFamily) []string {
	ips := p.Status.PodIPs
	if len(ips) == 0 {
		ips = []corev1.PodIP{{IP: p.Status.PodIP}}
	}
	for _, ip := range ips {
		if strings.Contains(ip.IP, ":") == (family == corev1.IPv6Protocol) {
			return []string{ip.IP}
		}
	}
	return nil
}

// wakeServices names the services whose endpoints an event may change.
func wakeServices(v *kernel.View, e kernel.Event) []kernel.Key {
	if e.Key.Resource == kinds.Services.Resource {
		return []kernel.Key{e.Key}
	}
	pod, old, ok := kinds.Pods.Of(e)
	if !ok || pod != nil && old != nil && sameToServices(pod, old) {
		return nil
	}
	var keys []kernel.Key
	for _, s := range kinds.Services.List(v, e.Key.Namespace) {
		if !selecting(s) {
			continue
		}
		if pod != nil && contains(pod.Labels, s.Spec.Selector) || old != nil && contains(old.Labels, s.Spec.Selector) {
			keys = append(keys, kinds.Services.Key(s.Namespace, s.Name))
		}
	}
	return keys
}

// sameToServices tells whether a change of a pod cannot change any endpoint.
func sameToServices(a, b *corev1.Pod) bool {
	return a.UID == b.UID && ready(a) == ready(b) && finished(a) == finished(b) &&
		(a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) &&
		a.Spec.NodeName == b.Spec.NodeName && a.Status.PodIP == b.Status.PodIP &&
		slices.Equal(a.Status.PodIPs, b.Status.PodIPs) && maps.Equal(a.Labels, b.Labels)
}

// headless tells whether the service has no address of its own.
func headless(s *corev1.Service) bool {
	return s.Spec.ClusterIP == corev1.ClusterIPNone || s.Spec.ClusterIP == ""
}

// labelsFor are the labels of a service's endpoints: the service's, and ours.
func labelsFor(s *corev1.Service, ours map[string]string) map[string]string {
	out := maps.Clone(s.Labels)
	if out == nil {
		out = map[string]string{}
	}
	delete(out, corev1.IsHeadlessService)
	if headless(s) {
		out[corev1.IsHeadlessService] = ""
	}
	maps.Copy(out, ours)
	return out
}

func same(a, b any) bool { return apiequality.Semantic.DeepEqual(a, b) }
