package apiserver

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"
)

func listed(list map[string]any) (out []string) {
	items, _ := at_(list, "items").([]any)
	for _, i := range items {
		out = append(out, str(i, "metadata", "name"))
	}
	return out
}

func TestPages(t *testing.T) {
	a := newCluster(t).start()
	for i := range 5 {
		a.want(201, "POST", configMaps, configMap(fmt.Sprint("m", i)))
	}
	first := a.want(200, "GET", configMaps+"?limit=2", "")
	if left, _ := at_(first, "metadata", "remainingItemCount").(float64); left != 3 {
		t.Errorf("remaining: %v", first["metadata"])
	}
	a.want(200, "DELETE", configMaps+"/m3", "") // a list that has begun still shows it
	token := str(first, "metadata", "continue")
	all := listed(first)
	for token != "" {
		next := a.want(200, "GET", configMaps+"?limit=2&continue="+url.QueryEscape(token), "")
		if v := str(next, "metadata", "resourceVersion"); v != str(first, "metadata", "resourceVersion") {
			t.Errorf("a page at version %s of a list at %v", v, first["metadata"])
		}
		all = append(all, listed(next)...)
		token = str(next, "metadata", "continue")
	}
	if got := strings.Join(all, " "); got != "m0 m1 m2 m3 m4" {
		t.Errorf("pages: %s", got)
	}
	// The View is not held any more, by a server that was started again for
	// example: it is rebuilt.
	token = str(first, "metadata", "continue")
	a.s.past.mu.Lock()
	a.s.past.held = nil
	a.s.past.mu.Unlock()
	second := a.want(200, "GET", configMaps+"?limit=2&continue="+url.QueryEscape(token), "")
	if got := strings.Join(listed(second), " "); got != "m2 m3" || str(second, "metadata", "resourceVersion") != str(first, "metadata", "resourceVersion") {
		t.Errorf("from history: %s at %v", got, second["metadata"])
	}
	// A token that is too old: 410, with one that goes on.
	old, err := decodeContinue(token)
	if err != nil {
		t.Fatal(err)
	}
	old.Given -= int64(continueLife/time.Second) + 1
	gone := a.want(410, "GET", configMaps+"?limit=2&continue="+url.QueryEscape(old.encode()), "")
	if str(gone, "reason") != "Expired" {
		t.Fatalf("expired: %v", gone)
	}
	rest := a.want(200, "GET", configMaps+"?continue="+url.QueryEscape(str(gone, "metadata", "continue")), "")
	if got := strings.Join(listed(rest), " "); got != "m2 m4" {
		t.Errorf("went on with %s", got)
	}
}

func TestSelectorsAndVersions(t *testing.T) {
	a := newCluster(t).start()
	for _, c := range []string{"a", "b"} {
		a.want(201, "POST", configMaps, fmt.Sprintf(`{"metadata":{"name":%q,"labels":{"is":%q}}}`, c, c))
	}
	at := str(a.want(200, "GET", configMaps, ""), "metadata", "resourceVersion")
	a.want(200, "DELETE", configMaps+"/a", "")
	for query, want := range map[string]string{
		"":                                  "b",
		"?labelSelector=is%3Da":             "",
		"?labelSelector=is+in+(a,b)":        "b",
		"?fieldSelector=metadata.name%3Db":  "b",
		"?fieldSelector=metadata.name!%3Db": "",
		"?resourceVersion=0":                "b",
		"?resourceVersion=" + at + "&resourceVersionMatch=Exact":        "a b",
		"?resourceVersion=" + at + "&resourceVersionMatch=NotOlderThan": "b",
	} {
		if got := strings.Join(listed(a.want(200, "GET", configMaps+query, "")), " "); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	all := a.want(200, "GET", "/api/v1/configmaps?fieldSelector=metadata.namespace%3Ddefault", "")
	if got := strings.Join(listed(all), " "); got != "b" {
		t.Errorf("all namespaces: %s", got)
	}
	deleted := a.want(200, "DELETE", configMaps, "")
	if str(deleted, "kind") != "ConfigMapList" || len(listed(a.want(200, "GET", configMaps, ""))) != 0 {
		t.Errorf("delete collection: %v", deleted)
	}
}

func TestForms(t *testing.T) {
	a := newCluster(t).start()
	a.want(201, "POST", configMaps, configMap("one", "k", "v"))
	table := a.with("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json").want(200, "GET", configMaps, "")
	if str(table, "kind") != "Table" || str(table, "columnDefinitions", 0, "name") != "Name" ||
		str(table, "rows", 0, "cells", 0) != "one" || str(table, "rows", 0, "object", "kind") != "PartialObjectMetadata" {
		t.Errorf("table: %v", table)
	}
	partial := a.with("Accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").want(200, "GET", configMaps, "")
	if str(partial, "kind") != "PartialObjectMetadataList" || str(partial, "items", 0, "metadata", "name") != "one" || at_(partial, "items", 0, "data") != nil {
		t.Errorf("partial: %v", partial)
	}
	_, yaml, header := a.with("Accept", "application/yaml").do("GET", configMaps+"/one", "")
	if header.Get("Content-Type") != "application/yaml" || !strings.Contains(yaml, "kind: ConfigMap\n") {
		t.Errorf("yaml: %s", yaml)
	}
	made := a.with("Content-Type", "application/yaml").want(201, "POST", configMaps, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: two}\n")
	if str(made, "metadata", "name") != "two" {
		t.Errorf("from yaml: %v", made)
	}
	// A Secret's data is sealed in the log, and plain for who may read it.
	secrets := "/api/v1/namespaces/default/secrets"
	a.want(201, "POST", secrets, `{"metadata":{"name":"s"},"stringData":{"k":"canary"}}`)
	for _, path := range []string{secrets + "/s", secrets} {
		if _, body, _ := a.do("GET", path, ""); !strings.Contains(body, `"k":"Y2FuYXJ5"`) || strings.Count(body, "resourceVersion") > 2 {
			t.Errorf("%s: %s", path, body)
		}
	}
	for r, err := range a.s.cfg.Log.Follow(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(r.Body), "Y2FuYXJ5") {
			t.Error("a secret stands in the log")
		}
		if r.Seq == a.s.cfg.Mirror.View().Seq() {
			break
		}
	}
}
