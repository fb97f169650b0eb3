package apiserver

import (
	"slices"
	"testing"
)

// names lists what stands in a collection.
func (c *client) names(path string) []string {
	c.t.Helper()
	var all []string
	items, _ := at_(c.want(200, "GET", path, ""), "items").([]any)
	for i := range items {
		all = append(all, str(items, i, "metadata", "name"))
	}
	return all
}

// TestDeleteCollection deletes what the selectors leave, answers with it, and
// changes nothing in a dry run or for who may not.
func TestDeleteCollection(t *testing.T) {
	c := newCluster(t)
	a := c.start()
	for name, tier := range map[string]string{"one": "a", "two": "a", "three": "b"} {
		a.want(201, "POST", configMaps, `{"metadata":{"name":"`+name+`","labels":{"tier":"`+tier+`"}}}`)
	}
	all := a.names(configMaps)
	a.want(200, "DELETE", configMaps+"?labelSelector=tier%3Da&dryRun=All", "")
	c.client(a.url, "ann").want(403, "DELETE", configMaps+"?labelSelector=tier%3Da", "")
	a.want(400, "DELETE", configMaps+"?labelSelector=%3D%3D", "")
	if now := a.names(configMaps); !slices.Equal(now, all) {
		t.Fatalf("of %v there are left %v", all, now)
	}
	deleted := a.want(200, "DELETE", configMaps+"?labelSelector=tier%3Da", "")
	if items, _ := at_(deleted, "items").([]any); len(items) != 2 {
		t.Errorf("it says it deleted %v", deleted)
	}
	want := slices.DeleteFunc(slices.Clone(all), func(n string) bool { return n == "one" || n == "two" })
	if now := a.names(configMaps); !slices.Equal(now, want) {
		t.Errorf("there are left %v, want %v", now, want)
	}
	a.want(200, "DELETE", configMaps+"?fieldSelector=metadata.name%3Dthree", "")
	if now := a.names(configMaps); slices.Contains(now, "three") {
		t.Errorf("a field selector left %v", now)
	}
}

// Across namespaces one may list and watch, and do no more.
func TestAcrossNamespaces(t *testing.T) {
	a := newCluster(t).start()
	a.want(201, "POST", configMaps, configMap("one"))
	a.want(405, "DELETE", "/api/v1/configmaps", "")
	a.want(405, "POST", "/api/v1/configmaps", configMap("two"))
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		if code, out, _ := a.do(method, "/api/v1/configmaps/one", configMap("one")); code != 404 {
			t.Errorf("%s: %d %s", method, code, out)
		}
	}
	if all := a.names("/api/v1/configmaps"); !slices.Contains(all, "one") {
		t.Errorf("there are %v", all)
	}
	a.want(200, "DELETE", "/api/v1/nodes", "") // which are in none
}
