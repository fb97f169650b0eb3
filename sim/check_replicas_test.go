package sim

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// onePodMore makes a pod too many once a set that was scaled down has removed
// what was: no more than there once were, so that only who knows what matters by
// now can tell.
func onePodMore(v *kernel.View, k kernel.Key, d kernel.Decision, _ time.Time) kernel.Decision {
	rs, ok := kinds.ReplicaSets.Get(v, k.Namespace, k.Name)
	if !ok || rs.DeletionTimestamp != nil {
		return d
	}
	active := int32(0)
	for _, p := range kinds.Pods.List(v, k.Namespace) {
		if metav1.IsControlledBy(p, rs) && p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded {
			active++
		}
	}
	p := &corev1.Pod{ObjectMeta: *rs.Spec.Template.ObjectMeta.DeepCopy(), Spec: *rs.Spec.Template.Spec.DeepCopy()}
	p.Namespace, p.Name = rs.Namespace, fmt.Sprintf("%s-more%d", rs.Name, rs.Generation)
	p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(rs, kinds.ReplicaSets.GVK())}
	if active == *rs.Spec.Replicas && rs.Status.Replicas > active && v.Entry(kinds.Pods.Key(p.Namespace, p.Name)) == nil {
		d.Changes = append(d.Changes, kinds.Pods.Put(p, "", "one more"))
	}
	return d
}

// TestReplicas tells the checker stories of one ReplicaSet: what it asks for,
// which pods land, decided on what state, which go, and where horizons are.
func TestReplicas(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		story string
		found int // the event; 0: none
	}{
		"as many as are asked for":           {"ask2 a@1 b@1", 0},
		"one too many":                       {"ask2 a@1 b@1 c@1", 4},
		"one in place of another":            {"ask1 a@1 -a b@3", 0},
		"one ends, two come":                 {"ask1 a@1 -a b@3 c@3", 5},
		"scaled down, and one is on its way": {"ask2 a@1 ask1 b@1", 0},
		"scaled down, and one is made":       {"ask3 a@1 b@1 c@1 ask1 -b -c d@7", 8},
		"scaled down, and more are on their way, of which the first is never seen": {
			"ask3 b@1 ask1 c@1 d@3", 0},
		"scaled down and up":                   {"ask3 a@1 b@1 c@1 ask1 -a -b ask2 d@8", 0},
		"scaled up, and it is not seen":        {"ask1 a@1 ask2 b@2", 0},
		"two across a horizon":                 {"ask1 a@1 -a horizon b@3 c@4", 0},
		"across a horizon, one more than that": {"ask1 a@1 -a horizon b@3 c@4 d@4", 7},
		"across a horizon, which is long over": {"ask1 a@1 -a horizon b@3 c@4 -b d@7", 8},
		"across a horizon, and it is active":   {"ask1 a@1 -a horizon b@3 c@5", 6},
	} {
		w := newWorld(Scenario{Seed: 1}, DefaultDeciders())
		r, v, at := newReplicas(), kernel.NewView(w.schema), 0
		var err error
		for i, word := range strings.Fields(c.story) {
			var es []kernel.Event
			if v, es = v.Fold(replicasEvent(v, kernel.Seq(i+1), word)); err == nil {
				if err = r.see(es[0]); err != nil {
					at = i + 1
				}
			}
		}
		if at != c.found {
			t.Errorf("%s: found at %d, not %d: %v", name, at, c.found, err)
		}
	}
}

// replicasEvent is a word of a story as an event.
func replicasEvent(v *kernel.View, seq kernel.Seq, word string) kernel.Record {
	if word == "horizon" {
		r := events.HorizonRecord(1, 0, seq-1, "history", start)
		r.Seq = seq
		return r
	}
	if n, ok := strings.CutPrefix(word, "ask"); ok {
		return kernel.Record{Key: kinds.ReplicaSets.Key("default", "s"), Seq: seq,
			Body: fmt.Appendf(nil, `{"kind":"ReplicaSet","apiVersion":"apps/v1","metadata":{"name":"s","namespace":"default","uid":"s"},"spec":{"replicas":%s}}`, n)}
	}
	if name, ok := strings.CutPrefix(word, "-"); ok {
		gone := v.Entry(kinds.Pods.Key("default", name)).Record
		gone.Seq, gone.Delete = seq, true
		return gone
	}
	name, seen, _ := strings.Cut(word, "@")
	r := kernel.Record{Key: kinds.Pods.Key("default", name), Seq: seq,
		Body: fmt.Appendf(nil, `{"kind":"Pod","apiVersion":"v1","metadata":{"name":%q,"namespace":"default","uid":%q,"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"s","uid":"s","controller":true}]},"spec":{"containers":null},"status":{}}`, name, name)}
	if _, err := fmt.Sscan(seen, &r.Seen); err != nil {
		panic(err)
	}
	return r
}
