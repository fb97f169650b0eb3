package ingress

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/rutterhq/rutter/kernel/kerneltest"
	"github.com/rutterhq/rutter/kinds"
)

const shop = `
metadata: {labels: {app: web}}
spec: {clusterIP: 10.43.0.7, clusterIPs: [10.43.0.7], selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}, {name: admin, port: 81, targetPort: 9090}]}
`

// slice is an EndpointSlice with one endpoint of each condition.
const slice = `
metadata: {labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: admin, port: 9090}]
endpoints:
- {addresses: [10.42.0.2], conditions: {ready: true, serving: true, terminating: false}}
- {addresses: [10.42.0.3], conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.42.0.4], conditions: {ready: false, serving: false, terminating: false}}
`

func newWorld(t *testing.T) *kerneltest.World {
	w := kerneltest.NewWorld(t, &kinds.Schema{Cluster: "test"}, Deciders()...)
	w.Put("user:t", kinds.Namespaces.Key("", "default"), "", "{}")
	w.Put("user:t", kinds.Namespaces.Key("", "kube-system"), "", "{}")
	w.Settle() // makes the class
	w.Put("user:t", kinds.Services.Key("default", "web"), "", shop)
	w.Put("user:t", kinds.EndpointSlices.Key("default", "web-1"), "", slice)
	return w
}

func TestRoutes(t *testing.T) {
	w := newWorld(t)
	w.Put("user:t", kinds.Ingresses.Key("default", "a"), "", `
spec:
  defaultBackend: {service: {name: web, port: {number: 81}}}
  rules:
  - host: shop.example
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}},
                   {path: /api/v1, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}},
                   {path: /api, pathType: Exact, backend: {service: {name: absent, port: {number: 80}}}}]}
`)
	w.Put("user:t", kinds.Ingresses.Key("default", "others"), "", `
spec:
  ingressClassName: somebody-else
  rules: [{host: other.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]
`)
	ready := []netip.AddrPort{netip.MustParseAddrPort("10.42.0.2:8080")}
	going := []netip.AddrPort{netip.MustParseAddrPort("10.42.0.3:8080")}
	want := &Table{
		Rules: []Rule{
			{Host: "shop.example", Path: "/api", Exact: true, Backend: Backend{Service: "default/absent"}},
			{Host: "shop.example", Path: "/api/v1", Backend: Backend{"default/web:http", ready, going}},
			{Host: "shop.example", Path: "/", Backend: Backend{"default/web:http", ready, going}},
		},
		Default: &Backend{"default/web:admin", []netip.AddrPort{netip.MustParseAddrPort("10.42.0.2:9090")}, []netip.AddrPort{netip.MustParseAddrPort("10.42.0.3:9090")}},
	}
	got := Routes(w.View())
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	if !Equal(got, Routes(w.View())) {
		t.Error("the same View gives tables that are not equal")
	}
	w.Put("user:t", kinds.EndpointSlices.Key("default", "web-1"), "", `endpoints: [{addresses: [10.42.0.9], conditions: {ready: true}}]`)
	if Equal(got, Routes(w.View())) {
		t.Error("an endpoint changed, and the tables are equal")
	}
}

func TestStatusSaysWhereAnIngressIs(t *testing.T) {
	w := newWorld(t)
	w.Put("user:t", kinds.Ingresses.Key("default", "a"), "", `
spec: {defaultBackend: {service: {name: web, port: {number: 80}}}}
`)
	w.Settle()
	for i, want := range []int{1, 2} {
		w.Put("user:t", kinds.Nodes.Key("", fmt.Sprint("n", i)), "", fmt.Sprintf(`status: {addresses: [{type: InternalIP, address: 192.0.2.%d}]}`, i+1))
		w.Settle()
		ing, _ := kinds.Ingresses.Get(w.View(), "default", "a")
		if got := ing.Status.LoadBalancer.Ingress; len(got) != want || got[i].IP != fmt.Sprintf("192.0.2.%d", i+1) {
			t.Errorf("with %d nodes: %v", want, got)
		}
	}
	w.Replay()
}

func TestTheClassIsMadeOnceOnly(t *testing.T) {
	w := newWorld(t)
	c, ok := kinds.IngressClasses.Get(w.View(), "", className)
	if !ok || c.Spec.Controller != Controller {
		t.Fatalf("no class of ours: %v", c)
	}
	w.Delete("user:t", kinds.IngressClasses.Key("", className))
	w.Put("user:t", kinds.Namespaces.Key("", "kube-system"), "", `metadata: {labels: {touched: "yes"}}`)
	w.Wait(time.Minute)
	if _, ok := kinds.IngressClasses.Get(w.View(), "", className); ok {
		t.Error("somebody took the class away, and it came back")
	}
}
