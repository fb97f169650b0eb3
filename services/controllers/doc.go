// Package controllers holds the deciders that keep the cluster as its objects
// ask for it to be: replicas, rollouts, endpoints, namespaces, ownership, nodes.
//
//	 deployments ──► deployment ──► replicasets ──► replicaset ──► pods
//	    services ──► endpointslice, endpoints ◄─────────────────────┤
//	       nodes ──► nodelifecycle, noderanges ──► nodes, pods ◄────┤
//	  namespaces ──► namespace, serviceaccount                      │
//	anything owned ─► garbage                      podgc, ipclaims ◄┘
//
// # Guarantees
//
//   - Every decider is a pure function of (View, key, now): see kernel.Decider.
//     A decision can be made again from the log at any later time.
//   - Each is level-triggered: it looks at what there is, not at what happened.
//   - The names of made pods derive from their owner's uid and a number, the
//     smallest whose name the log has not seen: two leaders that race propose
//     the same key, and one of them wins.
//   - A decider that sums up many objects into one writes the first change at
//     once and then at most one per object and interval.
//
// # What it does not do
//
// It starts no goroutine and talks to nobody. It retries nothing: the kernel
// decides again when something changes, when a decision asked to be revisited,
// and after a refusal or a conflict.
package controllers
