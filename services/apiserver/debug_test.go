package apiserver

import (
	"encoding/json"
	"fmt"

	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// logged returns the events that a user is shown, as "TYPE KEY".
func (c *client) logged(query string) []string {
	c.t.Helper()
	code, out, _ := c.do("GET", "/rutter/v1/log?"+query, "")
	if code != 200 {
		c.t.Fatalf("log?%s: %d %s", query, code, out)
	}
	var all []string
	for line := range strings.Lines(out) {
		var r events.Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			c.t.Fatalf("log?%s: %v: %s", query, err, line)
		}
		all = append(all, r.Type+" "+r.Key.String())
	}
	return all
}

// mark is the Seq of the log's last event.
func (c *cluster) mark() string {
	c.t.Helper()
	last, err := c.log.Last(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return fmt.Sprint(last)
}

func TestLogFilters(t *testing.T) {
	c := newCluster(t)
	a := c.start()
	start := c.mark()
	a.want(201, "POST", configMaps, configMap("one"))
	middle := c.mark()
	a.want(201, "POST", configMaps, configMap("two"))
	a.want(201, "POST", "/api/v1/namespaces/default/secrets", `{"metadata":{"name":"s"},"stringData":{"password":"canary-1234"}}`)
	a.want(200, "DELETE", configMaps+"/one", "")
	one, two, gone := "configmap.created configmaps/default/one", "configmap.created configmaps/default/two", "configmap.deleted configmaps/default/one"
	secret := "secret.created secrets/default/s"
	for query, want := range map[string][]string{
		"from=" + start:                      {one, two, secret, gone},
		"from=" + middle:                     {two, secret, gone},
		"from=" + start + "&to=" + middle:    {one},
		"from=" + c.mark():                   nil, // nothing yet, and nothing is waited for
		"from=" + c.mark() + "&to=" + middle: nil,
		"tail=2":                             {secret, gone},
		"from=" + start + "&key=configmaps/default/one": {one, gone},
		"from=" + start + "&resource=secrets":           {secret},
		"from=" + start + "&type=configmap.deleted":     {gone},
		"from=" + start + "&type=configmap":             {one, two, gone},
		"from=" + start + "&type=conf":                  nil,
		"from=" + start + "&actor=user:admin":           {one, two, secret, gone},
		"from=" + start + "&actor=user":                 {one, two, secret, gone},
		"from=" + start + "&actor=scheduler":            nil,
		"from=-1h&key=configmaps/default/two":           {two},
		"to=-1h":                                        nil,
	} {
		if diff := cmp.Diff(want, a.logged(query)); diff != "" {
			t.Errorf("log?%s (-want +got):\n%s", query, diff)
		}
	}
	if _, out, _ := a.do("GET", "/rutter/v1/log?from="+start, ""); strings.Contains(out, "canary-1234") || strings.Contains(out, "Y2FuYXJ5LTEyMzQ") {
		t.Errorf("a Secret's data is shown: %s", out)
	}
	for _, bad := range []string{"from=x", "to=99999999", "tail=-1", "tail=x", "key=a", "from=1h"} {
		a.want(400, "GET", "/rutter/v1/log?"+bad, "")
	}
	a.want(405, "POST", "/rutter/v1/log", "")
	if code, out, _ := a.do("GET", "/rutter/v1/nothing", ""); code != 404 {
		t.Errorf("nothing: %d %s", code, out)
	}
}

// TestDebugRights: the debugging commands show a user what the API would.
func TestDebugRights(t *testing.T) {
	c := newCluster(t)
	a := c.start()
	a.want(201, "POST", "/api/v1/namespaces", `{"metadata":{"name":"shop"}}`)
	a.want(201, "POST", rbacPath+"namespaces/shop/rolebindings", `{"metadata":{"name":"ann"},
		"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"view"},"subjects":[{"kind":"User","name":"ann"}]}`)
	start := c.mark()
	a.want(201, "POST", configMaps, configMap("theirs"))
	a.want(201, "POST", "/api/v1/namespaces/shop/configmaps", configMap("hers"))
	a.want(201, "POST", "/api/v1/namespaces/shop/secrets", `{"metadata":{"name":"s"},"stringData":{"a":"b"}}`)
	a.want(200, "DELETE", "/api/v1/namespaces/shop/configmaps/hers", "")
	ann := c.client(a.url, "ann")
	const hers, theirs, secret = "configmaps/shop/hers", "configmaps/default/theirs", "secrets/shop/s"
	if diff := cmp.Diff([]string{"configmap.created " + hers, "configmap.deleted " + hers}, ann.logged("from="+start)); diff != "" {
		t.Errorf("her log (-want +got):\n%s", diff)
	}
	for _, what := range []string{"why", "diff"} {
		ann.want(403, "GET", "/rutter/v1/"+what+"?key="+theirs, "")
		ann.want(403, "GET", "/rutter/v1/"+what+"?key="+secret, "")
		if code, out, _ := ann.do("GET", "/rutter/v1/"+what+"?key="+hers, ""); code != 200 { // gone, and yet
			t.Errorf("%s: %d %s", what, code, out)
		}
		a.want(404, "GET", "/rutter/v1/"+what+"?key=configmaps/default/never", "")
		a.want(400, "GET", "/rutter/v1/"+what+"?key=x", "")
	}
	past := "/rutter/v1/at/" + c.mark()
	ann.want(200, "GET", past+"/api/v1/namespaces/shop/configmaps", "")
	ann.want(403, "GET", past+"/api/v1/namespaces/shop/secrets/s", "")
	ann.want(403, "GET", past+"/api/v1/namespaces/default/configmaps/theirs", "")
	ann.want(403, "GET", past+"/api/v1/configmaps", "")
	ann.want(403, "GET", "/rutter/v1/replay", "")
	ann.want(403, "GET", "/rutter/v1/record", "")
	c.client(a.url, "").want(401, "GET", "/rutter/v1/log", "")
}

func TestGetAt(t *testing.T) {
	c := newCluster(t)
	a := c.start()
	before := c.mark()
	a.want(201, "POST", configMaps, configMap("one", "a", "1"))
	first := c.mark()
	a.with("Content-Type", patchMerge).want(200, "PATCH", configMaps+"/one", `{"data":{"a":"2"}}`)
	a.want(200, "DELETE", configMaps+"/one", "")
	a.want(404, "GET", "/rutter/v1/at/"+before+configMaps+"/one", "")
	a.want(404, "GET", "/rutter/v1/at/"+c.mark()+configMaps+"/one", "")
	a.want(404, "GET", "/rutter/v1/at/-1h"+configMaps+"/one", "")
	if o := a.want(200, "GET", "/rutter/v1/at/"+first+configMaps+"/one", ""); str(o, "data", "a") != "1" || str(o, "metadata", "resourceVersion") != first {
		t.Errorf("at %s: %v", first, o)
	}
	if l := a.want(200, "GET", "/rutter/v1/at/"+first+configMaps, ""); str(l, "items", 0, "metadata", "name") != "one" || str(l, "metadata", "resourceVersion") != first {
		t.Errorf("the list at %s: %v", first, l)
	}
	table := a.with("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").want(200, "GET", "/rutter/v1/at/"+first+configMaps, "")
	if str(table, "kind") != "Table" || str(table, "rows", 0, "cells", 0) != "one" {
		t.Errorf("the table at %s: %v", first, table)
	}
	a.want(400, "GET", "/rutter/v1/at/never"+configMaps, "")
	if code, out, _ := a.do("DELETE", "/rutter/v1/at/"+first+configMaps+"/one", ""); code != 405 {
		t.Errorf("the past is changed: %d %s", code, out)
	}
}

// marker is a decider that makes a ConfigMap NAME-mark of every other one.
var marker = kernel.Decider{Name: "marker", Reads: []kernel.Resource{kinds.ConfigMaps.Resource}, Writes: []kernel.Resource{kinds.ConfigMaps.Resource},
	Wakes: func(_ *kernel.View, e kernel.Event) []kernel.Key {
		if strings.HasSuffix(e.Key.Name, "-mark") || e.Key.Namespace != "default" {
			return nil
		}
		return []kernel.Key{e.Key}
	},
	Decide: func(v *kernel.View, k kernel.Key, _ time.Time) kernel.Decision {
		from, ok := kinds.ConfigMaps.Get(v, k.Namespace, k.Name)
		if _, done := kinds.ConfigMaps.Get(v, k.Namespace, k.Name+"-mark"); !ok || done {
			return kernel.Decision{}
		}
		to := from.DeepCopy()
		to.ObjectMeta = kinds.ConfigMaps.New().ObjectMeta
		to.Name, to.Namespace = k.Name+"-mark", k.Namespace
		return kernel.Decision{Changes: []kernel.Change{kinds.ConfigMaps.Put(to, "configmap.marked", "because it had no mark")}}
	}}

// decided is a cluster in which marker has decided on one.
func decided(t *testing.T) (*cluster, *api) {
	c := newCluster(t)
	c.deciders = []kernel.Decider{marker}
	a := c.start()
	g, ctx := errgroup.WithContext(t.Context())
	g.Go(func() error {
		return kernel.Run(ctx, c.log, a.s.cfg.Mirror, a.s.cfg.Logger, kernel.Now, "test", "marker.1", marker)
	})
	w := a.watch(configMaps + "?watch=1&fieldSelector=metadata.name%3Done-mark")
	a.want(201, "POST", configMaps, configMap("one", "a", "1"))
	w.next()
	return c, a
}

func TestWhyLeadsOutside(t *testing.T) {
	c, a := decided(t)
	a.want(200, "DELETE", configMaps+"/one-mark", "")
	deleted := c.mark()
	var l history.Link
	link := func(as *client, query string) {
		t.Helper()
		code, out, _ := as.do("GET", "/rutter/v1/why?key=configmaps/default/one-mark"+query, "")
		if l = (history.Link{}); code != 200 || json.Unmarshal([]byte(out), &l) != nil {
			t.Fatalf("why%s: %d %s", query, code, out)
		}
	}
	if link(a.client, "&at="+deleted); l.Record.Type != "configmap.deleted" || l.Record.Source != "user:admin" || !l.Outside {
		t.Errorf("why it is gone: %+v", l)
	}
	made := a.logged("type=configmap.marked")
	if len(made) != 1 {
		t.Fatalf("marked: %v", made)
	}
	one := l.Record.Expect
	link(a.client, "&at="+fmt.Sprint(one))
	if l.Record.Type != "configmap.marked" || l.Record.Source != "marker" || l.Record.Note != "because it had no mark" || l.Record.Decision == nil || l.Record.Decision.Build != "test" {
		t.Errorf("why it is: %+v", l.Record)
	}
	if len(l.Causes) != 1 || l.Causes[0].Record.Key.Name != "one" || l.Causes[0].Record.Source != "user:admin" || !l.Outside {
		t.Errorf("its causes: %+v", l.Causes)
	}
	// Who may see the mark alone is told no more of its cause than that there is one.
	a.want(201, "POST", rbacPath+"namespaces/default/roles", `{"metadata":{"name":"mark"},"rules":[{"apiGroups":[""],"resources":["configmaps"],"resourceNames":["one-mark"],"verbs":["get"]}]}`)
	a.want(201, "POST", rbacPath+"namespaces/default/rolebindings", `{"metadata":{"name":"mark"},
		"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"mark"},"subjects":[{"kind":"User","name":"ann"}]}`)
	link(c.client(a.url, "ann"), "&at="+fmt.Sprint(one))
	if k := l.Causes[0].Record.Key; k.Name != "(hidden)" || l.Causes[0].Record.Body != nil {
		t.Errorf("she sees %v", l.Causes[0].Record)
	}
}

func TestReplayOfACluster(t *testing.T) {
	c, a := decided(t)
	report := a.want(200, "GET", "/rutter/v1/replay", "")
	if at_(report, "decisions") != 1.0 || at_(report, "changes") != 1.0 || at_(report, "unexplained") != 0.0 || at_(report, "events").(float64) < 2 {
		t.Errorf("%v", report)
	}
	if r := a.want(200, "GET", "/rutter/v1/replay?decider=marker&to=1", ""); at_(r, "decisions") != 0.0 {
		t.Errorf("up to the first event: %v", r)
	}
	if r := a.want(200, "GET", "/rutter/v1/replay?decider=marker&from="+c.mark(), ""); at_(r, "decisions") != 0.0 {
		t.Errorf("from the end on: %v", r)
	}
	s := a.want(400, "GET", "/rutter/v1/replay?decider=x", "")
	if m := str(s, "message"); !strings.Contains(m, "there are marker") {
		t.Error(m)
	}
	planted := marker
	planted.Decide = func(v *kernel.View, k kernel.Key, now time.Time) kernel.Decision {
		d := marker.Decide(v, k, now)
		for i := range d.Changes {
			d.Changes[i].Note += "!"
		}
		return d
	}
	c.deciders = []kernel.Decider{planted}
	other := c.start()
	if r := other.want(200, "GET", "/rutter/v1/replay", ""); at_(r, "unexplained") != 1.0 || !strings.Contains(str(r, "first"), "marker on configmaps/default/one") {
		t.Errorf("a planted change: %v", r)
	}
}

func TestDiffOfAnObject(t *testing.T) {
	c := newCluster(t)
	a := c.start()
	a.want(201, "POST", configMaps, configMap("one", "a", "1"))
	first := c.mark()
	a.with("Content-Type", patchMerge).want(200, "PATCH", configMaps+"/one", `{"data":{"a":"2"}}`)
	second := c.mark()
	a.want(200, "DELETE", configMaps+"/one", "")
	read := func(query string) (out []change) {
		t.Helper()
		_, body, _ := a.do("GET", "/rutter/v1/diff?key=configmaps/default/one"+query, "")
		if err := json.Unmarshal([]byte(body), &out); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		return out
	}
	if all := read(""); len(all) != 3 || all[0].Type != "configmap.created" || all[2].Type != "configmap.deleted" {
		t.Errorf("all: %+v", all)
	}
	some := read("&from=" + first + "&to=" + second)
	if len(some) != 1 || some[0].Source != "user:admin" {
		t.Fatalf("one: %+v", some)
	}
	for _, ch := range some[0].Changes {
		if ch.Path == "data.a" && ch.String() == `~ data.a: "1" → "2"` {
			return
		}
	}
	t.Errorf("the change is missing: %+v", some[0].Changes)
}
