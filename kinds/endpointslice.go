package kinds

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/rutterhq/rutter/kernel"
)

// EndpointSlices hold the addresses behind a service, up to a thousand each
// (k8s.io/api/discovery/v1.EndpointSlice).
var EndpointSlices = &Kind[*discoveryv1.EndpointSlice]{
	Info: Info{
		Resource: kernel.Resource{Group: "discovery.k8s.io", Plural: "endpointslices"}, Version: "v1", Kind: "EndpointSlice",
		Singular: "endpointslice",
	},
	New:      func() *discoveryv1.EndpointSlice { return &discoveryv1.EndpointSlice{} },
	NewList:  func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
	Default:  defaultEndpointSlice,
	Prepare:  prepareEndpointSlice,
	Validate: validateEndpointSlice,
	Columns: []Column[*discoveryv1.EndpointSlice]{
		nameColumn[*discoveryv1.EndpointSlice](),
		column("AddressType", doc(discoveryv1.EndpointSlice{}, "addressType"), func(s *discoveryv1.EndpointSlice) any { return string(s.AddressType) }),
		column("Ports", doc(discoveryv1.EndpointSlice{}, "ports"), func(s *discoveryv1.EndpointSlice) any {
			var all []string
			for _, p := range s.Ports {
				switch {
				case p.Port != nil:
					all = append(all, strconv.Itoa(int(*p.Port)))
				case p.Name != nil:
					all = append(all, *p.Name)
				default:
					all = append(all, "*")
				}
			}
			return abridged(all, "<unset>")
		}),
		column("Endpoints", doc(discoveryv1.EndpointSlice{}, "endpoints"), func(s *discoveryv1.EndpointSlice) any {
			var all []string
			for _, e := range s.Endpoints {
				all = append(all, e.Addresses...)
			}
			return abridged(all, "<unset>")
		}),
		ageColumn[*discoveryv1.EndpointSlice](),
	},
}

// defaultEndpointSlice makes ports nameless and TCP.
func defaultEndpointSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Name == nil {
			p.Name = pointer("")
		}
		if p.Protocol == nil {
			p.Protocol = pointer(corev1.ProtocolTCP)
		}
	}
}
