// Package r3 runs three servers as processes of their own, each in its own
// network namespace, and breaks them under load.
//
//	   br-peers ── where servers speak to one another: what is cut
//	  ╱    │    ╲
//	s1    s2    s3
//	  ╲    │    ╱
//	   br-users ── where the writers, readers and watchers come from
//
// Whatever is done to the servers, a checker compares what clients were told
// with what the log holds in the end: every acknowledged write stands where it
// was said to stand, none that was refused is there, nobody read what was older
// than what had been acknowledged to anybody, and all servers and all watchers
// saw one order. In the end the servers are stopped, and the log is read from the
// disk of each: no two copies differ in any event. A node walks from server to
// server meanwhile: it is called silent when it ends, and never while it is
// connected to one of them.
//
// It needs root and bin/rutter. -hour says for how long faults follow one
// another; in make test it is a round of each.
package r3
