// Package nodeagent makes one node match the log: its pods' containers,
// volumes and networks, and reports what it sees.
//
//	door ─► Mirror ─► GoalOf ─┐
//	                          ├─► Decide ─► one Action ─► act ─► containerd, kernel, disk
//	            World ────────┘                            │
//	              ▲                                        ▼
//	              └──── exits, probes, hooks ◄─────── observations ─► StatusOf ─► door
//
// GoalOf, Decide, StatusOf, AdmitPod and NodeOf are pure. What a pod should be
// is its Goal; what there is of it is its World; Decide names the next single
// thing to do, kernel.Stepper does it and asks again. Pods do not wait for one
// another. What takes long (a pull, a hook, a probe) runs beside the steps and
// changes the World when it is done.
//
// # Guarantees
//
//   - Crash and restart are the same: what must be known again is in the
//     log, in containerd's labels, or in files. An agent that starts takes over the
//     containers that run, keeps their restart counts, and ends those whose pod is
//     gone. Running containers and their logs do not notice.
//   - Losing the control plane, the door or containerd stops nothing that runs.
//   - A pod's status is written when it says something new, as one event whose cause
//     is the event acted on. A pod that starts without trouble costs one.
//   - A pod leaves the log after all that it used is free again: containers, network,
//     mounts, folders.
//   - SIGTERM comes when no ready endpoint names the pod and the local datapath knows
//     it, at the latest after two seconds.
//   - The node judges each pod once more (AdmitPod), whoever bound it.
//
// # Events
//
// What changes an object is told by the log itself: its envelopes say "pod.started". Event
// objects are written for the rest: Pulling, Pulled (when a registry was asked), Failed,
// BackOff, Unhealthy, Killing, FailedMount and their like: one per pod, container and
// reason, its count raised at most every ten seconds.
//
// # What it does not do
//
// No eviction, no image garbage collection, no resize in place, no devices. A pod that runs
// over its ephemeral storage is not stopped.
package nodeagent
