// Command bench measures a cluster of one node from outside: what a request
// through TLS costs, how soon a watcher sees a write, how much memory the
// process holds afterwards, and how long a pod takes to run. It starts
// `rutter up` itself, with folders and ports of its own, and ends it again.
//
//	bench ──16 connections, HTTP/2 + TLS──► rutter up ──► its log, fsync
//	  └── /proc/PID/stat, /proc/PID/status of rutter up
//
// CPU per operation is the user and system time that the whole process spent
// from the first request until it was quiet again, divided by the operations.
// On a machine that does other things, too, only that figure can be trusted:
// rates and latencies are then those of a busy machine. The load average is
// printed beside the figures for that reason.
//
// It asserts nothing. It is run by deploy/bench.sh in a network namespace of
// its own, so that it neither meets nor disturbs a cluster of this machine.
package main
