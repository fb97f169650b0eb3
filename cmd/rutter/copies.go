package main

import (
	"fmt"
	"io"

	"github.com/rutterhq/rutter/events/jetstream"
)

// copyMetrics writes what one of several servers says of its own copies of the
// log, for Prometheus: who is about to stop a server wants to know whether that
// takes the leader away, and how far the others' copies have come.
func copyMetrics(w io.Writer, all []jetstream.OwnCopy) {
	fmt.Fprintln(w, "# HELP rutter_log_leader Whether this server leads the others for a stream, or for _meta_, the list of streams; who was cut off believes it a little longer.")
	fmt.Fprintln(w, "# TYPE rutter_log_leader gauge")
	for _, c := range all {
		fmt.Fprintf(w, "rutter_log_leader{stream=%q} %d\n", c.Stream, map[bool]int{true: 1}[c.Leads])
	}
	fmt.Fprintln(w, "# HELP rutter_log_copy_seq The last message of a stream that this server has itself.")
	fmt.Fprintln(w, "# TYPE rutter_log_copy_seq gauge")
	for _, c := range all {
		if c.Stream != jetstream.MetaName {
			fmt.Fprintf(w, "rutter_log_copy_seq{stream=%q} %d\n", c.Stream, c.Last)
		}
	}
}
