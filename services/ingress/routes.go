package ingress

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// Controller is what an IngressClass names to be served here.
const Controller = "rutter.dev/ingress"

// Table is all that the proxy must know: plain data, comparable with
// reflect.DeepEqual.
type Table struct {
	Rules   []Rule // in the order in which they are tried within their host
	Default *Backend
	Certs   []Cert
}

// Rule sends the requests of a host and path to a backend.
type Rule struct {
	Host    string // exact, "*.example.com", or "" for any
	Path    string
	Exact   bool // else Path is a prefix, of whole elements
	Backend Backend
}

// Backend is a Service's port, as the pods behind it.
type Backend struct {
	Service string // namespace/name:port, for people
	// Ready endpoints get new requests; if there are none, Terminating ones do.
	Ready, Terminating []netip.AddrPort
}

// Cert is a certificate with its key, both PEM, for some hosts.
type Cert struct {
	Hosts     []string // may hold wildcards
	Cert, Key string
}

// Reads are the resources that Routes looks at.
var Reads = []kernel.Resource{kinds.Ingresses.Resource, kinds.IngressClasses.Resource, kinds.Services.Resource, kinds.EndpointSlices.Resource, kinds.Secrets.Resource}

// Routes derives the table from a View. One bad Ingress leaves out only what
// is bad in it.
func Routes(v *kernel.View) *Table {
	t := &Table{}
	for _, ing := range kinds.Ingresses.List(v, "") {
		if !ours(v, ing) {
			continue
		}
		for _, r := range ing.Spec.Rules {
			if r.HTTP == nil {
				continue
			}
			for _, p := range r.HTTP.Paths {
				t.Rules = append(t.Rules, Rule{Host: strings.ToLower(r.Host), Path: cmp.Or(p.Path, "/"),
					Exact:   p.PathType != nil && *p.PathType == networkingv1.PathTypeExact,
					Backend: backend(v, ing.Namespace, p.Backend.Service)})
			}
		}
		if d := ing.Spec.DefaultBackend; d != nil && d.Service != nil && t.Default == nil {
			b := backend(v, ing.Namespace, d.Service)
			t.Default = &b
		}
		t.Certs = append(t.Certs, certs(v, ing)...)
	}
	// Exact paths before prefixes, long before short; what was there first
	// (by the Ingress's Key) wins among equals, so the sort must be stable.
	slices.SortStableFunc(t.Rules, func(a, b Rule) int {
		switch {
		case a.Host != b.Host:
			return cmp.Compare(a.Host, b.Host)
		case a.Exact != b.Exact:
			return map[bool]int{true: -1, false: 1}[a.Exact]
		}
		return cmp.Compare(len(b.Path), len(a.Path))
	})
	return t
}

// ours tells whether an Ingress is of a class that this controller serves; one
// without a class is, if such a class is the default.
func ours(v *kernel.View, ing *networkingv1.Ingress) bool {
	name := ing.Annotations["kubernetes.io/ingress.class"] // deprecated, still in use
	if ing.Spec.IngressClassName != nil {
		name = *ing.Spec.IngressClassName
	}
	if name != "" {
		c, ok := kinds.IngressClasses.Get(v, "", name)
		return ok && c.Spec.Controller == Controller
	}
	for _, c := range kinds.IngressClasses.List(v, "") {
		if c.Spec.Controller == Controller && c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
			return true
		}
	}
	return false
}

// backend resolves a Service's port to the addresses of its pods.
func backend(v *kernel.View, namespace string, b *networkingv1.IngressServiceBackend) Backend {
	if b == nil {
		return Backend{}
	}
	out := Backend{Service: namespace + "/" + b.Name}
	svc, ok := kinds.Services.Get(v, namespace, b.Name)
	if !ok {
		return out
	}
	i := slices.IndexFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool {
		return b.Port.Name != "" && p.Name == b.Port.Name || b.Port.Name == "" && p.Port == b.Port.Number
	})
	if i < 0 {
		return out
	}
	out.Service += ":" + cmp.Or(svc.Spec.Ports[i].Name, b.Port.Name)
	for _, s := range kinds.EndpointSlices.List(v, namespace) {
		if s.Labels[discoveryv1.LabelServiceName] == b.Name {
			out.add(s, svc.Spec.Ports[i].Name)
		}
	}
	slices.SortFunc(out.Ready, netip.AddrPort.Compare)
	slices.SortFunc(out.Terminating, netip.AddrPort.Compare)
	return out
}

// add takes the endpoints of a slice that serve the port.
func (b *Backend) add(s *discoveryv1.EndpointSlice, port string) {
	for _, p := range s.Ports {
		if p.Port == nil || p.Name != nil && *p.Name != port || p.Name == nil && port != "" {
			continue
		}
		for _, e := range s.Endpoints {
			for _, a := range e.Addresses {
				addr, err := netip.ParseAddr(a)
				if err != nil {
					continue // a name: such slices are for DNS
				}
				at := netip.AddrPortFrom(addr, uint16(*p.Port))
				c := e.Conditions
				switch {
				case c.Ready == nil || *c.Ready:
					b.Ready = append(b.Ready, at)
				case c.Serving != nil && *c.Serving && c.Terminating != nil && *c.Terminating:
					b.Terminating = append(b.Terminating, at)
				}
			}
		}
	}
}

// certs are the certificates of an Ingress whose Secrets are there.
func certs(v *kernel.View, ing *networkingv1.Ingress) []Cert {
	var out []Cert
	for _, t := range ing.Spec.TLS {
		s, ok := kinds.Secrets.Get(v, ing.Namespace, t.SecretName)
		if !ok || len(s.Data[corev1.TLSCertKey]) == 0 || len(s.Data[corev1.TLSPrivateKeyKey]) == 0 {
			continue
		}
		hosts := slices.Clone(t.Hosts)
		if len(hosts) == 0 {
			for _, r := range ing.Spec.Rules {
				hosts = append(hosts, r.Host)
			}
		}
		out = append(out, Cert{Hosts: hosts, Cert: string(s.Data[corev1.TLSCertKey]), Key: string(s.Data[corev1.TLSPrivateKeyKey])})
	}
	return out
}
