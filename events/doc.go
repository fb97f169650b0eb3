// Package events is the log: the one order of everything that ever happened
// in a cluster, and the only thing that Rutter's services share.
//
//	Append(record, expecting the object's last Seq) ──► log ──► Follow(after)
//
// # Guarantees
//
//   - One order. Every event has one Seq, every follower sees the same events
//     in the order of their Seqs, each once, without gaps.
//   - Compare-and-set per object. Of all writers that expect the same last Seq
//     of a Key, one wins; the others get ErrConflict and have written nothing.
//   - Durable before seen. Append returns, and Follow yields, only what
//     survives a loss of power.
//   - Nothing is repeated blindly. A write whose answer was lost is recognised
//     by its envelope's ID.
//
// An object's delete is an event as well (a tombstone); re-creating the name
// expects the tombstone's Seq.
//
// The package knows bytes, not Kubernetes types. There are two
// implementations, events/memory and events/jetstream; events/logtest is the
// suite that both must pass.
package events
