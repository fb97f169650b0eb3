package apiserver

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"
)

const services = "/api/v1/namespaces/default/services"

func service(name, spec string) string {
	return fmt.Sprintf(`{"kind":"Service","apiVersion":"v1","metadata":{"name":%q},"spec":{"ports":[{"port":80}]%s}}`, name, spec)
}

// Sixteen writers on two apiservers over one log create services as fast as
// they can, in a range so small that they must meet. No address may be given
// twice, and each must have its claim.
func TestNoAddressTwice(t *testing.T) {
	c := newCluster(t)
	c.services = "10.99.0.0/24"
	apis := []*api{c.start(), c.start()}
	const writers, each = 16, 12
	var mu sync.Mutex
	owner := map[string]string{}
	var g errgroup.Group
	for w := range writers {
		g.Go(func() error {
			client := apis[w%2].client
			for i := range each {
				name := fmt.Sprintf("s-%d-%d", w, i)
				code, body, _ := client.do("POST", services, service(name, ""))
				if code != http.StatusCreated {
					return fmt.Errorf("%s: %d %s", name, code, body)
				}
				ip := str(decode(t, body), "spec", "clusterIP")
				mu.Lock()
				if before, twice := owner[ip]; twice || ip == "" {
					t.Errorf("%q was given to %s and to %s", ip, before, name)
				}
				owner[ip] = name
				mu.Unlock()
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	list := apis[0].want(200, "GET", "/apis/networking.k8s.io/v1/ipaddresses", "")
	claimed := map[string]string{}
	items, _ := at_(list, "items").([]any)
	for _, item := range items {
		claimed[str(item, "metadata", "name")] = str(item, "spec", "parentRef", "name")
	}
	for ip, name := range owner {
		if claimed[ip] != name {
			t.Errorf("%s of %s is claimed for %q", ip, name, claimed[ip])
		}
	}
	if len(claimed) != len(owner)+1 { // and the API's own
		t.Errorf("%d claims for %d services", len(claimed), len(owner))
	}
}

func TestServiceAddresses(t *testing.T) {
	a := newCluster(t).start()
	got := a.want(201, "POST", services, service("named", `,"clusterIP":"10.43.7.7"`))
	if str(got, "spec", "clusterIP") != "10.43.7.7" || str(got, "spec", "clusterIPs", 0) != "10.43.7.7" || str(got, "spec", "ipFamilies", 0) != "IPv4" {
		t.Errorf("asked for by name: %v", got["spec"])
	}
	refused := a.want(422, "POST", services, service("second", `,"clusterIP":"10.43.7.7"`))
	if m := str(refused, "message"); !strings.Contains(m, "provided IP is already allocated") {
		t.Errorf("taken address: %s", m)
	}
	a.want(422, "POST", services, service("outside", `,"clusterIP":"10.50.0.1"`))
	headless := a.want(201, "POST", services, service("headless", `,"clusterIP":"None"`))
	if str(headless, "spec", "clusterIPs", 0) != "None" {
		t.Errorf("headless: %v", headless["spec"])
	}
	// What is refused for another reason claims nothing.
	a.want(422, "POST", services, service("Bad_Name", ""))
	list := a.want(200, "GET", "/apis/networking.k8s.io/v1/ipaddresses", "")
	if items, _ := at_(list, "items").([]any); len(items) != 2 {
		t.Errorf("%d claims, want that of the API and one", len(items))
	}
	// An update that leaves the address out keeps it.
	kept := a.with("Content-Type", "application/json").want(200, "PUT", services+"/named", service("named", `,"selector":{"a":"b"}`))
	if str(kept, "spec", "clusterIP") != "10.43.7.7" {
		t.Errorf("kept: %v", kept["spec"])
	}
	// A service that comes back under its name takes its old claim over.
	a.want(200, "DELETE", services+"/named", "")
	a.want(201, "POST", services, service("named", `,"clusterIP":"10.43.7.7"`))
}
