package scheduler

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kernel/kerneltest"
	"github.com/rutterhq/rutter/kinds"
)

var schema = &kinds.Schema{Cluster: "11111111-2222-3333-4444-555555555555"}

func TestScenarios(t *testing.T) { kerneltest.Scenarios(t, schema, Decider) }

// world makes a View of the objects.
func world(objects ...kernel.Object) *kernel.View {
	v := kernel.NewView(schema)
	for _, o := range objects {
		v = v.With(o)
	}
	return v
}

func testNode(name string, cpu, memory, pods int64) *corev1.Node {
	list := corev1.ResourceList{
		corev1.ResourceCPU: *resource.NewMilliQuantity(cpu, resource.DecimalSI), corev1.ResourceMemory: *resource.NewQuantity(memory, resource.BinarySI),
		corev1.ResourcePods: *resource.NewQuantity(pods, resource.DecimalSI),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status:     corev1.NodeStatus{Allocatable: list, Capacity: list},
	}
}

func testPod(name string, cpu, memory int64) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)},
		Spec: corev1.PodSpec{
			SchedulerName: corev1.DefaultSchedulerName,
			Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: *resource.NewMilliQuantity(cpu, resource.DecimalSI), corev1.ResourceMemory: *resource.NewQuantity(memory, resource.BinarySI),
			}}}},
		},
	}
}

// TestNeverOvercommits holds for any cluster and any queue: after a decision no
// node has more than it can give, no pod is bound twice or moved, and a pod
// that was left waiting fits on no node.
func TestNeverOvercommits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var objects []kernel.Object
		for i := range rapid.IntRange(0, 6).Draw(t, "nodes") {
			n := testNode(fmt.Sprintf("n%d", i), rapid.Int64Range(0, 4000).Draw(t, "cpu"), rapid.Int64Range(0, 4<<30).Draw(t, "memory"), rapid.Int64Range(0, 8).Draw(t, "pods"))
			n.Spec.Unschedulable = rapid.IntRange(0, 9).Draw(t, "cordoned") == 0
			n.Labels["zone"] = fmt.Sprint(i % 3)
			objects = append(objects, n)
		}
		for i := range rapid.IntRange(0, 40).Draw(t, "pods") {
			p := testPod(fmt.Sprintf("p%d", i), rapid.Int64Range(0, 1500).Draw(t, "cpu"), rapid.Int64Range(0, 1<<30).Draw(t, "memory"))
			p.Labels = map[string]string{"app": rapid.SampledFrom([]string{"a", "b"}).Draw(t, "app")}
			if rapid.IntRange(0, 4).Draw(t, "apart") == 0 {
				p.Spec.Affinity = apart(p.Labels)
			}
			if owner := rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "owner"); owner != "" {
				p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: owner, UID: types.UID(owner), Controller: new(true)}}
				if rapid.Bool().Draw(t, "alike") {
					p.Spec.Containers[0].Resources = testPod("", 700, 512<<20).Spec.Containers[0].Resources
				}
			}
			if rapid.IntRange(0, 6).Draw(t, "port") == 0 {
				p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080, Protocol: corev1.ProtocolTCP}}
			}
			objects = append(objects, p)
		}
		v := world(objects...)
		checkDecision(t, v, Decider.Decide(v.Only(Decider.Reads), queue, kerneltest.Start))
	})
}

// apart keeps pods with the labels on nodes of their own.
func apart(labels map[string]string) *corev1.Affinity {
	return &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
		LabelSelector: &metav1.LabelSelector{MatchLabels: labels}, TopologyKey: corev1.LabelHostname,
	}}}}
}

// checkDecision checks a decision with arithmetic of its own.
func checkDecision(t *rapid.T, v *kernel.View, d kernel.Decision) {
	waited := map[string]bool{}
	after := v
	for _, c := range d.Changes {
		p := c.Object.(*corev1.Pod)
		was, _ := kinds.Pods.Get(v, p.Namespace, p.Name)
		if was.Spec.NodeName != "" {
			t.Fatalf("%s was bound to %s and is bound again to %s", p.Name, was.Spec.NodeName, p.Spec.NodeName)
		}
		waited[p.Name] = p.Spec.NodeName == ""
		after = after.With(p)
	}
	room := map[string]*[3]int64{}
	for _, n := range kinds.Nodes.List(v, "") {
		room[n.Name] = &[3]int64{n.Status.Allocatable.Cpu().MilliValue(), n.Status.Allocatable.Memory().Value(), n.Status.Allocatable.Pods().Value()}
	}
	on := map[string][]*corev1.Pod{}
	for _, p := range kinds.Pods.List(after, "") {
		on[p.Spec.NodeName] = append(on[p.Spec.NodeName], p)
		if r := room[p.Spec.NodeName]; r != nil {
			req := p.Spec.Containers[0].Resources.Requests
			*r = [3]int64{r[0] - req.Cpu().MilliValue(), r[1] - req.Memory().Value(), r[2] - 1}
		}
	}
	for name, r := range room {
		for i := range r {
			if r[i] < 0 && len(on[name]) > 0 {
				t.Fatalf("%s is over-committed: %v is left, of cpu, memory and pods", name, *r)
			}
		}
		for i, p := range on[name] {
			for _, q := range on[name][i+1:] {
				if clash(p, q) {
					t.Fatalf("%s and %s are both on %s, which their ports or affinities forbid", p.Name, q.Name, name)
				}
			}
		}
	}
	for _, p := range on[""] {
		if !waited[p.Name] {
			t.Fatalf("%s was neither bound nor told why not", p.Name)
		}
		for _, n := range kinds.Nodes.List(v, "") {
			req, r := p.Spec.Containers[0].Resources.Requests, room[n.Name]
			fits := !n.Spec.Unschedulable && (req.Cpu().IsZero() || req.Cpu().MilliValue() <= r[0]) && (req.Memory().IsZero() || req.Memory().Value() <= r[1]) && r[2] > 0
			for _, q := range on[n.Name] {
				fits = fits && !clash(p, q)
			}
			if fits {
				t.Fatalf("%s waits, but fits on %s", p.Name, n.Name)
			}
		}
	}
}

// clash tells whether two pods may not be on one node.
func clash(p, q *corev1.Pod) bool {
	if len(p.Spec.Containers[0].Ports) > 0 && len(q.Spec.Containers[0].Ports) > 0 {
		return true
	}
	return p.Labels["app"] == q.Labels["app"] && (p.Spec.Affinity != nil || q.Spec.Affinity != nil)
}

// TestSpreads wants equal pods of one owner evenly on equal nodes.
func TestSpreads(t *testing.T) {
	var objects []kernel.Object
	for i := range 5 {
		objects = append(objects, testNode(fmt.Sprintf("n%d", i), 8000, 16<<30, 110))
	}
	for i := range 50 {
		p := testPod(fmt.Sprintf("p%02d", i), 0, 0)
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "web", Controller: new(true)}}
		objects = append(objects, p)
	}
	v := world(objects...)
	count := map[string]int{}
	for _, c := range Decider.Decide(v.Only(Decider.Reads), queue, kerneltest.Start).Changes {
		count[c.Object.(*corev1.Pod).Spec.NodeName]++
	}
	for name, n := range count {
		if n != 10 {
			t.Errorf("%s got %d of 50 pods, want 10 on each of 5 nodes: %v", name, n, count)
		}
	}
}

// BenchmarkDecide is one decision on 512 new pods in a cluster of 1,000 nodes
// that run 10,000 pods.
func BenchmarkDecide(b *testing.B) {
	var objects []kernel.Object
	for i := range 1000 {
		objects = append(objects, testNode(fmt.Sprintf("n%04d", i), 16000, 64<<30, 110))
	}
	for i := range 10_000 {
		p := testPod(fmt.Sprintf("old%05d", i), 100, 128<<20)
		p.Spec.NodeName = fmt.Sprintf("n%04d", i%1000)
		objects = append(objects, p)
	}
	for i := range maxChanges {
		objects = append(objects, testPod(fmt.Sprintf("new%05d", i), 250, 256<<20))
	}
	v := world(objects...).Only(Decider.Reads)
	now := kerneltest.Start.Add(time.Minute)
	for b.Loop() {
		if d := Decider.Decide(v, queue, now); len(d.Changes) != maxChanges {
			b.Fatalf("%d changes, want %d", len(d.Changes), maxChanges)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/maxChanges, "µs/pod")
}

// BenchmarkDecideIdle is what an event costs when no pod waits.
func BenchmarkDecideIdle(b *testing.B) {
	var objects []kernel.Object
	for i := range 10_000 {
		p := testPod(fmt.Sprintf("old%05d", i), 100, 128<<20)
		p.Spec.NodeName = "n"
		objects = append(objects, p)
	}
	v := world(objects...).Only(Decider.Reads)
	for b.Loop() {
		Decider.Decide(v, queue, kerneltest.Start)
	}
}

// TestSpreadConstraints wants pods as even over zones as they ask for, and no
// pod where they would not be.
func TestSpreadConstraints(t *testing.T) {
	var objects []kernel.Object
	for i := range 4 {
		n := testNode(fmt.Sprintf("n%d", i), 8000, 16<<30, 110)
		n.Labels["zone"] = []string{"a", "a", "a", "b"}[i]
		n.Spec.Unschedulable = i == 3
		objects = append(objects, n)
	}
	for i := range 3 {
		p := testPod(fmt.Sprintf("p%d", i), 0, 0)
		p.Labels = map[string]string{"app": "web"}
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels},
		}}
		objects = append(objects, p)
	}
	v := world(objects...)
	var got []string
	for _, c := range Decider.Decide(v.Only(Decider.Reads), queue, kerneltest.Start).Changes {
		got = append(got, c.Key.Name+" "+c.Object.(*corev1.Pod).Spec.NodeName+" "+c.Note)
	}
	// Zone b counts as empty, and cannot be used: zone a may have one more.
	want := []string{
		"p0 n0 n0 of 4 nodes, 3 fit; n0 700: free 100 balance 100 spread 100 affinity 0 nearby 0 taints 100 images 0" +
			"; n1 700: free 100 balance 100 spread 100 affinity 0 nearby 0 taints 100 images 0" +
			"; n2 700: free 100 balance 100 spread 100 affinity 0 nearby 0 taints 100 images 0; not: 1 node(s) were unschedulable",
		"p1  0/4 nodes are available: 1 node(s) were unschedulable, 3 node(s) didn't match pod topology spread constraints.",
		"p2  0/4 nodes are available: 1 node(s) were unschedulable, 3 node(s) didn't match pod topology spread constraints.",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// BenchmarkDecideStuck is one decision while 5,000 equal pods fit on none of
// 1,000 nodes and have been told so.
func BenchmarkDecideStuck(b *testing.B) {
	var objects []kernel.Object
	for i := range 1000 {
		objects = append(objects, testNode(fmt.Sprintf("n%04d", i), 100, 64<<30, 110))
	}
	for i := range 5000 {
		p := testPod(fmt.Sprintf("p%05d", i), 250, 256<<20)
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web", UID: "web", Controller: new(true)}}
		setScheduled(p, corev1.PodCondition{
			Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/1000 nodes are available: 1000 Insufficient cpu.",
		}, kerneltest.Start)
		objects = append(objects, p)
	}
	v := world(objects...).Only(Decider.Reads)
	for b.Loop() {
		if d := Decider.Decide(v, queue, kerneltest.Start); len(d.Changes) != 0 {
			b.Fatalf("%d changes, want none: %s", len(d.Changes), d.Changes[0].Note)
		}
	}
}
