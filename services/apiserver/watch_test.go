package apiserver

import (
	"testing"
)

func TestWatchFromThePast(t *testing.T) {
	a := newCluster(t).start()
	start := str(a.want(200, "GET", configMaps, ""), "metadata", "resourceVersion")
	a.want(201, "POST", configMaps, configMap("one"))
	a.want(200, "DELETE", configMaps+"/one", "")
	a.want(201, "POST", configMaps, configMap("two"))
	want := []string{"ADDED one", "DELETED one", "ADDED two"}
	check := func(about string, w *watching, want ...string) {
		t.Helper()
		for _, each := range want {
			kind, o := w.next()
			if got := kind + " " + str(o, "metadata", "name"); got != each {
				t.Errorf("%s: %s, want %s", about, got, each)
			}
		}
	}
	check("from the ring", a.watch(configMaps+"?watch=1&resourceVersion="+start), want...)
	check("without a version", a.watch(configMaps+"?watch=1"), "ADDED two")
	check("from anywhere", a.watch(configMaps+"?watch=1&resourceVersion=0"), "ADDED two")
	// A second server has none of it in its ring, and reads the log.
	b := (&cluster{t: t, log: a.s.cfg.Log, ca: a.s.cfg.CA}).start()
	check("from the log", b.watch(configMaps+"?watch=1&resourceVersion="+start), want...)
	check("the old path", a.watch("/api/v1/watch/namespaces/default/configmaps?resourceVersion="+start), want...)
	check("one object", a.watch(configMaps+"?watch=1&fieldSelector=metadata.name%3Dtwo&resourceVersion="+start), want[2])
}

func TestInitialEventsAndBookmarks(t *testing.T) {
	a := newCluster(t).start()
	a.want(201, "POST", configMaps, configMap("one"))
	w := a.watch(configMaps + "?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1")
	if kind, o := w.next(); kind != "ADDED" || str(o, "metadata", "name") != "one" {
		t.Errorf("first: %s %v", kind, o)
	}
	kind, o := w.next()
	if kind != "BOOKMARK" || str(o, "metadata", "annotations", "k8s.io/initial-events-end") != "true" || str(o, "kind") != "ConfigMap" || str(o, "metadata", "resourceVersion") == "" {
		t.Errorf("end of the initial events: %s %v", kind, o)
	}
	if kind, _ := w.next(); kind != "BOOKMARK" {
		t.Errorf("the last word of a watch that ends: %s", kind)
	}
	if w.dec.More() {
		t.Error("a watch goes on after its timeout")
	}
}

// An object that no longer matches is deleted, as far as the watcher can see.
func TestSelectedWatch(t *testing.T) {
	a := newCluster(t).start()
	w := a.watch(configMaps + "?watch=1&labelSelector=in%3Dyes")
	patch := a.with("Content-Type", patchMerge)
	a.want(201, "POST", configMaps, configMap("one"))
	for _, c := range [][2]string{{`{"metadata":{"labels":{"in":"yes"}}}`, "ADDED"}, {`{"data":{"a":"b"}}`, "MODIFIED"}, {`{"metadata":{"labels":{"in":"no"}}}`, "DELETED"}} {
		after := patch.want(200, "PATCH", configMaps+"/one", c[0])
		kind, o := w.next()
		if kind != c[1] || str(o, "metadata", "resourceVersion") != str(after, "metadata", "resourceVersion") {
			t.Errorf("%s: %s %v", c[0], kind, o)
		}
	}
	table := a.with("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").watch(configMaps + "?watch=1")
	if kind, o := table.next(); kind != "ADDED" || str(o, "kind") != "Table" || str(o, "rows", 0, "cells", 0) != "one" {
		t.Errorf("table: %s %v", kind, o)
	}
}
