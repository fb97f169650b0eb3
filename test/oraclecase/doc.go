// Package oraclecase holds what the oracle (test/oracle) and the tests of
// package kinds share: a Case is one write of one object, and Run says what
// the kind's row makes of it. The oracle asks Kubernetes itself the same and
// writes its answers into a file; the test of this package, which needs no
// Kubernetes, compares with the file.
//
// What is compared: the object after defaulting, the object after preparation
// (what Kubernetes' strategies call PrepareForCreate and PrepareForUpdate), and
// the set of errors of validation, each as its type and its field. Messages
// and the order of errors are not compared.
package oraclecase
