// Package test holds the tests that run whole clusters, as their users do:
// real containers, network namespaces, BPF and kubectl.
//
//	go test ./test            what needs nothing but Go: the isolation of nodes
//	go test -tags e2e ./test  everything; as root, after make build images
//
// The tests with containers run in namespaces of their own (network, mounts,
// processes): they take no port of the machine, and whatever they leave dies
// with them. What they leave is still held against them: every cluster ends
// with rutter down, and then nothing of it may be found.
//
// They wait for what happens by watching, not by sleeping, and print the
// cluster's own log when they fail.
package test
