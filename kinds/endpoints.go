package kinds

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/rutterhq/rutter/kernel"
)

// Endpoints are a service's addresses as clients from before EndpointSlices
// read them (k8s.io/api/core/v1.Endpoints).
var Endpoints = &Kind[*corev1.Endpoints]{
	Info: Info{
		Resource: kernel.Resource{Plural: "endpoints"}, Version: "v1", Kind: "Endpoints",
		Singular: "endpoints", ShortNames: []string{"ep"},
	},
	New:      func() *corev1.Endpoints { return &corev1.Endpoints{} },
	NewList:  func() runtime.Object { return &corev1.EndpointsList{} },
	Default:  defaultEndpoints,
	Validate: validateEndpoints,
	Columns: []Column[*corev1.Endpoints]{
		nameColumn[*corev1.Endpoints](),
		column("Endpoints", doc(corev1.Endpoints{}, "subsets"), func(e *corev1.Endpoints) any { return endpointsText(e) }),
		ageColumn[*corev1.Endpoints](),
	},
}

// defaultEndpoints makes ports TCP.
func defaultEndpoints(e *corev1.Endpoints) {
	for i := range e.Subsets {
		for j := range e.Subsets[i].Ports {
			if p := &e.Subsets[i].Ports[j]; p.Protocol == "" {
				p.Protocol = corev1.ProtocolTCP
			}
		}
	}
}

// endpointsText is the Endpoints cell: the first addresses with each port.
func endpointsText(e *corev1.Endpoints) string {
	if len(e.Subsets) == 0 {
		return none
	}
	var all []string
	for i := range e.Subsets {
		s := &e.Subsets[i]
		for _, a := range s.Addresses {
			if len(s.Ports) == 0 {
				all = append(all, a.IP)
			}
		}
		for _, p := range s.Ports {
			for _, a := range s.Addresses {
				all = append(all, joinHostPort(a.IP, p.Port))
			}
		}
	}
	return abridged(all, "")
}

// joinHostPort joins an address and a port, an IPv6 address in brackets.
func joinHostPort(ip string, port int32) string {
	if strings.Contains(ip, ":") {
		return fmt.Sprintf("[%s]:%d", ip, port)
	}
	return fmt.Sprintf("%s:%d", ip, port)
}

// abridged joins the first few of a list and counts the rest; empty stands for
// what would be no text.
func abridged(all []string, empty string) string {
	if len(all) > listed {
		return fmt.Sprintf("%s + %d more...", strings.Join(all[:listed], ","), len(all)-listed)
	}
	if text := strings.Join(all, ","); text != "" {
		return text
	}
	return empty
}
