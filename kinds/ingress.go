package kinds

import (
	"fmt"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/rutterhq/rutter/kernel"
)

// Ingresses lead HTTP requests from outside to services (k8s.io/api/networking/v1.Ingress).
var Ingresses = &Kind[*networkingv1.Ingress]{
	Info: Info{
		Resource: kernel.Resource{Group: "networking.k8s.io", Plural: "ingresses"}, Version: "v1", Kind: "Ingress",
		Singular: "ingress", ShortNames: []string{"ing"}, Status: true,
	},
	New:            func() *networkingv1.Ingress { return &networkingv1.Ingress{} },
	NewList:        func() runtime.Object { return &networkingv1.IngressList{} },
	Admit:          admitIngress,
	Validate:       validateIngress,
	ValidateStatus: validateIngressStatus,
	Columns: []Column[*networkingv1.Ingress]{
		nameColumn[*networkingv1.Ingress](),
		column("Class", "The IngressClass that serves it.", func(i *networkingv1.Ingress) any {
			if i.Spec.IngressClassName == nil {
				return none
			}
			return *i.Spec.IngressClassName
		}),
		column("Hosts", "The hosts that its rules are for.", func(i *networkingv1.Ingress) any { return ingressHosts(i.Spec.Rules) }),
		column("Address", "Where it can be reached.", func(i *networkingv1.Ingress) any {
			var pairs []string
			for _, in := range i.Status.LoadBalancer.Ingress {
				pairs = append(pairs, in.IP, in.Hostname)
			}
			return strings.Join(addresses(pairs), ",")
		}),
		column("Ports", "The ports that it is served on.", func(i *networkingv1.Ingress) any {
			if len(i.Spec.TLS) > 0 {
				return "80, 443"
			}
			return "80"
		}),
		ageColumn[*networkingv1.Ingress](),
	},
}

// ingressHosts is the Hosts cell. Like kubectl's it counts rules, not hosts,
// once there are more than fit.
func ingressHosts(rules []networkingv1.IngressRule) string {
	var hosts []string
	more := false
	for _, r := range rules {
		if len(hosts) == listed {
			more = true
		} else if r.Host != "" {
			hosts = append(hosts, r.Host)
		}
	}
	switch {
	case len(hosts) == 0:
		return "*"
	case more:
		return fmt.Sprintf("%s + %d more...", strings.Join(hosts, ","), len(rules)-listed)
	}
	return strings.Join(hosts, ",")
}
