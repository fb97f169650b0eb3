// Package oracle asks Kubernetes itself: for every kind a corpus and fuzzed
// objects go through its defaulting and validation and through ours, and the
// two are compared (see package oraclecase for what is compared). It is a
// module of its own, for only it may import k8s.io/kubernetes.
//
//	go test -c -o /tmp/oracle . && /tmp/oracle            # compare
//	/tmp/oracle -kind=services -show=20                   # and say what differs
//	/tmp/oracle -update                                   # write the figures
//
// -update writes docs/oracle.md and kinds/testdata/oracle.json.gz, a sample of
// the cases with Kubernetes' answers, which the test of package oraclecase
// compares with at every change. A kind is one line in targets and a file
// testdata/<plural>.yaml of objects, right and wrong ones, separated by "---".
//
// The fuzzer is seeded: the same corpus gives the same objects.
package oracle
