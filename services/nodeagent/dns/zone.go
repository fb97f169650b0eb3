package dns

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Cluster says what is the same for all names of a cluster.
type Cluster struct {
	Domain string         // such as "cluster.local"
	Server netip.Addr     // where DNS is served, such as 10.43.0.10
	Ranges []netip.Prefix // of services and pods: their addresses have no names outside
}

// Zone is what all names of the cluster stand for at one moment: immutable.
type Zone struct {
	cluster  Cluster
	domain   string                         // fully qualified, in lower case
	services map[string]map[string]*service // by namespace and name
	reverse  map[netip.Addr][]string        // names of an address
}

// service is what there is to say of one Service.
type service struct {
	address  netip.Addr // zero: headless or external
	external string     // fully qualified
	ports    []port
	hosts    []host // of a headless one
}

type port struct {
	name, protocol string // in lower case; the protocol without "_"
	number         uint16
}

// host is an endpoint of a headless service.
type host struct {
	name    string // its host name or, having none, its address with dashes
	address netip.Addr
	ports   []port
}

// Records builds the Zone of the given objects.
func Records(c Cluster, all []*corev1.Service, endpoints []*discoveryv1.EndpointSlice) *Zone {
	z := &Zone{
		cluster: c, domain: strings.ToLower(dns.Fqdn(c.Domain)),
		services: map[string]map[string]*service{}, reverse: map[netip.Addr][]string{},
	}
	for _, s := range all {
		one := serviceOf(s)
		if one == nil {
			continue
		}
		if z.services[s.Namespace] == nil {
			z.services[s.Namespace] = map[string]*service{}
		}
		z.services[s.Namespace][s.Name] = one
		if one.address.IsValid() {
			z.reverse[one.address] = append(z.reverse[one.address], z.name(s.Name, s.Namespace, "svc"))
		}
	}
	for _, s := range endpoints {
		name := s.Labels[discoveryv1.LabelServiceName]
		if one := z.services[s.Namespace][name]; one != nil && one.headless() && s.AddressType == discoveryv1.AddressTypeIPv4 {
			z.addHosts(one, name, s)
		}
	}
	for _, byName := range z.services {
		for _, s := range byName {
			slices.SortFunc(s.hosts, func(a, b host) int { return a.address.Compare(b.address) })
		}
	}
	for _, names := range z.reverse {
		slices.Sort(names)
	}
	return z
}

func (s *service) headless() bool { return !s.address.IsValid() && s.external == "" }

// serviceOf reads a Service; nil if it has no names.
func serviceOf(s *corev1.Service) *service {
	one := &service{}
	switch {
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		one.external = dns.Fqdn(s.Spec.ExternalName)
		return one
	case s.Spec.ClusterIP == corev1.ClusterIPNone:
	default:
		ip, err := netip.ParseAddr(s.Spec.ClusterIP)
		if err != nil || !ip.Is4() {
			return nil // not given an address yet
		}
		one.address = ip
	}
	for _, p := range s.Spec.Ports {
		one.ports = append(one.ports, port{strings.ToLower(p.Name), protocolName(p.Protocol), uint16(p.Port)})
	}
	return one
}

func protocolName(p corev1.Protocol) string {
	if p == "" {
		return "tcp"
	}
	return strings.ToLower(string(p))
}

// addHosts adds the ready endpoints of a slice to a headless service.
func (z *Zone) addHosts(one *service, name string, s *discoveryv1.EndpointSlice) {
	var ports []port
	for _, p := range s.Ports {
		if p.Port != nil {
			ports = append(ports, port{strings.ToLower(value(p.Name)), protocolName(value(p.Protocol)), uint16(*p.Port)})
		}
	}
	for _, e := range s.Endpoints {
		if (e.Conditions.Ready != nil && !*e.Conditions.Ready) || len(e.Addresses) == 0 {
			continue
		}
		ip, err := netip.ParseAddr(e.Addresses[0])
		if err != nil || !ip.Is4() {
			continue
		}
		h := host{name: strings.ToLower(value(e.Hostname)), address: ip, ports: ports}
		if h.name == "" {
			h.name = strings.ReplaceAll(ip.String(), ".", "-")
		} else {
			z.reverse[ip] = append(z.reverse[ip], z.name(h.name, name, s.Namespace, "svc"))
		}
		one.hosts = append(one.hosts, h)
	}
}

func (z *Zone) name(labels ...string) string { return strings.Join(labels, ".") + "." + z.domain }

func value[T any](p *T) T {
	if p == nil {
		var none T
		return none
	}
	return *p
}
