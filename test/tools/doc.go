// Package tools makes the image that tests and benchmarks run in pods: /loadgen
// (test/loadgen), which it runs, and busybox with its applets in /bin.
//
// It needs Go and a static busybox, and no daemon.
package tools
