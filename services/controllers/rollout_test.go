package controllers

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kernel/kerneltest"
	"github.com/rutterhq/rutter/kinds"
)

// TestRollouts holds for any strategy, any order of new templates and any time
// at which pods become ready, at every single event: there are never more pods
// than replicas and surge, and once all were available never fewer available
// ones than replicas without maxUnavailable. In the end all pods are of the
// last template.
func TestRollouts(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRun(t, rt)
		r.image(0)
		r.finish()
		r.started = true
		for range rapid.IntRange(1, 8).Draw(rt, "steps") {
			switch rapid.IntRange(0, 2).Draw(rt, "step") {
			case 0:
				r.image(rapid.IntRange(0, 3).Draw(rt, "image"))
			case 1:
				r.ready(rapid.IntRange(1, 4).Draw(rt, "pods"))
			case 2:
				r.world.Wait(time.Duration(rapid.IntRange(1, 300).Draw(rt, "ms")) * time.Millisecond)
			}
			r.check()
		}
		r.finish()
		for _, p := range kinds.Pods.List(r.world.View(), "default") {
			if want := fmt.Sprintf("shop:v%d", r.last); p.Spec.Containers[0].Image != want {
				rt.Fatalf("%s has the image %s at the end, want %s", p.Name, p.Spec.Containers[0].Image, want)
			}
		}
	})
}

// run is one Deployment's life.
type run struct {
	t               *rapid.T
	world           *kerneltest.World
	view            *kernel.View // as far as it was checked
	checked         int          // records
	replicas        int
	surge, missing  int // as the strategy says, in pods
	surgeOf, lackOf intstr.IntOrString
	last            int
	started         bool // all pods were available once
}

func newRun(t *testing.T, rt *rapid.T) *run {
	r := &run{t: rt, world: kerneltest.NewWorld(t, testSchema, deployment, replicaSet, serviceAccount), view: kernel.NewView(testSchema)}
	r.replicas = rapid.IntRange(1, 5).Draw(rt, "replicas")
	if rapid.Bool().Draw(rt, "percent") {
		s, m := rapid.IntRange(0, 100).Draw(rt, "surge"), rapid.IntRange(0, 100).Draw(rt, "missing")
		r.surge, r.missing = (s*r.replicas+99)/100, m*r.replicas/100
		r.surgeOf, r.lackOf = intstr.FromString(fmt.Sprintf("%d%%", s)), intstr.FromString(fmt.Sprintf("%d%%", m))
	} else {
		r.surge, r.missing = rapid.IntRange(0, 4).Draw(rt, "surge"), rapid.IntRange(0, 4).Draw(rt, "missing")
		r.surgeOf, r.lackOf = intstr.FromInt(r.surge), intstr.FromInt(r.missing)
	}
	if r.surgeOf.IntVal == 0 && r.lackOf.IntVal == 0 && (r.surgeOf.StrVal == "" || r.surgeOf.StrVal == "0%") && (r.lackOf.StrVal == "" || r.lackOf.StrVal == "0%") {
		r.missing, r.lackOf = 1, intstr.FromInt(1) // both zero is invalid
	}
	if r.surge == 0 && r.missing == 0 {
		r.missing = 1
	}
	r.world.Put("apiserver", kinds.Namespaces.Key("", "default"), "", "{}")
	r.world.Settle()
	return r
}

// image gives the Deployment another template.
func (r *run) image(n int) {
	r.last = n
	r.world.Put("user:admin", kinds.Deployments.Key("default", "web"), "", fmt.Sprintf(`
spec:
  replicas: %d
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxSurge: %s, maxUnavailable: %s}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "shop:v%d"}]}
`, r.replicas, r.surgeOf.String(), r.lackOf.String(), n))
	r.world.Wait(0)
}

// ready makes at most n pods ready that are not, and returns whether it did.
func (r *run) ready(n int) bool {
	did := false
	for _, p := range kinds.Pods.List(r.world.View(), "default") {
		if ready(p) || n == 0 {
			continue
		}
		n--
		did = true
		r.world.Put("nodeagent/n1", kinds.Pods.Key("default", p.Name), "", fmt.Sprintf(`
status:
  phase: Running
  conditions: [{type: Ready, status: "True", lastTransitionTime: %q}]
`, r.world.Now.Format(time.RFC3339)))
	}
	r.world.Wait(0)
	return did
}

// finish lets every pod become ready until nothing changes.
func (r *run) finish() {
	for range 100 {
		r.world.Settle()
		if !r.ready(100) {
			r.check()
			if d, _ := kinds.Deployments.Get(r.world.View(), "default", "web"); !complete(d, &d.Status) {
				r.t.Fatalf("the rollout does not end: %+v", d.Status)
			}
			return
		}
	}
	r.t.Fatalf("the rollout goes on and on")
}

// check looks at the state after every event since the last check.
func (r *run) check() {
	records := r.world.Records()
	for _, rec := range records[r.checked:] {
		r.view, _ = r.view.Fold(rec)
		total, available := 0, 0
		for _, p := range kinds.Pods.List(r.view, "default") {
			if active(p) {
				total++
				if ready(p) {
					available++
				}
			}
		}
		if total > r.replicas+r.surge {
			r.t.Fatalf("event %d (%s %s): there are %d pods, of %d replicas and %d surge", rec.Seq, rec.Type, rec.Key, total, r.replicas, r.surge)
		}
		if r.started && available < r.replicas-r.missing {
			r.t.Fatalf("event %d (%s %s): %d pods are available, of %d replicas of which %d may be missing", rec.Seq, rec.Type, rec.Key, available, r.replicas, r.missing)
		}
	}
	r.checked = len(records)
}

func TestPortion(t *testing.T) {
	for _, c := range []struct {
		of    intstr.IntOrString
		whole int32
		up    bool
		want  int32
	}{
		{intstr.FromString("25%"), 10, true, 3}, {intstr.FromString("25%"), 10, false, 2}, {intstr.FromString("0%"), 10, true, 0},
		{intstr.FromString("100%"), 7, false, 7}, {intstr.FromInt(3), 10, true, 3}, {intstr.FromString("1%"), 1, true, 1},
	} {
		if got := portion(&c.of, c.whole, c.up); got != c.want {
			t.Errorf("%s of %d, up %v: %d, want %d", c.of.String(), c.whole, c.up, got, c.want)
		}
	}
}

// TestSharesPointOneWay: sets that were scaled for different sizes of their
// Deployment do not grow while its pods must become fewer, nor the other way.
func TestSharesPointOneWay(t *testing.T) {
	set := func(name string, replicas int32, max string) *appsv1.ReplicaSet {
		return &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{maxReplicasAnnotation: max}},
			Spec: appsv1.ReplicaSetSpec{Replicas: &replicas}}
	}
	for _, c := range []struct {
		replicas             int32
		older, newer         int32 // what the sets have
		forOlder             string
		wantOlder, wantNewer int32
	}{
		{10, 6, 8, "5", 6, 4},  // 14 must become 10; the older's share of 10 would be 12
		{10, 3, 4, "20", 3, 7}, // 7 must become 10; the older's share would be 2
		{5, 8, 2, "10", 4, 1},  // the same size for both: half of each
	} {
		d := &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: &c.replicas}}
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: new(intstr.FromInt(0)), MaxUnavailable: new(intstr.FromInt(1))}
		older, newer := set("older", c.older, c.forOlder), set("newer", c.newer, "10")
		r := &rollout{d: d, was: d, setNotes: map[string]string{}}
		r.shareOut([]*appsv1.ReplicaSet{older, newer})
		if *older.Spec.Replicas != c.wantOlder || *newer.Spec.Replicas != c.wantNewer {
			t.Errorf("%d and %d of %d became %d and %d, want %d and %d", c.older, c.newer, c.replicas,
				*older.Spec.Replicas, *newer.Spec.Replicas, c.wantOlder, c.wantNewer)
		}
	}
}

func TestRankOrder(t *testing.T) {
	now := kerneltest.Start
	pods := []*corev1.Pod{
		{Spec: corev1.PodSpec{NodeName: "n"}, Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}},
		{Spec: corev1.PodSpec{NodeName: "n"}, Status: corev1.PodStatus{Phase: corev1.PodRunning}},
		{Spec: corev1.PodSpec{NodeName: "n"}, Status: corev1.PodStatus{Phase: corev1.PodPending}},
		{Status: corev1.PodStatus{Phase: corev1.PodPending}},
	}
	for i := 1; i < len(pods); i++ {
		if a, b := (rank{pods[i], 0, now}), (rank{pods[i-1], 0, now}); compareRanks(a, b) >= 0 {
			t.Errorf("pod %d is not deleted before pod %d", i, i-1)
		}
	}
	if a, b := (rank{pods[0], 2, now}), (rank{pods[0], 1, now}); compareRanks(a, b) >= 0 {
		t.Error("a pod with more neighbors is not deleted first")
	}
}

// benchmarkPods is how many pods the benchmarks' cluster runs.
const benchmarkPods = 10_000

// BenchmarkReplicaSet is one decision on one of ten ReplicaSets of a namespace
// with 10,000 pods: what a pod's event costs there.
func BenchmarkReplicaSet(b *testing.B) {
	v := kernel.NewView(testSchema)
	for i := range 10 {
		rs := &appsv1.ReplicaSet{Spec: appsv1.ReplicaSetSpec{Replicas: new(int32(benchmarkPods / 10))}}
		rs.Name, rs.Namespace, rs.UID = fmt.Sprintf("rs%d", i), "default", types.UID(fmt.Sprint(i))
		rs.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprint(i)}}
		v = v.With(rs)
	}
	for i := range benchmarkPods {
		p := &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning}}
		p.Name, p.Namespace = fmt.Sprintf("p%05d", i), "default"
		p.Labels = map[string]string{"app": fmt.Sprint(i % 10)}
		p.OwnerReferences = []metav1.OwnerReference{{UID: types.UID(fmt.Sprint(i % 10)), Controller: new(true)}}
		v = v.With(p)
	}
	v = v.Only(replicaSet.Reads)
	for b.Loop() {
		replicaSet.Decide(v, kinds.ReplicaSets.Key("default", "rs3"), kerneltest.Start)
	}
}
