// Package network connects the pods of one node.
//
//	pod A                         node                           pod B
//	eth0 10.42.1.5/32 ══ veth ══ route 10.42.1.5/32 ...6/32 ══ veth ══ 10.42.1.6/32
//	default via 169.254.1.1      lo 10.42.1.1, 10.43.0.10
//	                             masquerade what leaves the cluster
//
// Every pod has a veth pair and a route of its own; there is no bridge, and no
// ARP: each end knows the other's MAC. All pods name the same gateway, which
// no interface has. The node itself answers at the first address of its range,
// and at the addresses of the services that it serves for its pods, such as DNS.
//
// # Guarantees
//
//   - Attach and Detach may be repeated, and go on where a crash cut them off.
//     A pod that was attached keeps its address for as long as it lives, through
//     restarts of the agent: a file per address says whose it is.
//   - An address that was given back is the last to be given out again.
//   - What pods and the node say to one another is not tracked and not
//     rewritten. What leaves the cluster's pod range is masqueraded.
//   - After Teardown nothing is left: no namespace, interface, route, rule or file.
//   - All is done in the network namespace of the thread that called New. Several
//     nodes can share a machine if each has a namespace and a RunDir.
//
// # Host ports
//
// A host port is a destination NAT in the kernel, and not a program in between:
// it goes on without the agent and shows the pod who calls. It is for
// connections from outside the node. Those from the node and its pods, which
// are not tracked, are translated where all services are, at connect (package
// bpf): the agent adds the node's address and host port as a service.
//
// # What it does not do
//
// Routes between nodes need the nodes to be neighbours; there is no tunnel.
// It sets up IPv4. Where iptables' FORWARD chain drops by policy, as Docker
// sets it, pods get a rule to pass; other firewalls that drop what is forwarded must
// be told of the pods' range.
package network
