package services

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/rutterhq/rutter/bpf"
)

// proxyNameLabel is on services that some other proxy is to implement.
const proxyNameLabel = "service.kubernetes.io/service-proxy-name"

// portKey is one port of one service, as slices name it.
type portKey struct {
	namespace, service, port string
	protocol                 corev1.Protocol
}

// backends of one service port, by what they are good for.
type backends struct {
	ready   []netip.AddrPort
	leaving []netip.AddrPort // serve, but are about to go
}

// Goal returns what the node's datapath should balance. local are services
// that the node itself provides, such as DNS and its host ports; they stand
// in place of what the objects say about the same address and port.
func Goal(all []*corev1.Service, endpoints []*discoveryv1.EndpointSlice, local []bpf.Service) []bpf.Service {
	byPort := collect(endpoints)
	out := slices.Clone(local)
	taken := make(map[string]bool, len(local))
	for _, s := range local {
		taken[s.String()] = true
	}
	for _, s := range all {
		if _, foreign := s.Labels[proxyNameLabel]; foreign || s.Spec.Type == corev1.ServiceTypeExternalName {
			continue
		}
		ip, err := netip.ParseAddr(s.Spec.ClusterIP) // headless: "None"
		if err != nil || !ip.Is4() {
			continue
		}
		for _, p := range s.Spec.Ports {
			one := bpf.Service{Address: ip, Port: uint16(p.Port), Protocol: protocol(p.Protocol)}
			if one.Protocol == 0 || taken[one.String()] {
				continue
			}
			taken[one.String()] = true
			b := byPort[portKey{s.Namespace, s.Name, p.Name, p.Protocol}]
			if one.Backends = b.ready; len(b.ready) == 0 {
				one.Backends = b.leaving
			}
			one.Backends = sorted(one.Backends)
			out = append(out, one)
		}
	}
	slices.SortFunc(out, func(a, b bpf.Service) int {
		return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	return out
}

func protocol(p corev1.Protocol) bpf.Protocol {
	switch p {
	case corev1.ProtocolTCP, "":
		return bpf.TCP
	case corev1.ProtocolUDP:
		return bpf.UDP
	}
	return 0
}

// collect gathers the addresses of all slices.
func collect(endpoints []*discoveryv1.EndpointSlice) map[portKey]backends {
	byPort := map[portKey]backends{}
	for _, s := range endpoints {
		service := s.Labels[discoveryv1.LabelServiceName]
		if service == "" || s.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		for _, p := range s.Ports {
			if p.Port == nil {
				continue
			}
			k := portKey{s.Namespace, service, value(p.Name), cmp.Or(value(p.Protocol), corev1.ProtocolTCP)}
			b := byPort[k]
			for i := range s.Endpoints {
				b.add(&s.Endpoints[i], uint16(*p.Port))
			}
			byPort[k] = b
		}
	}
	return byPort
}

// add sorts an endpoint in by its conditions. The API says what a missing one
// means: ready, and serving as far as ready.
func (b *backends) add(e *discoveryv1.Endpoint, port uint16) {
	if len(e.Addresses) == 0 {
		return
	}
	ip, err := netip.ParseAddr(e.Addresses[0]) // the API: consumers use the first
	if err != nil || !ip.Is4() || ip.IsUnspecified() || port == 0 {
		return
	}
	c := e.Conditions
	ready := c.Ready == nil || *c.Ready
	serving := ready
	if c.Serving != nil {
		serving = *c.Serving
	}
	switch a := netip.AddrPortFrom(ip, port); {
	case ready:
		b.ready = append(b.ready, a)
	case serving && value(c.Terminating):
		b.leaving = append(b.leaving, a)
	}
}

// sorted returns the addresses in one order, each once.
func sorted(all []netip.AddrPort) []netip.AddrPort {
	slices.SortFunc(all, netip.AddrPort.Compare)
	return slices.Compact(all)
}

func value[T any](p *T) T {
	if p == nil {
		var none T
		return none
	}
	return *p
}

// Equal tells whether two configurations from Goal are the same.
func Equal(a, b []bpf.Service) bool {
	return slices.EqualFunc(a, b, func(a, b bpf.Service) bool {
		return a.Address == b.Address && a.Port == b.Port && a.Protocol == b.Protocol && slices.Equal(a.Backends, b.Backends)
	})
}
