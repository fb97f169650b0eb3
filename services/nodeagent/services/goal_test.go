package services

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/bpf"
)

func svc(name, ip string, ports ...string) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip}}
	for _, p := range ports {
		var port corev1.ServicePort
		f := strings.Split(p, "/") // name/port/protocol
		port.Name, port.Protocol = f[0], corev1.Protocol(f[2])
		fmt.Sscan(f[1], &port.Port)
		s.Spec.Ports = append(s.Spec.Ports, port)
	}
	return s
}

// slice makes a slice of one named port; an endpoint is "ip" and flags:
// r ready, s serving, t terminating, ? nothing said.
func slice(service, port string, number int32, protocol corev1.Protocol, endpoints ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: service + "-x", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &port, Port: &number, Protocol: &protocol}},
	}
	for _, e := range endpoints {
		ip, flags, _ := strings.Cut(e, " ")
		one := discoveryv1.Endpoint{Addresses: []string{ip}}
		if flags != "?" {
			has := func(f string) *bool { b := strings.Contains(flags, f); return &b }
			one.Conditions = discoveryv1.EndpointConditions{Ready: has("r"), Serving: has("s"), Terminating: has("t")}
		}
		s.Endpoints = append(s.Endpoints, one)
	}
	return s
}

func show(all []bpf.Service) (out []string) {
	for _, s := range all {
		out = append(out, fmt.Sprint(s, " ", s.Backends))
	}
	return out
}

func TestGoal(t *testing.T) {
	foreign := svc("mesh", "10.43.0.9", "/80/TCP")
	foreign.Labels = map[string]string{proxyNameLabel: "mesh"}
	external := svc("out", "", "/80/TCP")
	external.Spec.Type = corev1.ServiceTypeExternalName
	dns := bpf.Service{Address: netip.MustParseAddr("10.43.0.10"), Port: 53, Protocol: bpf.UDP, Backends: []netip.AddrPort{netip.MustParseAddrPort("10.43.0.10:53")}}
	sctp := corev1.ProtocolSCTP

	got := Goal([]*corev1.Service{
		svc("web", "10.43.0.2", "http/80/TCP", "quic/80/UDP", "admin/81/TCP"),
		svc("kube-dns", "10.43.0.10", "dns/53/UDP", "dns-tcp/53/TCP"),
		svc("cart", "10.43.0.1", "/80/TCP"),
		svc("list", "None", "/80/TCP"),
		svc("phone", "10.43.0.3", "/80/SCTP"),
		svc("none", "10.43.0.4", "/80/TCP"),
		svc("leaving", "10.43.0.5", "/80/TCP"),
		foreign, external,
	}, []*discoveryv1.EndpointSlice{
		slice("web", "http", 8080, corev1.ProtocolTCP, "10.42.0.3 rs", "10.42.0.2 rs", "10.42.0.4 st", "10.42.0.5 ", "10.42.0.6 ?"),
		slice("web", "http", 8080, corev1.ProtocolTCP, "10.42.0.2 rs", "10.42.1.2 rs"),
		slice("web", "quic", 8443, corev1.ProtocolUDP, "10.42.0.2 rs"),
		slice("cart", "", 80, corev1.ProtocolTCP, "10.42.0.9 rs"),
		slice("phone", "", 80, sctp, "10.42.0.9 rs"),
		slice("leaving", "", 80, corev1.ProtocolTCP, "10.42.0.7 st", "10.42.0.8 t", "10.42.0.9 s"),
		slice("mesh", "", 80, corev1.ProtocolTCP, "10.42.0.9 rs"),
		slice("gone", "", 80, corev1.ProtocolTCP, "10.42.0.9 rs"),
	}, []bpf.Service{dns})
	want := []string{
		"TCP 10.43.0.1:80 [10.42.0.9:80]",
		"TCP 10.43.0.2:80 [10.42.0.2:8080 10.42.0.3:8080 10.42.0.6:8080 10.42.1.2:8080]",
		"UDP 10.43.0.2:80 [10.42.0.2:8443]",
		"TCP 10.43.0.2:81 []",
		"TCP 10.43.0.4:80 []",
		"TCP 10.43.0.5:80 [10.42.0.7:80]",
		"TCP 10.43.0.10:53 []",
		"UDP 10.43.0.10:53 [10.43.0.10:53]",
	}
	if diff := cmp.Diff(want, show(got)); diff != "" {
		t.Error(diff)
	}
	if !Equal(got, got) || Equal(got, got[1:]) {
		t.Error("Equal is wrong")
	}
}
