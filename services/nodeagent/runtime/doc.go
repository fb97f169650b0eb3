// Package runtime runs containers by containerd's Go client.
//
//	Client ── images: Present, Pull, Import
//	       ── containers: Start → (exit event) → Reap → Remove, List, Signal
//	       ── inside: Exec
//
// Guarantees:
//   - A container's id says whose it is and which run of it; its labels say so
//     in words. Start for an id that exists removes what is there first.
//   - All that must outlive this process is in containerd: labels hold how a
//     container ended, so its task need not be kept for that.
//   - Nothing here decides: no restarts, no back-off, no order.
//   - After Start returned, the process is in the cgroup that was asked for, in
//     the v2 hierarchy too, or Start failed.
//
// It knows no pods: namespaces, mounts and limits come resolved.
package runtime
