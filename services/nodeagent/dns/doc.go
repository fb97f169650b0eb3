// Package dns answers the names of a cluster, on every node for the node's own
// pods.
//
//	Services, EndpointSlices ──► Records ──► Zone ──► Server.Set
//	                                                    │
//	pod ── 10.43.0.10:53, bound on the node's lo ──► Server ── other names ──► the host's resolvers
//
// What a name stands for is a pure function of a Zone (Lookup), by the
// Kubernetes DNS specification 1.1.0: services, headless services with a name
// per endpoint, external names, SRV, PTR, and the addresses of pods.
//
// # Guarantees
//
//   - A name that does not exist and a name that exists without such a record
//     are told apart (NXDOMAIN, NODATA), as a resolver that walks a search list needs.
//   - A new Zone is in force for every query after Set returns; a query sees
//     one Zone.
//   - Names of the cluster are never asked for outside, nor are the addresses
//     of its ranges. Answers about the cluster do not depend on the host's resolvers.
//   - An answer fits the asker's buffer or says that it was cut (TC); TCP has it all.
//
// # What it does not do
//
// No zone transfers, no DNSSEC of its own (it passes on what a resolver says),
// no IPv6 addresses in the cluster.
package dns
