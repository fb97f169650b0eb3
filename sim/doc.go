// Package sim runs a whole control plane on one thread, from one seed: the real
// deciders in real kernel.Cores over the log in memory, with modelled nodes
// and users, and with faults.
//
//	users ──► log ◄── two controllers, two schedulers: each with a View that lags,
//	           ▲      writes on their way, answers on their way; killed at any moment
//	           └───── nodes: a table of steps in the life of a pod
//
// Every event goes past the checkers, which know nothing of how the deciders
// work: each is one file, check_*.go. After the faults stop, what the users
// asked for must be reached, and nothing more may happen.
//
// The same seed gives the same log, event by event. A failure names its seed;
// run it again with
//
//	go test ./sim -run TestSeeds -seed N -v
//
// What it does not model: the network between pods, the door's rights, the
// death of nodes, and time spent computing.
package sim
