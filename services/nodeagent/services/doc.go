// Package services says which connections a node's datapath balances: a pure
// function from Services and EndpointSlices to the configuration of package
// bpf.
//
//	Services, EndpointSlices ──► Goal ──► []bpf.Service ──► Datapath.Set
//
// # Guarantees
//
//   - A service port leads to the endpoints that are ready or, if none is, to
//     those that still serve while they go: as kube-proxy does it (KEP-1669).
//   - The same objects give the same configuration, in one order, whatever the
//     order of the objects.
//
// # What it does not do
//
// Headless services and external names are DNS's (package dns). Node ports,
// external addresses and traffic policies are refused before they get here.
package services
