// Package jetstream is the log on NATS JetStream: stream EV of a server that
// runs in this process (StartServer) or elsewhere (Connect).
//
//	Append ──► ev.core.pods.default.web   expecting Seq 41 ──► ack: 97 ──┐
//	       ◄── durable up to 97 ◄── one sync for all who wait ◄──────────┤
//	Follow ◄── (each Seq is the one after the last) ◄── consumer: 97 ────┘
//
// # Guarantees
//
// Those of package events, by these means:
//
//   - Compare-and-set: every message carries the Seq that is expected to be the
//     last of its own, literal subject. The server checks and stores under one
//     lock.
//   - Durable: a server without clients outside this process does not sync.
//     The committer does, for all who wait at once: every block from the last
//     synced one on, and the folder of new ones. Only then Append returns,
//     Follow yields and Last tells. What a power cut leaves of the rest is
//     removed at the next start. A server that listens syncs each message before
//     it acknowledges it or shows it to a consumer. One elsewhere must do the
//     same or have three replicas; that cannot be asked of it, so it is on
//     who runs it.
//   - Answers that were lost: Append looks for the event by its ID. Only if
//     nobody wrote the object since it sends the same message again, which the
//     server can store at most once, for both copies expect the same Seq.
//   - No gaps: the stream allows no deletes of single messages, has no age
//     limit and refuses writes when it is full. Follow checks every Seq.
//
// Nodes and tenants are never clients of this server: its permissions see
// neither headers nor reply subjects.
//
// # History
//
//	          kept state          horizon's event H
//	EV                │ H ────────────●────────────── end    purged before H
//	HIST  ────────────┼───────────────●────────────── end    mirror: by age and bytes
//	SNAP              ▲ data, read back, then its manifest
//
// HIST is a mirror of EV with the same Seqs; Read and SeqAt reach into it. SNAP
// holds states: who follows from the beginning of a purged log gets the newest
// one that verifies, a bookmark, and what came after. Forget purges EV once the
// horizon's event is there, HIST holds and has synced what goes, and every
// process that writes knows of the horizon: in SEEN each says so.
//
// Of an object whose last event was purged the server has nothing to compare
// with, so the write expects that there is nothing, and only who has read all
// that was or may be purged may do that: others get ErrGone and read anew. That
// is sound because nothing is purged that a writer does not know of. A process
// that was stopped for longer than who purges waits for it (two minutes) says
// first what it knows, and asks what was purged.
//
// # What it does not do
//
// It has no transactions over several objects. It decides neither when a state
// is kept nor when something is purged: that is internal/history's Keeper.
package jetstream
