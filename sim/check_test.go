package sim

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/controllers"
	"github.com/rutterhq/rutter/services/scheduler"
)

// plant gives the real deciders with one of them spoilt.
func plant(name string, spoil func(kernel.Decider) kernel.Decider) [][]kernel.Decider {
	all := [][]kernel.Decider{controllers.Deciders(controllers.Default()), scheduler.Deciders()}
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
		"it never rests": {plant("controllers/noderanges", func(d kernel.Decider) kernel.Decider {
			d.Decide = func(v *kernel.View, _ kernel.Key, now time.Time) kernel.Decision {
				n, ok := kinds.Nodes.Get(v, "", "n1")
				if !ok {
					return kernel.Decision{}
				}
				n = n.DeepCopy()
				n.Annotations = map[string]string{"at": now.Format(time.RFC3339)}
				return kernel.Decision{Changes: []kernel.Change{kinds.Nodes.Put(n, "", "")}, Revisit: now.Add(time.Minute)}
			}
			return d
		}), "events followed"},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := uint64(1); seed <= 12; seed++ {
				o := options(seed)
				o.Steps /= 2
				o.Deciders = c.deciders
				if _, err := Run(o); err != nil {
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
	w := newWorld(Options{Seed: 1})
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
