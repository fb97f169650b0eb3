// Package scheduler decides on which node each pod runs.
//
//	pods without a node ──► by priority, then age
//	                          │ filters: which nodes may have it, and why not the others
//	                          │ scores:  which of those had best have it
//	                          ▼
//	            pod.bound (the node, and a note with filters and scores)
//	            or the condition PodScheduled=False, with why, per node
//
// # Guarantees
//
//   - A pod is bound once, to a node that every filter lets it on, and no node
//     gets more than it has, as far as the View knows. Two schedulers may fill
//     one node between them: the node agent's own admission is what is safe.
//   - One decision sees its own bindings: it has one key, the queue, and adds
//     every pod that it places to its sums before it looks at the next.
//   - All arithmetic is in integers, and every choice has a total order: the
//     same View gives the same bindings.
//   - A pod that fits nowhere says per node why, in its condition, and is
//     looked at again whenever a node or a placed pod changes.
//
// # What it does not do
//
// It does not preempt: priority orders the queue and nothing else. It binds
// only pods whose spec.schedulerName is "default-scheduler".
package scheduler
