package dns

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func svc(namespace, name, ip string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: ports}}
}

func external(namespace, name, target string) *corev1.Service {
	s := svc(namespace, name, "")
	s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, target
	return s
}

// slice makes a slice; an endpoint is "ip", "ip hostname" or "ip !" for one that is not ready.
func slice(namespace, service, portName string, number int32, endpoints ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: namespace, Name: service + "-x", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &number}},
	}
	for _, e := range endpoints {
		ip, rest, _ := strings.Cut(e, " ")
		one := discoveryv1.Endpoint{Addresses: []string{ip}}
		switch rest {
		case "":
		case "!":
			one.Conditions.Ready = new(bool)
		default:
			one.Hostname = &rest
		}
		s.Endpoints = append(s.Endpoints, one)
	}
	return s
}

func testZone() *Zone {
	return Records(Cluster{
		Domain: "cluster.local", Server: netip.MustParseAddr("10.43.0.10"),
		Ranges: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.43.0.0/16")},
	}, []*corev1.Service{
		svc("default", "kubernetes", "10.43.0.1", corev1.ServicePort{Name: "https", Port: 443, Protocol: "TCP"}),
		svc("shop", "web", "10.43.0.20", corev1.ServicePort{Name: "http", Port: 80}, corev1.ServicePort{Name: "quic", Port: 443, Protocol: "UDP"}),
		svc("shop", "plain", "10.43.0.21", corev1.ServicePort{Port: 80}),
		svc("shop", "db", "None", corev1.ServicePort{Name: "sql", Port: 5432, Protocol: "TCP"}),
		svc("shop", "nobody", "None"),
		svc("shop", "unassigned", ""),
		external("shop", "out", "example.com"),
		external("shop", "alias", "web.shop.svc.cluster.local"),
		external("shop", "circle", "circle.shop.svc.cluster.local"),
	}, []*discoveryv1.EndpointSlice{
		slice("shop", "db", "sql", 5432, "10.42.0.6 db-1", "10.42.0.5 db-0", "10.42.0.8", "10.42.0.9 !"),
		slice("shop", "web", "http", 8080, "10.42.0.7 web-0"),
		slice("shop", "nobody", "", 1, "10.42.0.9 !"),
	})
}

// tell writes an answer down, without times to live.
func tell(a Answer, ours bool) []string {
	if !ours {
		return []string{"not ours"}
	}
	if a.Code == dns.RcodeNameError {
		return []string{"NXDOMAIN"}
	}
	if len(a.Records) == 0 {
		return []string{"NODATA"}
	}
	var out []string
	for _, rr := range a.Records {
		out = append(out, strings.Join(strings.Fields(strings.TrimPrefix(rr.String(), rr.Header().Name)), " "))
	}
	for _, rr := range a.Extra {
		out = append(out, "+ "+strings.Join(strings.Fields(rr.String()), " "))
	}
	return out
}

func TestLookup(t *testing.T) {
	z := testZone()
	for _, test := range []struct {
		question string // NAME TYPE
		want     []string
	}{
		{"kubernetes.default.svc.cluster.local. A", []string{"5 IN A 10.43.0.1"}},
		{"KUBERNETES.Default.svc.cluster.LOCAL. A", []string{"5 IN A 10.43.0.1"}},
		{"kubernetes.default.svc.cluster.local. AAAA", []string{"NODATA"}},
		{"kubernetes.default.svc.cluster.local. MX", []string{"NODATA"}},
		{"kubernetes.shop.svc.cluster.local. A", []string{"NXDOMAIN"}},
		{"unassigned.shop.svc.cluster.local. A", []string{"NXDOMAIN"}},

		// What a search list asks.
		{"kubernetes.default.shop.svc.cluster.local. A", []string{"NXDOMAIN"}},
		{"example.com.shop.svc.cluster.local. A", []string{"NXDOMAIN"}},
		{"example.com.svc.cluster.local. A", []string{"NXDOMAIN"}},
		{"example.com.cluster.local. A", []string{"NXDOMAIN"}},
		{"example.com. A", []string{"not ours"}},
		{"mycluster.local. A", []string{"not ours"}},

		// Names that only have others below them.
		{"cluster.local. A", []string{"NODATA"}},
		{"cluster.local. NS", []string{"5 IN NS ns.dns.cluster.local.", "+ ns.dns.cluster.local. 5 IN A 10.43.0.10"}},
		{"ns.dns.cluster.local. A", []string{"5 IN A 10.43.0.10"}},
		{"svc.cluster.local. A", []string{"NODATA"}},
		{"shop.svc.cluster.local. A", []string{"NODATA"}},
		{"nowhere.svc.cluster.local. A", []string{"NXDOMAIN"}},
		{"_tcp.web.shop.svc.cluster.local. SRV", []string{"NODATA"}},
		{"_udp.kubernetes.default.svc.cluster.local. SRV", []string{"NXDOMAIN"}},
		{"dns-version.cluster.local. TXT", []string{`5 IN TXT "1.1.0"`}},

		{"_http._tcp.web.shop.svc.cluster.local. SRV", []string{"5 IN SRV 0 100 80 web.shop.svc.cluster.local.", "+ web.shop.svc.cluster.local. 5 IN A 10.43.0.20"}},
		{"_quic._udp.web.shop.svc.cluster.local. SRV", []string{"5 IN SRV 0 100 443 web.shop.svc.cluster.local.", "+ web.shop.svc.cluster.local. 5 IN A 10.43.0.20"}},
		{"_http._tcp.web.shop.svc.cluster.local. A", []string{"NODATA"}},
		{"_http._udp.web.shop.svc.cluster.local. SRV", []string{"NXDOMAIN"}},
		{"_._tcp.plain.shop.svc.cluster.local. SRV", []string{"NXDOMAIN"}},
		{"web-0.web.shop.svc.cluster.local. A", []string{"NXDOMAIN"}}, // not headless

		{"db.shop.svc.cluster.local. A", []string{"5 IN A 10.42.0.5", "5 IN A 10.42.0.6", "5 IN A 10.42.0.8"}},
		{"db-1.db.shop.svc.cluster.local. A", []string{"5 IN A 10.42.0.6"}},
		{"db-1.db.shop.svc.cluster.local. AAAA", []string{"NODATA"}},
		{"10-42-0-8.db.shop.svc.cluster.local. A", []string{"5 IN A 10.42.0.8"}},
		{"nobody.shop.svc.cluster.local. A", []string{"NXDOMAIN"}}, // none is ready: specification 2.4.1
		{"db-9.db.shop.svc.cluster.local. A", []string{"NXDOMAIN"}},
		{"_sql._tcp.db.shop.svc.cluster.local. SRV", []string{
			"5 IN SRV 0 100 5432 db-0.db.shop.svc.cluster.local.", "5 IN SRV 0 100 5432 db-1.db.shop.svc.cluster.local.", "5 IN SRV 0 100 5432 10-42-0-8.db.shop.svc.cluster.local.",
			"+ db-0.db.shop.svc.cluster.local. 5 IN A 10.42.0.5", "+ db-1.db.shop.svc.cluster.local. 5 IN A 10.42.0.6", "+ 10-42-0-8.db.shop.svc.cluster.local. 5 IN A 10.42.0.8"}},

		{"out.shop.svc.cluster.local. A", []string{"5 IN CNAME example.com."}},
		{"out.shop.svc.cluster.local. CNAME", []string{"5 IN CNAME example.com."}},

		{"20.0.43.10.in-addr.arpa. PTR", []string{"5 IN PTR web.shop.svc.cluster.local."}},
		{"6.0.42.10.in-addr.arpa. PTR", []string{"5 IN PTR db-1.db.shop.svc.cluster.local."}},
		{"6.0.42.10.in-addr.arpa. A", []string{"NODATA"}},
		{"99.0.42.10.in-addr.arpa. PTR", []string{"NXDOMAIN"}},
		{"8.8.8.8.in-addr.arpa. PTR", []string{"not ours"}},
		{"8.8.in-addr.arpa. NS", []string{"not ours"}},

		{"10-42-0-5.shop.pod.cluster.local. A", []string{"5 IN A 10.42.0.5"}},
		{"10-42-0-500.shop.pod.cluster.local. A", []string{"NXDOMAIN"}},
	} {
		name, qtype, _ := strings.Cut(test.question, " ")
		if diff := cmp.Diff(test.want, tell(z.Lookup(name, dns.StringToType[qtype]))); diff != "" {
			t.Errorf("%s: %s", test.question, diff)
		}
	}
}

func FuzzLookup(f *testing.F) {
	for _, name := range []string{".", "svc.cluster.local.", "a.b.svc.cluster.local.", "_x._tcp.web.shop.svc.cluster.local.", `we\.b.shop.svc.cluster.local.`, "1.in-addr.arpa.", "..cluster.local."} {
		f.Add(name, uint16(dns.TypeA))
	}
	z := testZone()
	f.Fuzz(func(t *testing.T, name string, qtype uint16) {
		a, ours := z.Lookup(name, qtype)
		if len(a.Records) > 0 && (!ours || a.Code != dns.RcodeSuccess) {
			t.Errorf("%q: records, but %d, ours %t", name, a.Code, ours)
		}
	})
}
