// Package logs keeps what containers print.
//
//	container ─► shim ─► FIFO ─► keeper (a process of its own) ─► 0.log, 0.log.1, …
//	                                                               ▲
//	                         node agent ── kubectl logs, attach ───┘ reads
//
// The keeper is one small process per node, started by the agent and outliving
// it: a FIFO that nobody reads fills up after 64 KiB and stops the program that
// writes to it, and an agent that is dead or restarting must never do that. A
// log binary per container (containerd's binary:// scheme) would do as well and
// costs a process of about 10 MiB for each; a file:// log has no time stamps.
//
// Guarantees:
//   - What a container wrote is in its log file in the order of each stream,
//     in the format of the container runtime interface: time, stream, P or F,
//     text. The time is when the keeper read it.
//   - A keeper that was killed loses at most the unfinished line it held: the
//     shim keeps the FIFOs open, and the next keeper reads on.
//   - A log takes at most FileMax × Files bytes, plus one line.
//
// It does not ship logs anywhere and knows no pods: it is told ids and paths.
package logs
