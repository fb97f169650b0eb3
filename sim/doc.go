// Package sim runs a whole control plane on one thread, from one seed: the real
// deciders in real kernel.Cores, the real writing half of the apiserver and the
// door, what the real node agent decides, over the log in memory, with modelled
// machines and users, and with faults.
//
//	users ──► apiservers ──► log ◄── controllers, schedulers, ingresses
//	             │  ▲         ▲          two of each, with Views that lag; writes and answers
//	        door ▼  │       keeper       on their way; killed at any moment
//	             agents      (states, horizons, purges)
//	               │
//	            machines: life.go, a table of what takes time and what fails
//
// A request in flight at an apiserver is a coroutine: it stops wherever the real
// code waits, for the log's answer, for a View, for its turn, and goes on when
// the world says so, or never. So there is one thread, and every order of things
// can be.
//
// A world is a Scenario: a list of steps, each a verb (scenario.go) and a number
// from which it draws what it has to choose. A step means the same whatever is
// beside it, so that what fails is shrunk by leaving steps out. How long
// something takes follows from the seed and from what it is.
//
// Every event goes past the checkers, which know nothing of how the deciders
// work: each is one file, check_*.go, listed in docs/invariants.md. After the
// faults stop, what the users asked for must be reached within a bound, and
// nothing more may happen. The same seed gives the same log, event by event.
//
//	go test ./sim -run TestSeeds -seed N -v     one seed, with its events
//	go test ./sim -run TestSeeds -keep DIR      what failing seeds shrink to goes to DIR, one of each checker
//	make sim SEEDS=n                            simulated hours per second, and what was exercised
//
// What was kept is played for ever once it lies in testdata/seeds, with lines
// "# needs: " that say what has to happen in it, or it would test nothing.
//
// What it does not model: HTTP, encodings and rights of users; the network
// between pods; containerd; a disk; how an apiserver notices that it is cut off;
// and time spent computing.
package sim
