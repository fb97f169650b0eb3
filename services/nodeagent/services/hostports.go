package services

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/bpf"
	"github.com/rutterhq/rutter/services/nodeagent/network"
)

// HostPorts returns the host ports that lead to pods, in one order: those of
// the node's pods that have an address and have not ended. A pod in the
// node's own network has its ports there already. If two pods claim one port,
// which the node's admission prevents, the older keeps it.
func HostPorts(node string, pods []*corev1.Pod) []network.HostPort {
	pods = slices.Clone(pods)
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.UID, b.UID))
	})
	type place struct {
		protocol string
		address  netip.Addr
		port     uint16
	}
	taken := map[place]bool{}
	var out []network.HostPort
	for _, p := range pods {
		ip, err := netip.ParseAddr(p.Status.PodIP)
		if err != nil || p.Spec.NodeName != node || p.Spec.HostNetwork || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
			for _, port := range c.Ports {
				at, err := netip.ParseAddr(cmp.Or(port.HostIP, "0.0.0.0"))
				k := place{string(cmp.Or(port.Protocol, corev1.ProtocolTCP)), at, uint16(port.HostPort)}
				if err != nil || !at.Is4() || port.HostPort == 0 || protocol(port.Protocol) == 0 || taken[k] {
					continue
				}
				taken[k] = true
				out = append(out, network.HostPort{Protocol: k.protocol, Address: at, Port: k.port, Pod: netip.AddrPortFrom(ip, uint16(port.ContainerPort))})
			}
		}
	}
	slices.SortFunc(out, func(a, b network.HostPort) int {
		return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	return out
}

// AtNode returns host ports as services of the node's addresses, for Goal:
// that is how the node's own pods and programs reach them.
func AtNode(ports []network.HostPort, node []netip.Addr) []bpf.Service {
	var out []bpf.Service
	for _, p := range ports {
		at := node
		if !p.Address.IsUnspecified() {
			at = []netip.Addr{p.Address}
		}
		for _, a := range at {
			one := bpf.Service{Address: a, Port: p.Port, Protocol: protocol(corev1.Protocol(p.Protocol)), Backends: []netip.AddrPort{p.Pod}}
			if !slices.ContainsFunc(out, func(o bpf.Service) bool { return o.String() == one.String() }) {
				out = append(out, one)
			}
		}
	}
	return out
}
