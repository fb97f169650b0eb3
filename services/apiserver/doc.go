// Package apiserver is the Kubernetes API over the log: every read is a copy
// of what a View holds, every write is one event.
//
//	kubectl ──TLS──► who is it ► may they ► what is asked ─┬─ get, list, watch ◄── View (kernel.Mirror)
//	                 authn       RBAC       requestInfo    └─ Finish ► Append ───► log
//
// # Guarantees
//
//   - A resourceVersion is a position in the log. A list or get without one
//     sees everything that was acknowledged to anyone before it was asked for
//     (a read index: one look at the log's end serves all who waited for it).
//   - A write that was answered is durable; a write answered with 409 has
//     changed nothing. A patch, an update without resourceVersion and a delete
//     are tried again when somebody else was faster.
//   - A watch shows every event after its start once and in order, or ends
//     with 410 Gone.
//   - The past is as it was: a list or get at an exact version and a watch from
//     any version in the window of history show the same as at that time, also
//     after a restart; before the window they get 410. Old history is read for
//     at most four positions at a time (then 429).
//   - A cluster IP is claimed by creating an object named after it before the
//     Service that has it is written, so no address is ever given twice,
//     however many apiservers there are.
//   - Nothing is served to nobody: without a certificate or token only health
//     and version answer.
//
// Reads copy bytes: an object's body stands in the log as the client will see
// it but for its resourceVersion, which is put in on the way out. Decoding
// happens for selectors, tables, protobuf and objects that are sealed.
//
// The generic code (routes, verbs, encodings, discovery) names no kind: it
// derives from kinds.All. What belongs to one resource alone stands apart:
// serviceip.go (cluster IPs), subresource.go (binding, eviction), stream.go
// (logs, exec, port-forward), tokens.go (service accounts), rbac.go and
// escalation.go (rights), projection.go (Events made of the log).
//
// What it does not do: webhooks, quota, API priority and fairness, audit
// files (the log is the audit), aggregation of other API servers.
package apiserver
