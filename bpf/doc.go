// Package bpf is the service datapath: it connects who asks for a service
// address to one of the service's backends.
//
//	connect(10.43.7.7:80) ──► program on the cgroup ──► services, slots ──► connect(10.42.0.11:8080)
//	getpeername()         ◄── 10.43.7.7:80 ◄── what this socket remembers ◄──┘
//
// The choice is made once, in the system call, not for each packet: what a
// pod sends is addressed to a pod already. Nothing is tracked, nothing is
// rewritten, and the cost does not depend on how many services there are.
//
// # Guarantees
//
//   - A service moves from its old backends to its new ones by one write. A
//     connect sees the ones or the others, never none in between.
//   - What was connected stays connected: an update or a restart of the agent
//     touches no socket. Programs and maps are held by pins in a BPF file
//     system; the next process finds out what they hold and goes on from there.
//   - All datagrams that one unconnected socket sends to a service go to one
//     backend for as long as the service has it, and then move to another. A socket
//     remembers its last four destinations.
//   - Answers seem to come from the service, and getpeername names the service.
//   - A service without backends refuses connections at once, and so does an
//     address of the service range that no service has.
//   - Set writes what differs, no more.
//
// # What it does not do
//
// It balances nothing that does not come from a socket in its cgroup: no
// traffic from outside (node ports), no program that was started elsewhere and
// moved in with open sockets, no raw sockets, no ping. IPv6 sockets that speak IPv4 are
// served, IPv6 services are not. A connected UDP socket stays with its backend
// even when that is gone.
//
// # Testing
//
// The kernel cannot run programs of this type on test input, so they are
// tested as what they are: go test -tags e2e, as root, makes cgroups and
// network namespaces of its own and removes them. What is to be written for a
// change is a pure function (plan.go) with tests that need nothing.
package bpf
