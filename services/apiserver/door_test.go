package apiserver

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/memory"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// knocker is a node at its door.
type knocker struct {
	*client
	node string
}

func (c *cluster) doorOf(url, node string) *knocker {
	return &knocker{c.client(url, nodeUserPrefix+node, groupNodes), node}
}

// append sends a Record and returns the code, and the Seq or the message.
func (a *knocker) append(r events.Record) (int, string) {
	a.t.Helper()
	b, err := json.Marshal(r)
	if err != nil {
		a.t.Fatal(err)
	}
	code, out, _ := a.do("POST", doorPrefix+a.node+"/append", string(b))
	answer := decode(a.t, out)
	if code == 200 {
		return code, fmt.Sprint(at_(answer, "seq"))
	}
	return code, str(answer, "message")
}

// doorStream is a node's open stream.
type doorStream struct {
	t     *testing.T
	lines *bufio.Scanner
	close func()
	last  events.Seq
}

// open asks for a node's stream, as it is at first.
func (a *knocker) open(t *testing.T) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", a.url+doorPrefix+a.node+"/log?after=0", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := a.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

func (a *knocker) stream(t *testing.T) *doorStream {
	t.Helper()
	res := a.open(t)
	if res.StatusCode != 200 {
		t.Fatalf("the stream of %s: %s", a.node, res.Status)
	}
	s := &doorStream{t: t, lines: bufio.NewScanner(res.Body), close: func() { res.Body.Close() }}
	s.lines.Buffer(nil, 4<<20)
	return s
}

// next returns one line, and checks that it names the one before.
func (s *doorStream) next() events.Record {
	s.t.Helper()
	if !s.lines.Scan() {
		s.t.Fatalf("the stream ended: %v", s.lines.Err())
	}
	var l events.Record
	var p struct{ Prev events.Seq }
	if err := json.Unmarshal(s.lines.Bytes(), &l); err != nil {
		s.t.Fatal(err)
	}
	if err := json.Unmarshal(s.lines.Bytes(), &p); err != nil {
		s.t.Fatal(err)
	}
	if p.Prev != s.last {
		s.t.Fatalf("a line names %d as the one before, it was %d: %s", p.Prev, s.last, s.lines.Text())
	}
	s.last = l.Seq
	return l
}

// until reads until a bookmark of the Seq or a later one, and returns the keys
// of pods, ConfigMaps and Secrets, with "-" before those of tombstones.
func (s *doorStream) until(seq events.Seq) []string {
	s.t.Helper()
	var seen []string
	for {
		l := s.next()
		switch {
		case l.Key == events.Key{}:
			if l.Seq >= seq {
				return seen
			}
		case l.Key.Plural == "pods" || l.Key.Plural == "configmaps" || l.Key.Plural == "secrets":
			k := l.Key.String()
			if l.Delete {
				k = "-" + k
			}
			seen = append(seen, k)
		}
	}
}

func (c *cluster) last() events.Seq {
	c.t.Helper()
	last, err := c.log.Last(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return last
}

const (
	podsPath = "/api/v1/namespaces/default/pods"
	secrets  = "/api/v1/namespaces/default/secrets"
)

func podOn(name, node string) string {
	return fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"nodeName":%q,"serviceAccountName":"default","automountServiceAccountToken":false,
		"containers":[{"name":"c","image":"i","envFrom":[{"secretRef":{"name":"s-%s"}}]}],
		"volumes":[{"name":"v","configMap":{"name":"c-%s"}}]}}`, name, node, name, name)
}

// doorCluster has two nodes with a pod each, and what the pods mount.
func doorCluster(t *testing.T) (*cluster, *api) {
	c := newCluster(t)
	a := c.start()
	a.want(201, "POST", "/api/v1/namespaces/default/serviceaccounts", `{"metadata":{"name":"default"}}`)
	for _, n := range []string{"n1", "n2"} {
		a.want(201, "POST", "/api/v1/nodes", `{"metadata":{"name":"`+n+`"}}`)
	}
	for _, p := range []string{"mine", "other", "later"} {
		a.want(201, "POST", configMaps, configMap("c-"+p, "k", "v"))
		a.want(201, "POST", secrets, `{"metadata":{"name":"s-`+p+`"},"stringData":{"k":"clear"}}`)
	}
	a.want(201, "POST", podsPath, podOn("mine", "n1"))
	a.want(201, "POST", podsPath, podOn("other", "n2"))
	a.want(201, "POST", podsPath, podOn("later", ""))
	return c, a
}

// TestDoorShows: a node sees its own pods and what they mount, from the moment
// that they are bound to it; never what is another's.
func TestDoorShows(t *testing.T) {
	c, a := doorCluster(t)
	s := c.doorOf(a.url, "n1").stream(t)
	if diff := cmp.Diff([]string{"configmaps/default/c-mine", "secrets/default/s-mine", "pods/default/mine"}, s.until(c.last())); diff != "" {
		t.Errorf("at first (-want +got):\n%s", diff)
	}
	a.with("Content-Type", patchMerge).want(200, "PATCH", configMaps+"/c-later", `{"data":{"k":"2"}}`)
	a.with("Content-Type", patchMerge).want(200, "PATCH", configMaps+"/c-mine", `{"data":{"k":"2"}}`)
	a.want(201, "POST", podsPath+"/later/binding", `{"target":{"kind":"Node","name":"n1"}}`)
	want := []string{"configmaps/default/c-mine", "configmaps/default/c-later", "secrets/default/s-later", "pods/default/later"}
	var got []string
	for len(got) < len(want) {
		if l := s.next(); l.Key != (events.Key{}) && l.Key.Plural != "nodes" {
			got = append(got, l.Key.String())
			if l.Key.Plural == "secrets" && !strings.Contains(string(l.Body), "Y2xlYXI=") {
				t.Errorf("the node cannot read %s", l.Body)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("a pod is bound (-want +got):\n%s", diff)
	}
	a.want(200, "DELETE", secrets+"/s-mine", "")
	a.want(200, "DELETE", secrets+"/s-other", "")
	l := s.next()
	for l.Key == (events.Key{}) { // a bookmark
		l = s.next()
	}
	if l.Key.String() != "secrets/default/s-mine" || !l.Delete {
		t.Errorf("a mounted Secret is deleted: %s %v", l.Key, l.Delete)
	}
	// A stream that begins anew shows the same, whatever the node has seen.
	again := c.doorOf(a.url, "n1").stream(t)
	for _, k := range again.until(c.last()) {
		if strings.Contains(k, "other") {
			t.Errorf("it sees %s", k)
		}
	}
	c.doorOf(a.url, "n1").want(410, "GET", doorPrefix+"n1/log?after=7", "")
}

// lateLog is a log of which nothing new can be read until its gate is open.
type lateLog struct {
	*memory.Log
	from events.Seq
	gate chan struct{}
}

func (l *lateLog) Follow(ctx context.Context, after events.Seq) iter.Seq2[events.Record, error] {
	return func(yield func(events.Record, error) bool) {
		for r, err := range l.Log.Follow(ctx, after) {
			if r.Seq > l.from {
				select {
				case <-l.gate:
				case <-ctx.Done():
					return
				}
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

// TestDoorShowsNothingOld: a node that comes from another apiserver is not
// shown a log that lacks the pods it runs, or it would end them.
func TestDoorShowsNothingOld(t *testing.T) {
	t.Parallel()
	c, a := doorCluster(t)
	late := &lateLog{Log: c.log.(*memory.Log), from: c.last(), gate: make(chan struct{})}
	c.log = late
	b := c.start()
	a.want(201, "POST", podsPath, podOn("new", "n1"))
	if seen := c.doorOf(a.url, "n1").stream(t).until(c.last()); !slices.Contains(seen, "pods/default/new") {
		t.Fatalf("the first apiserver shows %q", seen)
	}
	n1 := c.doorOf(b.url, "n1")
	if res := n1.open(t); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("an apiserver that is behind: %s", res.Status)
	}
	close(late.gate)
	if seen := n1.stream(t).until(0); !slices.Contains(seen, "pods/default/new") {
		t.Errorf("another apiserver shows %q at first", seen)
	}
}

// record is an object as an agent proposes it: as it is, with what a merge
// patch changes.
func (a *api) record(path string, k kernel.Key, patch func(o map[string]any)) events.Record {
	a.t.Helper()
	r := events.Record{Key: k, Envelope: events.Envelope{ID: fmt.Sprint(k, time.Now().UnixNano()), Source: "user:admin", Type: "pod.forged"}}
	o := map[string]any{"metadata": map[string]any{"name": k.Name, "namespace": k.Namespace}}
	if code, out, _ := a.do("GET", path+"/"+k.Name, ""); code == 200 {
		o = decode(a.t, out)
		var seq uint64
		if _, err := fmt.Sscan(str(o, "metadata", "resourceVersion"), &seq); err != nil {
			a.t.Fatal(err)
		}
		r.Expect, r.Seen = events.Seq(seq), events.Seq(seq)
		delete(at_(o, "metadata").(map[string]any), "resourceVersion")
	}
	if patch != nil {
		patch(o)
	}
	b, err := json.Marshal(o)
	if err != nil {
		a.t.Fatal(err)
	}
	r.Body = b
	return r
}

func set(path ...any) func(map[string]any) {
	return func(o map[string]any) {
		last := len(path) - 2
		for _, p := range path[:last] {
			next, ok := o[p.(string)].(map[string]any)
			if !ok {
				next = map[string]any{}
				o[p.(string)] = next
			}
			o = next
		}
		o[path[last].(string)] = path[last+1]
	}
}

// TestDoorOwnership: who may write what, each with the code it gets.
func TestDoorOwnership(t *testing.T) {
	c, a := doorCluster(t)
	n1 := c.doorOf(a.url, "n1")
	pod, node := kinds.Pods.Key("default", "mine"), kinds.Nodes.Key("", "n1")
	const nodes, leases = "/api/v1/nodes", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
	report := func(name, host, kind, about string) events.Record {
		return a.record("/api/v1/namespaces/default/events", kinds.Events.Key("default", name), func(o map[string]any) {
			set("source", "host", host)(o)
			set("involvedObject", map[string]any{"kind": kind, "name": about, "namespace": "default"})(o)
			set("reason", "R")(o)
			set("type", "Normal")(o)
			set("message", "m")(o)
		})
	}
	removal := func(r events.Record) events.Record { r.Delete, r.Body = true, nil; return r }
	other := a.record(podsPath, kinds.Pods.Key("default", "other"), set("status", "phase", "Running"))
	for _, try := range []struct {
		what string
		r    func() events.Record // made when its turn comes, on what is there then
		code int
	}{
		{"its pod's status", func() events.Record { return a.record(podsPath, pod, set("status", "phase", "Running")) }, 200},
		{"another's pod", func() events.Record { return other }, 403},
		{"another's pod, deleted", func() events.Record { return removal(other) }, 403},
		{"a new pod", func() events.Record {
			return a.record(podsPath, kinds.Pods.Key("default", "new"), set("spec", "nodeName", "n1"))
		}, 403},
		{"its pod, deleted though nobody asked for it", func() events.Record { return removal(a.record(podsPath, pod, nil)) }, 403},
		{"an unbound pod", func() events.Record {
			return a.record(podsPath, kinds.Pods.Key("default", "later"), set("status", "phase", "Running"))
		}, 403},
		{"its Node's status", func() events.Record { return a.record(nodes, node, set("status", "nodeInfo", "kubeletVersion", "v1")) }, 200},
		{"its own taints", func() events.Record {
			return a.record(nodes, node, set("spec", "taints", []any{map[string]any{"key": "k", "effect": "NoSchedule"}}))
		}, 403},
		{"its own podCIDR", func() events.Record { return a.record(nodes, node, set("spec", "podCIDR", "10.42.7.0/24")) }, 403},
		{"a label of its own", func() events.Record { return a.record(nodes, node, set("metadata", "labels", "zone", "a")) }, 200},
		{"a restricted label", func() events.Record {
			return a.record(nodes, node, set("metadata", "labels", "x.node-restriction.kubernetes.io/y", "a"))
		}, 403},
		{"another's Node", func() events.Record { return a.record(nodes, kinds.Nodes.Key("", "n2"), nil) }, 403},
		{"a Node that is not there", func() events.Record { return a.record(nodes, kinds.Nodes.Key("", "n3"), nil) }, 403},
		{"its Node, deleted", func() events.Record { return removal(a.record(nodes, node, nil)) }, 403},
		{"its Lease, deleted though there is none", func() events.Record { return removal(a.record(leases, kinds.Leases.Key(nodeLeases, "n1"), nil)) }, 404},
		{"another object under its Lease's key", func() events.Record {
			return a.record(leases, kinds.Leases.Key(nodeLeases, "n1"), set("metadata", map[string]any{"name": "n2"}))
		}, 400},
		{"its Lease", func() events.Record {
			return a.record(leases, kinds.Leases.Key(nodeLeases, "n1"), set("spec", "holderIdentity", "n1"))
		}, 200},
		{"another's Lease", func() events.Record { return a.record(leases, kinds.Leases.Key(nodeLeases, "n2"), nil) }, 403},
		{"an Event about its pod", func() events.Record { return report("e1", "n1", "Pod", "mine") }, 200},
		{"an Event about another's pod", func() events.Record { return report("e2", "n1", "Pod", "other") }, 403},
		{"an Event about another node", func() events.Record { return report("e3", "n1", "Node", "n2") }, 403},
		{"an Event under another's name", func() events.Record { return report("e4", "n2", "Pod", "mine") }, 403},
		{"a ConfigMap that its pod mounts", func() events.Record { return a.record(configMaps, kinds.ConfigMaps.Key("default", "c-mine"), nil) }, 403},
		{"what is no resource", func() events.Record {
			return events.Record{Key: kernel.Key{Resource: kernel.Resource{Plural: "things"}, Name: "x"}}
		}, 400},
		{"no object", func() events.Record {
			return events.Record{Key: node, Expect: a.record(nodes, node, nil).Expect, Body: []byte(`[]`)}
		}, 400},
	} {
		if code, out := n1.append(try.r()); code != try.code {
			t.Errorf("%s: %d %s, want %d", try.what, code, out, try.code)
		}
	}
	for _, e := range a.logged("key=" + pod.String() + "&actor=nodeagent/n1") {
		if strings.Contains(e, "forged") {
			t.Errorf("the node says what happened: %s", e)
		}
	}
	if l := a.logged("actor=nodeagent/n1"); len(l) != 5 {
		t.Errorf("the node's events are %v", l)
	}
	for _, url := range []string{doorPrefix + "n2/log", doorPrefix + "n2/append", doorPrefix + "/log"} {
		n1.want(403, "GET", url, "")
	}
	a.want(403, "GET", doorPrefix+"n1/log", "") // not even the administrator is the node
	n1.want(405, "POST", doorPrefix+"n1/log", "")
	n1.want(400, "POST", doorPrefix+"n1/append", "{")
}

// A write whose answer was lost is recognised when it comes again; one that
// was made on an older object is a conflict.
func TestDoorAppendsOnce(t *testing.T) {
	c, a := doorCluster(t)
	n1 := c.doorOf(a.url, "n1")
	pod := kinds.Pods.Key("default", "mine")
	r := a.record(podsPath, pod, set("status", "phase", "Running"))
	stale := a.record(podsPath, pod, set("status", "phase", "Failed"))
	r.Cause = []events.Seq{r.Seen}
	code, first := n1.append(r)
	if again, second := n1.append(r); code != 200 || again != 200 || first != second {
		t.Errorf("the same write twice: %d %s, %d %s", code, first, again, second)
	}
	if code, out := n1.append(stale); code != 409 {
		t.Errorf("a stale write: %d %s", code, out)
	}
	stale.Seen = c.last() + 10
	if code, out := n1.append(stale); code != 400 {
		t.Errorf("a write from the future: %d %s", code, out)
	}
	last := c.last()
	for rec, err := range c.log.Follow(t.Context(), last-1) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Key != pod || rec.Source != "nodeagent/n1" || rec.Type == "pod.forged" || !cmp.Equal(rec.Cause, r.Cause) || rec.Decision != nil {
			t.Errorf("what stands in the log: %s %s by %s because of %v", rec.Type, rec.Key, rec.Source, rec.Cause)
		}
		break
	}
}

// TestPresence: a node that has no stream and no fresh Lease is called silent,
// one that has is heard, and nothing is held against a node that happened
// while nobody listened.
func TestPresence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		schema := &kinds.Schema{Cluster: "test"}
		cfg := Default()
		log := memory.New()
		cfg.Log, cfg.Schema, cfg.Logger = log, schema, zerolog.Nop()
		cfg.Mirror = kernel.NewMirror(log, schema, nil)
		node := kinds.Nodes.New()
		node.Name = "n1"
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		body, err := schema.Encode(node)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := log.Append(t.Context(), events.Record{Key: kinds.Nodes.Key("", "n1"), Body: body, Envelope: events.Envelope{ID: "1"}}); err != nil {
			t.Fatal(err)
		}
		s := &Server{cfg: cfg}
		s.out = s.real()
		p := newPresence(s)
		var g errgroup.Group
		g.Go(func() error { return cfg.Mirror.Run(t.Context()) })
		<-cfg.Mirror.Ready()
		g.Go(func() error { return p.run(t.Context()) })
		story := func() (types []string) {
			synctest.Wait()
			rs, err := log.After(1)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rs {
				if r.Source != doorActor || r.Key.Name != "n1" {
					t.Errorf("%s of %s by %s", r.Type, r.Key, r.Source)
				}
				types = append(types, strings.TrimPrefix(r.Type, "node."))
			}
			return types
		}
		expect := func(when string, want ...string) {
			t.Helper()
			if diff := cmp.Diff(want, story()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", when, diff)
			}
		}
		time.Sleep(silentAfter)
		expect("a full timeout after the start")
		leave := p.enter("n1")
		time.Sleep(10 * silentAfter)
		expect("with an open stream")
		second := p.enter("n1")
		leave()
		time.Sleep(2 * silentAfter)
		expect("with another stream")
		second()
		time.Sleep(silentAfter)
		expect("not yet")
		time.Sleep(2 * lookEvery)
		expect("after its streams closed", "silent")
		time.Sleep(10 * silentAfter)
		expect("it is said once", "silent")
		leave = p.enter("n1")
		time.Sleep(2 * lookEvery)
		expect("after it opened one", "silent", "heard")
		leave()
		time.Sleep(silentAfter - lookEvery)
		p.forgive() // as after a stall of our own
		time.Sleep(silentAfter)
		expect("after a stall", "silent", "heard")
		time.Sleep(2 * lookEvery)
		expect("a timeout after the stall", "silent", "heard", "silent")
		n, _ := kinds.Nodes.Get(cfg.Mirror.View(), "", "n1")
		if c := n.Status.Conditions; len(c) != 1 || c[0].Status != corev1.ConditionUnknown || c[0].Reason != reasonSilent {
			t.Errorf("its conditions: %+v", c)
		}
	})
}
