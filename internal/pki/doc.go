// Package pki holds a cluster's keys: the certificate authority that signs
// every server and client certificate, and the key that signs service account
// tokens.
//
//	<dir>/ca.crt, ca.key     the authority; whoever holds the key is the cluster
//	<dir>/sa.key             signs service account tokens (ES256)
//	<dir>/NAME.crt, NAME.key what Ensure issued
//
// # Guarantees
//
//   - A private key is readable by its owner only (mode 0600), in a folder
//     that only the owner may enter (0700).
//   - What exists is loaded, never replaced: a restart changes no identity.
//     A certificate that has lived two thirds of its time is issued anew by
//     Ensure.
//   - Files appear whole or not at all: each is written beside its place,
//     synced and renamed.
//
// A client's user name is its certificate's CommonName and its groups are the
// Organizations, as Kubernetes has it. Nothing here revokes a certificate:
// they are made to live for a year at most.
package pki
