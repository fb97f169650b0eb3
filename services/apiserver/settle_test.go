package apiserver

import (
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// TestNewNamespaceSettles creates a pod in a namespace that does not have its
// service account yet, as `kubectl apply` of both in one file does.
func TestNewNamespaceSettles(t *testing.T) {
	a := newCluster(t).start()
	a.want(201, "POST", "/api/v1/namespaces", `{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"new"}}`)
	const pod = `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`
	var g errgroup.Group
	var code int
	var out string
	g.Go(func() error { code, out, _ = a.do("POST", "/api/v1/namespaces/new/pods", pod); return nil })
	a.want(201, "POST", "/api/v1/namespaces/new/serviceaccounts", `{"kind":"ServiceAccount","apiVersion":"v1","metadata":{"name":"default"}}`)
	if _ = g.Wait(); code != 201 {
		t.Fatalf("the pod: %d %s", code, out)
	}

	a.want(201, "POST", "/api/v1/namespaces", `{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"never"}}`)
	begun := time.Now()
	a.want(403, "POST", "/api/v1/namespaces/never/pods", pod)
	if took := time.Since(begun); took > settling+time.Second {
		t.Errorf("refused after %s, expected at most %s", took, settling)
	}
	begun = time.Now()
	a.want(403, "POST", "/api/v1/namespaces/never/pods", pod)
	if took := time.Since(begun); took > settling/2 {
		t.Errorf("refused after %s, expected at once: the namespace is settled", took)
	}
}
