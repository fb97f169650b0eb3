package apiserver

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/kernel"
)

// Sixteen writers patch one object through two apiservers: none may be lost,
// and none may be told of a conflict, for none named a version.
func TestPatchesMeet(t *testing.T) {
	c := newCluster(t)
	apis := []*api{c.start(), c.start()}
	apis[0].want(201, "POST", configMaps, configMap("one"))
	const writers = 16
	var g errgroup.Group
	for w := range writers {
		g.Go(func() error {
			for i := range 4 {
				patch := apis[w%2].with("Content-Type", patchMerge)
				code, body, _ := patch.do("PATCH", configMaps+"/one", fmt.Sprintf(`{"data":{"w%d":"%d"}}`, w, i))
				if code != http.StatusOK {
					return fmt.Errorf("writer %d: %d %s", w, code, body)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	got, _ := at_(apis[1].want(200, "GET", configMaps+"/one", ""), "data").(map[string]any)
	for w := range writers {
		if got[fmt.Sprint("w", w)] != "3" {
			t.Errorf("the last patch of writer %d is lost: %v", w, got)
		}
	}
}

// What one apiserver has answered, the other knows at once.
func TestReadsAreFresh(t *testing.T) {
	c := newCluster(t)
	a, b := c.start(), c.start()
	for i := range 50 {
		name := fmt.Sprint("m", i)
		a.want(201, "POST", configMaps, configMap(name))
		b.want(200, "GET", configMaps+"/"+name, "")
		if got := listed(b.want(200, "GET", configMaps, "")); len(got) != i+1 {
			t.Fatalf("after %d creates a list has %d", i+1, len(got))
		}
		a.want(409, "POST", configMaps, configMap(name))
		b.want(409, "POST", configMaps, configMap(name))
	}
}

func TestGeneratedNames(t *testing.T) {
	a := newCluster(t).start()
	seen := map[string]bool{}
	for range 20 {
		o := a.want(201, "POST", configMaps, `{"metadata":{"generateName":"m-"}}`)
		name := str(o, "metadata", "name")
		if seen[name] || !strings.HasPrefix(name, "m-") || len(name) != 7 {
			t.Errorf("generated %q", name)
		}
		seen[name] = true
	}
}

// A finalizer holds a deleted object until it is taken away.
func TestFinalizersAndPropagation(t *testing.T) {
	a := newCluster(t).start()
	a.want(201, "POST", configMaps, `{"metadata":{"name":"held","finalizers":["example.com/hold"]}}`)
	going := a.want(200, "DELETE", configMaps+"/held", "")
	if str(going, "metadata", "deletionTimestamp") == "" {
		t.Errorf("deleted with a finalizer: %v", going)
	}
	a.want(200, "DELETE", configMaps+"/held", "") // once more changes nothing
	a.with("Content-Type", patchMerge).want(200, "PATCH", configMaps+"/held", `{"metadata":{"finalizers":null}}`)
	a.want(404, "GET", configMaps+"/held", "")
	a.want(201, "POST", configMaps, configMap("owner"))
	waiting := a.want(200, "DELETE", configMaps+"/owner?propagationPolicy=Foreground", "")
	if str(waiting, "metadata", "finalizers", 0) != "foregroundDeletion" {
		t.Errorf("deleted in the foreground: %v", waiting)
	}
}

// The envelope of a write says who did what, and when they had read what.
func TestEnvelope(t *testing.T) {
	c := newCluster(t)
	a := c.start()
	trace := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	made := a.with("Traceparent", trace).want(201, "POST", configMaps, configMap("one"))
	v, err := a.s.index.view(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e := v.Entry(kernel.Key{Resource: kernel.Resource{Plural: "configmaps"}, Namespace: "default", Name: "one"})
	if e.Source != "user:admin" || e.Type != "configmap.created" || e.Trace != trace || e.ID == "" || e.Time.IsZero() ||
		fmt.Sprint(e.Seq) != str(made, "metadata", "resourceVersion") || e.Decision != nil {
		t.Errorf("envelope: %+v", e.Envelope)
	}
	if strings.Contains(string(e.Body), "resourceVersion") {
		t.Errorf("the body in the log has a version: %s", e.Body)
	}
	// A write that changes nothing is no event.
	a.with("Content-Type", patchMerge).want(200, "PATCH", configMaps+"/one", `{"metadata":{}}`)
	if last, err := c.log.Last(t.Context()); err != nil || last != e.Seq {
		t.Errorf("the log went from %d to %d: %v", e.Seq, last, err)
	}
}
