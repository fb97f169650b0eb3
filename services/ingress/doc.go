// Package ingress is the service that lets the outside in: it terminates HTTP
// and TLS and proxies straight to pods.
//
//	View ──► Routes (pure) ──► Table ──► Proxy.Set ──► listeners
//	         ingresses, services,        one pointer,
//	         endpoint slices, secrets    swapped
//
// # Guarantees
//
//   - A change of routes, certificates or endpoints drops no connection: the
//     table is one pointer that the next request reads; upgraded connections
//     and requests in flight go on.
//   - A pod that is going gets no new request from the moment its endpoint is
//     not ready; idle connections to it are closed at once.
//   - A request is tried on another endpoint only if nothing of it was sent.
//   - What Ingresses say is data. There are no templates, no snippets and no
//     annotations that are executed.
//
// # What it does not do yet
//
// Gateway API, HTTP/2 to pods, session affinity, rate limits.
package ingress
