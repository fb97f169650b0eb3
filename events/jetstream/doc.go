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
// # What it does not do
//
// It has no transactions over several objects, compacts nothing and keeps no
// history of its own beyond the stream.
package jetstream
