// Package kernel is the loop that all of Rutter's services share.
//
//	        ┌────────────── Mirror: one View for a whole process ──────────────┐
//	log ──► │ fold ──► View ──► Core: wake, decide, finish ──► Records ──► log │
//	        │              └──► Setter, Stepper ──► the world                  │
//	        └──────────────────────────────────────────────────────────────────┘
//
// A View is the fold of a prefix of the log: an immutable value. A Decider is
// a pure function from a View to Changes. A Core decides whenever an event may
// have changed what a decider wants, and turns Changes into Records that the
// log takes only if nobody was faster. Effectors make the world match the View.
//
// # Laws
//
//   - Every View of one log at one Seq is equal.
//   - All decisions of a round are made on one View. After an append at Seq S
//     nothing is decided until the View has S. Nothing is decided before the
//     log has been read to its end as of the start: never act on the past.
//   - A decision changes an object at most once, and expects it to be where the
//     View has it. A guessed Seq never becomes an Expect.
//   - A decider is deterministic. Decide on View(Seen), the recorded key and
//     the recorded time gives the recorded changes again, always.
//   - Every event that a decider made names its causes and its decision. A
//     decision that changes nothing leaves no trace.
//
// # What it does not do
//
// It knows no kind, no HTTP and no NATS, and elects no leader: two Cores with
// the same deciders are slower than one, and just as correct.
//
// Broken laws panic. The state is in the log; a restart is the repair.
package kernel
