// Package cli is what the debugging commands share: a client for the
// apiserver's /rutter/v1/ paths, found by kubeconfig as kubectl finds it, and
// the ways to show events to people.
package cli
