// Package faults holds the tests that write while everything that can go wrong
// between a writer and the disk does, and then compare what the writers were
// told with what the log holds.
//
//	writers ──► relay ──► NATS in this process or another ──► disk
//	   │          loses, doubles, delays, reorders, cuts        │ slow, full, gone
//	   └── history of every call and answer ──► checker ◄── the log, read whole
//
// The checker's laws, for every call to Append:
//
//   - answered with a Seq: the log has that very event there;
//   - answered with ErrConflict, ErrFull or ErrTooLarge: the log has it nowhere;
//   - any other error: it is there once or not at all;
//   - every event expects the one of its object before it, and Seqs have no gap;
//   - each object, read and written by many, is one register: there is an order
//     of all calls that explains every answer (porcupine searches for it);
//   - what a follower was shown is what the log holds, in that order.
//
// The tests that need nothing but Go run with go test; those with disks of
// their own, mounted in a mount namespace of their own, need root and -tags
// e2e. -seeds makes them long; -first repeats one.
package faults
