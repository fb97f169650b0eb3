package sim

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/apiserver"
	"github.com/rutterhq/rutter/services/nodeagent"
)

// plant gives the real deciders with one of them spoilt.
func plant(name string, spoil func(kernel.Decider) kernel.Decider) [][]kernel.Decider {
	all := DefaultDeciders()
	for i := range all {
		all[i] = slices.Clone(all[i])
		for j := range all[i] {
			if all[i][j].Name == name {
				all[i][j] = spoil(all[i][j])
			}
		}
	}
	return all
}

// changing spoils what a decider wants.
func changing(spoil func(v *kernel.View, k kernel.Key, d kernel.Decision, now time.Time) kernel.Decision) func(kernel.Decider) kernel.Decider {
	return func(d kernel.Decider) kernel.Decider {
		decide := d.Decide
		d.Decide = func(v *kernel.View, k kernel.Key, now time.Time) kernel.Decision {
			return spoil(v, k, decide(v, k, now), now)
		}
		return d
	}
}

// TestPlantedFaults spoils a decider in many ways. Each is found within a few
// seeds, and by the checker that is there for it.
func TestPlantedFaults(t *testing.T) {
	t.Parallel()
	calls := 0
	for name, c := range map[string]struct {
		deciders [][]kernel.Decider
		want     string // part of what is found
	}{
		"pods have names of their moment": {plant("controllers/replicaset", changing(
			func(v *kernel.View, _ kernel.Key, d kernel.Decision, now time.Time) kernel.Decision {
				for i, c := range d.Changes {
					p, ok := c.Object.(*corev1.Pod)
					if ok && v.Entry(c.Key) == nil {
						p.Name = fmt.Sprintf("%s%d-%d", p.GenerateName, v.Seq(), i)
						d.Changes[i].Key.Name = p.Name
					}
				}
				return d
			})), "active pods, it never asked for more than"},
		"one pod more after each scaling down": {plant("controllers/replicaset", changing(onePodMore)), "active pods, it never asked for more than"},
		"one set too large": {plant("controllers/deployment", changing(
			func(_ *kernel.View, _ kernel.Key, d kernel.Decision, _ time.Time) kernel.Decision {
				for _, c := range d.Changes {
					if rs, ok := c.Object.(*appsv1.ReplicaSet); ok && *rs.Spec.Replicas == 2 {
						*rs.Spec.Replicas = 9
					}
				}
				return d
			})), "pods of at most"},
		"it counts its calls": {plant("scheduler", changing(
			func(_ *kernel.View, _ kernel.Key, d kernel.Decision, _ time.Time) kernel.Decision {
				for i := range d.Changes {
					calls++
					d.Changes[i].Note = fmt.Sprint("call ", calls)
				}
				return d
			})), "does not replay"},
		"it modifies what it sees": {plant("controllers/replicaset", changing(
			func(v *kernel.View, k kernel.Key, d kernel.Decision, _ time.Time) kernel.Decision {
				if rs, ok := kinds.ReplicaSets.Get(v, k.Namespace, k.Name); ok {
					rs.Status.Replicas = 77
				}
				return d
			})), "has modified"},
		"nobody collects garbage": {plant("controllers/garbage", changing(
			func(*kernel.View, kernel.Key, kernel.Decision, time.Time) kernel.Decision {
				return kernel.Decision{}
			})), "its owner is gone"},
		"nobody binds to n2": {plant("scheduler", changing(
			func(_ *kernel.View, _ kernel.Key, d kernel.Decision, _ time.Time) kernel.Decision {
				d.Changes = slices.DeleteFunc(d.Changes, func(c kernel.Change) bool { return c.Object.(*corev1.Pod).Spec.NodeName == "n2" })
				return d
			})), "are wanted"},
		"it never rests": {plant("controllers/noderanges", changing(
			func(v *kernel.View, _ kernel.Key, d kernel.Decision, now time.Time) kernel.Decision {
				n, ok := kinds.Nodes.Get(v, "", "n1")
				if !ok || len(d.Changes) > 0 || n.Spec.PodCIDR == "" {
					return d
				}
				n = n.DeepCopy()
				n.Annotations = map[string]string{"at": now.Format(time.RFC3339)}
				return kernel.Decision{Changes: []kernel.Change{kinds.Nodes.Put(n, "", "")}, Revisit: now.Add(time.Minute)}
			})), "events followed"},
		"two nodes have one range": {plant("controllers/noderanges", changing(
			func(v *kernel.View, _ kernel.Key, d kernel.Decision, _ time.Time) kernel.Decision {
				for _, c := range d.Changes {
					if n, ok := c.Object.(*corev1.Node); ok {
						n.Spec.PodCIDR, n.Spec.PodCIDRs = "10.42.7.0/24", []string{"10.42.7.0/24"}
					}
				}
				return d
			})), "which is that of"},
		"endpoints of pods that are not ready": {plant("controllers/endpointslice", changing(
			func(_ *kernel.View, _ kernel.Key, d kernel.Decision, _ time.Time) kernel.Decision {
				for _, c := range d.Changes {
					if s, ok := c.Object.(*discoveryv1.EndpointSlice); ok {
						for i := range s.Endpoints {
							s.Endpoints[i].Conditions.Ready = &[]bool{true}[0]
						}
					}
				}
				return d
			})), "as a ready pod"},
		"Endpoints of pods that are not ready": {plant("controllers/endpoints", changing(
			func(_ *kernel.View, _ kernel.Key, d kernel.Decision, _ time.Time) kernel.Decision {
				for _, c := range d.Changes {
					if o, ok := c.Object.(*corev1.Endpoints); ok {
						for i, s := range o.Subsets {
							o.Subsets[i].Addresses, o.Subsets[i].NotReadyAddresses = append(s.Addresses, s.NotReadyAddresses...), nil
						}
					}
				}
				return d
			})), "as a ready pod"},
		"Endpoints that lack a pod": {plant("controllers/endpoints", changing(
			func(_ *kernel.View, _ kernel.Key, d kernel.Decision, _ time.Time) kernel.Decision {
				for _, c := range d.Changes {
					if o, ok := c.Object.(*corev1.Endpoints); ok {
						for i, s := range o.Subsets {
							o.Subsets[i].Addresses = s.Addresses[:min(1, len(s.Addresses))]
						}
					}
				}
				return d
			})), "are not among its Endpoints"},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := uint64(1); seed <= 12; seed++ {
				if _, err := RunWith(Generate(seed, steps/4), c.deciders); err != nil {
					if !strings.Contains(err.Error(), c.want) {
						t.Fatalf("found by chance: %v", err)
					}
					t.Log(err)
					return
				}
			}
			t.Error("nobody found it")
		})
	}
}

// TestBindings shows the checker what no decider can be made to do, for the
// rules of a write forbid it.
func TestBindings(t *testing.T) {
	t.Parallel()
	w := newWorld(Scenario{Seed: 1}, DefaultDeciders())
	body := func(uid, node string) []byte {
		return fmt.Appendf(nil, `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","namespace":"default","uid":%q},"spec":{"containers":null,"nodeName":%q},"status":{}}`, uid, node)
	}
	for name, c := range map[string]struct {
		bodies [][]byte
		ok     bool
	}{
		"once":       {[][]byte{body("1", ""), body("1", "n1"), body("1", "n1")}, true},
		"twice":      {[][]byte{body("1", ""), body("1", "n1"), body("1", "n2")}, false},
		"taken away": {[][]byte{body("1", "n1"), body("1", "")}, false},
		"another":    {[][]byte{body("1", "n1"), body("2", "n1")}, false},
		"re-created": {[][]byte{body("1", "n1"), nil, body("2", "n2")}, true},
	} {
		b, v := &bindings{}, kernel.NewView(w.schema)
		var err error
		for i, raw := range c.bodies {
			r := kernel.Record{Key: kinds.Pods.Key("default", "a"), Seq: kernel.Seq(i + 1), Delete: raw == nil, Body: raw}
			if raw == nil {
				r.Body = c.bodies[i-1]
			}
			var es []kernel.Event
			v, es = v.Fold(r)
			if e := b.see(es[0]); e != nil {
				err = e
			}
		}
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWitnesses shows the checkers that are told of more than events what they
// are there for.
func TestWitnesses(t *testing.T) {
	t.Parallel()
	fresh := func() *World {
		w := newWorld(Scenario{Seed: 1}, DefaultDeciders())
		w.populate()
		return w
	}
	namespace := kinds.Namespaces.Key("", "default")
	for name, c := range map[string]struct {
		plant func(w *World)
		want  string
	}{
		"an acknowledged write is another": {func(w *World) {
			w.told.acks.toldUser(namespace, apiserver.Written{Seq: 1, Body: []byte(`{"kind":"Namespace"}`)})
		}, "was acknowledged as event 1"},
		"an acknowledged write never was": {func(w *World) { w.told.acks.toldNode(namespace, "x", 99) }, "was acknowledged as event 99"},
		"a node is shown a Secret": {func(w *World) {
			body := []byte(`{"kind":"Secret","apiVersion":"v1","metadata":{"name":"s","namespace":"default","uid":"1"}}`)
			_, es := w.view().Fold(kernel.Record{Key: kinds.Secrets.Key("default", "s"), Seq: 99, Body: body})
			w.told.door.sees("n1", w.view(), es[0])
		}, "was shown event 99"},
		"a node writes what is not its own": {func(w *World) {
			body := []byte(`{"kind":"Node","apiVersion":"v1","metadata":{"name":"n2","uid":"1"}}`)
			_, es := w.view().Fold(kernel.Record{Key: kinds.Nodes.Key("", "n2"), Seq: 99, Body: body, Envelope: events.Envelope{Source: "nodeagent/n1"}})
			if err := w.told.door.see(es[0]); err != nil {
				w.fail(err)
			}
		}, "node n1 wrote nodes/n2"},
		"a node is shown an older state": {func(w *World) { w.told.door.begins("n1", 4, 5) }, "it had been shown 5"},
		"a node ends what is bound to it": {func(w *World) {
			m := w.machines[0]
			k := kinds.Pods.Key("default", "p")
			r := kernel.Record{Key: k, Seq: w.end() + 1, Body: []byte(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","namespace":"default","uid":"1"},"spec":{"containers":null,"nodeName":"n1"}}`)}
			v, _ := w.view().Fold(r)
			w.views = append(w.views, v)
			w.told.door.ends(m.agents[0], k, "2") // another, of that name
			w.told.door.ends(w.machines[1].agents[0], k, "1")
			if w.broken == nil {
				w.told.door.ends(m.agents[0], k, "1")
			}
		}, "node n1 ends pods/default/p, which is bound to it"},
		"a node runs too many pods": {func(w *World) {
			m := w.machines[0]
			for i := range machinePods + 1 {
				m.pods[kinds.Pods.Key("default", fmt.Sprint(i))] = runningPod(fmt.Sprint(i))
			}
			w.told.room.started(m, m.pods[kinds.Pods.Key("default", "0")])
		}, "it has room for"},
		"two nodes run one pod": {func(w *World) {
			for _, m := range w.machines[:2] {
				m.pods[kinds.Pods.Key("default", "a")] = runningPod("a")
			}
			w.told.room.started(w.machines[0], w.machines[0].pods[kinds.Pods.Key("default", "a")])
		}, "runs on n1 and on n2"},
		"a start from a state lacks something": {func(w *World) {
			begin(w, w.records[1:])
		}, "somebody began at"},
		"a start from a state has another body": {func(w *World) {
			all := slices.Clone(w.records)
			all[0].Body = bytes.Replace(all[0].Body, []byte(`"uid":"`), []byte(`"uid":"0`), 1)
			begin(w, all)
		}, "with another namespaces/"},
		"a start from a state has a tombstone for an object": {func(w *World) {
			all := slices.Clone(w.records)
			all[0].Delete = true
			begin(w, all)
		}, "with another namespaces/"},
		"an object outlives its namespace": {func(w *World) {
			body := []byte(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c","namespace":"gone","uid":"1"}}`)
			r := kernel.Record{Key: kinds.ConfigMaps.Key("gone", "c"), Body: body, Envelope: events.Envelope{ID: "x", Source: "user:x", Time: w.now}}
			if _, err := w.append(r); err != nil {
				t.Fatal(err)
			}
			if err := (&orphans{w: w}).end(); err != nil {
				w.fail(err)
			}
		}, "its namespace is gone"},
		"apiservers do not speak": {func(w *World) {
			for range 20 { // the nodes come
				w.round()
				w.now = w.now.Add(time.Millisecond)
			}
			w.servers[0].boot() // or it would know that there is another, and wait for what that says
			w.servers[0].link.deaf = w.now.Add(time.Hour)
			w.watchPresence()
			w.pass(presenceFor)
		}, "which has been connected to"},
	} {
		w := fresh()
		if w.broken != nil {
			t.Fatal(w.broken)
		}
		if c.plant(w); w.broken == nil || !strings.Contains(w.broken.Error(), c.want) {
			t.Errorf("%s: found %v", name, w.broken)
		}
	}
}

// begin has somebody begin with what it takes to be the log.
func begin(w *World, all []kernel.Record) {
	w.keeper.horizon = 1
	v, _ := kernel.NewView(w.rules).Fold(all...)
	if err := w.told.starts.began("somebody", v); err != nil {
		w.fail(err)
	}
}

func runningPod(uid string) *podState {
	return newPodState(&corev1.Pod{}, nodeagent.World{UID: types.UID(uid), Containers: map[string]*nodeagent.Container{"web": {Phase: nodeagent.Running}}})
}

// TestShrink finds the two steps on which it depends.
func TestShrink(t *testing.T) {
	t.Parallel()
	s := Generate(1, 500)
	s.Steps[100].Verb, s.Steps[400].Verb = "first", "second"
	has := func(s Scenario, verb string) bool {
		return slices.ContainsFunc(s.Steps, func(one Step) bool { return one.Verb == verb })
	}
	small := shrink(s, 10_000, func(s Scenario) bool { return has(s, "first") && has(s, "second") })
	if len(small.Steps) != 2 {
		t.Errorf("it shrank to %d steps", len(small.Steps))
	}
}
