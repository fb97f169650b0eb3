package services

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func pod(age int, ip string, change func(*corev1.Pod), ports ...corev1.ContainerPort) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{UID: types.UID(ip), CreationTimestamp: metav1.NewTime(time.Unix(int64(1000-age), 0))},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Ports: ports}}},
		Status:     corev1.PodStatus{PodIP: ip, Phase: corev1.PodRunning},
	}
	if change != nil {
		change(p)
	}
	return p
}

func TestHostPorts(t *testing.T) {
	port := func(host, container int32) corev1.ContainerPort {
		return corev1.ContainerPort{HostPort: host, ContainerPort: container}
	}
	udp := corev1.ContainerPort{HostPort: 53, ContainerPort: 5353, Protocol: corev1.ProtocolUDP, HostIP: "192.0.2.1"}
	ports := HostPorts("n1", []*corev1.Pod{
		pod(1, "10.42.1.9", nil, port(8080, 80)), // too late
		pod(2, "10.42.1.2", nil, port(8080, 80), port(0, 81), udp),
		pod(3, "10.42.1.3", func(p *corev1.Pod) { p.Spec.HostNetwork = true }, port(8081, 8081)),
		pod(3, "10.42.1.4", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, port(8082, 80)),
		pod(3, "10.42.2.5", func(p *corev1.Pod) { p.Spec.NodeName = "n2" }, port(8083, 80)),
		pod(3, "", nil, port(8084, 80)),
	})
	var got []string
	for _, p := range ports {
		got = append(got, fmt.Sprint(p.Protocol, " ", p.Address, ":", p.Port, " ", p.Pod))
	}
	if diff := cmp.Diff([]string{"TCP 0.0.0.0:8080 10.42.1.2:80", "UDP 192.0.2.1:53 10.42.1.2:5353"}, got); diff != "" {
		t.Error(diff)
	}
	node := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("10.42.1.1")}
	want := []string{"TCP 192.0.2.1:8080 [10.42.1.2:80]", "TCP 10.42.1.1:8080 [10.42.1.2:80]", "UDP 192.0.2.1:53 [10.42.1.2:5353]"}
	if diff := cmp.Diff(want, show(AtNode(ports, node))); diff != "" {
		t.Error(diff)
	}
}
