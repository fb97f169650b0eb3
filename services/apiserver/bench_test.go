package apiserver

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// The benchmarks go through HTTP/2 and TLS over the log in memory; client and
// server share the process, so read the profile for the server's part.

// call is do for loops; code 0 takes any success.
func (c *client) call(b *testing.B, method, path, contentType string, body []byte, code int) {
	req, err := http.NewRequestWithContext(b.Context(), method, c.url+path, bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := c.http.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	out, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || res.StatusCode != code && (code != 0 || res.StatusCode > 299) {
		b.Fatalf("%s %s: %d %v %.300s", method, path, res.StatusCode, err, out)
	}
}

func benchPod(name string) string {
	return fmt.Sprintf(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":%q,"namespace":"default","labels":{"app":"bench"}},`+
		`"spec":{"schedulerName":"nobody","automountServiceAccountToken":false,"containers":[{"name":"c","image":"registry.example/app:1","resources":{"requests":{"cpu":"100m","memory":"64Mi"}}}]}}`, name)
}

func BenchmarkAPI(b *testing.B) {
	a := newCluster(b).start()
	const pods = "/api/v1/namespaces/default/pods"
	a.client.call(b, "POST", "/api/v1/namespaces/default/serviceaccounts", "", []byte(`{"metadata":{"name":"default"}}`), 201)
	var n atomic.Int64
	next := func(kind string) string { return fmt.Sprint(kind, n.Add(1)) }
	kib := strings.Repeat("x", 1000)
	b.Run("create-configmap", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				a.call(b, "POST", configMaps, "application/json", []byte(configMap(next("m"), "k", kib)), 201)
			}
		})
	})
	b.Run("create-pod", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				a.call(b, "POST", pods, "application/json", []byte(benchPod(next("p"))), 201)
			}
		})
	})
	a.call(b, "POST", pods, "application/json", []byte(benchPod("fixed")), 201)
	b.Run("get-pod", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				a.call(b, "GET", pods+"/fixed", "", nil, 200)
			}
		})
	})
	b.Run("patch-pod", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			name := next("p")
			a.call(b, "POST", pods, "application/json", []byte(benchPod(name)), 201)
			for pb.Next() {
				a.call(b, "PATCH", pods+"/"+name, patchStrategic, fmt.Appendf(nil, `{"metadata":{"labels":{"n":"%d"}}}`, n.Add(1)), 200)
			}
		})
	})
	b.Run("apply-configmap", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			name := next("m")
			for pb.Next() {
				a.call(b, "PATCH", configMaps+"/"+name+"?fieldManager=bench&force=true", patchApply,
					fmt.Appendf(nil, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":%q},"data":{"n":"%d"}}`, name, n.Add(1)), 0)
			}
		})
	})
	b.Run("list-pods", func(b *testing.B) {
		for range b.N {
			a.call(b, "GET", pods, "", nil, 200)
		}
	})
}
