package nodeagent

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/memory"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// knowing returns an agent of n1, its log of one event, the pod, and the View
// of that.
func knowing(t *testing.T, p *corev1.Pod) (*Agent, *memory.Log, *kernel.View) {
	t.Helper()
	schema, log := &kinds.Schema{Cluster: "test"}, memory.New()
	body, err := schema.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	r := events.Record{Key: kinds.Pods.Key(p.Namespace, p.Name), Body: body, Envelope: events.Envelope{ID: "1"}}
	if _, err := log.Append(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	rs, err := log.After(0)
	if err != nil {
		t.Fatal(err)
	}
	v, _ := kernel.NewView(schema).Fold(rs...)
	return &Agent{cfg: Config{Schema: schema, Log: log}, actor: "nodeagent/n1", now: time.Now}, log, v
}

// What an agent does because of a pod names the pod's event as its cause, so
// that rutter why leads on from there; what it sees of its host names none.
func TestEventsNameTheirCause(t *testing.T) {
	p := &corev1.Pod{}
	p.Name, p.Namespace = "web", "default"
	k := kinds.Pods.Key("default", "web")
	a, log, v := knowing(t, p)
	if err := a.writeDelete(t.Context(), v, &pod{key: k}, Goal{Pod: p, Seq: 1}); err != nil {
		t.Fatal(err)
	}
	n := &corev1.Node{}
	n.Name = "n1"
	if _, err := a.write(t.Context(), v, n, 0, false, "seen"); err != nil {
		t.Fatal(err)
	}
	rs, err := log.After(1)
	if err != nil || len(rs) != 2 {
		t.Fatalf("%v: %d events", err, len(rs))
	}
	if diff := cmp.Diff([]kernel.Seq{1}, rs[0].Cause); diff != "" || rs[0].Expect != 1 || rs[0].Seen != 1 || rs[0].Source != "nodeagent/n1" || !rs[0].Delete {
		t.Errorf("%+v; causes (-want +got):\n%s", rs[0].Envelope, diff)
	}
	if rs[1].Cause != nil || rs[1].Expect != 0 || rs[1].Note != "seen" || rs[1].ID == rs[0].ID || rs[1].ID == "" {
		t.Errorf("%+v", rs[1].Envelope)
	}
}

// A write of an agent that was killed can land when the next one has begun.
// If it says that a pod has failed, the pod stays failed, though the next one
// would run it: controllers have made another by then.
func TestAFinalPhaseStays(t *testing.T) {
	spec := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}}}
	spec.Name, spec.Namespace, spec.UID = "web", "default", "1"
	failed := spec.DeepCopy()
	failed.Status.Phase, failed.Status.Reason = corev1.PodFailed, "OutOfcpu"
	a, log, v := knowing(t, failed)
	p := a.newPod(t.Context(), spec)
	p.world.Admitted = true
	goal := Goal{Pod: failed, Seq: 1}
	again, err := a.reportStatus(t.Context(), v, p, goal, Action{Do: Wait})
	if err != nil || again.IsZero() {
		t.Errorf("%v; it is not looked at again", err)
	}
	if rs, err := log.After(1); err != nil || len(rs) > 0 {
		t.Errorf("%v; written over it: %+v", err, rs)
	}
	if next := Decide(goal, &p.world, again); next.Do != Teardown {
		t.Errorf("what is left of it is not freed: %+v", next)
	}
}
