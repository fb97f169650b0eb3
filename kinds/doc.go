// Package kinds says what Kubernetes' objects are, and what makes a write of
// one a Kubernetes write.
//
//	             All ──► discovery, routes, tables, RBAC, garbage collection
//	              │
//	Kind[T] ── a row per resource: defaults, admission, validation, columns, names of changes
//	              │
//	body ─ DecodeStrict ─► object ─ Patch…, Apply ─► Write ─ Schema.Make (Finish, Encode) ─► Record
//	                                                           │ View
//	                                                           └► Refusal: Kubernetes' Status
//
// Guarantees:
//   - Finish is a pure function of the View, the Write and now: it can be made
//     again, and a decider's writes are finished like a user's.
//   - What Finish returns is valid, defaulted and different from what was there.
//     Identity (uid, creationTimestamp, namespace, name) never changes.
//   - Objects that come out of a View are shared: nothing here modifies one.
//   - A body in the log holds no secret in plaintext (seal.go), and no
//     resourceVersion: that is the Record's Seq.
//   - A field that is valid in Kubernetes but not acted on here is refused by
//     name, never accepted and ignored.
//
// Adding a kind is one file with its row and one line in All. The package does
// no I/O and knows no other service; OpenAPI is in the folder openapi.
package kinds
