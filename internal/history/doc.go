// Package history reads the past: it makes recorded decisions again (Replay),
// follows causes back to the outside (Why) and says what an event changed
// (Diff). All of it is pure: records go in, answers come out.
//
// Replay re-runs decisions, not containers: what users, nodes and kernels did
// is recorded as events and is taken as it was.
package history
