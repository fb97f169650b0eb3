package controllers

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kernel/kerneltest"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/scheduler"
)

// world makes a View of the objects.
func world(objects ...kernel.Object) *kernel.View {
	v := kernel.NewView(testSchema)
	for _, o := range objects {
		v = v.With(o)
	}
	return v
}

func configMap(name string, owners ...string) *corev1.ConfigMap {
	c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name)}}
	for _, o := range owners {
		c.OwnerReferences = append(c.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: o, UID: types.UID("uid-" + o), BlockOwnerDeletion: new(true)})
	}
	return c
}

func TestCollect(t *testing.T) {
	waiting := configMap("waiting")
	waiting.DeletionTimestamp, waiting.Finalizers = &metav1.Time{Time: kerneltest.Start}, []string{metav1.FinalizerDeleteDependents}
	renewed := configMap("renewed")
	renewed.UID = "another"
	v := world(configMap("live"), waiting, renewed,
		configMap("kept", "live"), configMap("bereft", "absent"), configMap("half", "live", "absent"),
		configMap("of-renewed", "renewed"), configMap("of-waiting", "waiting"), configMap("between", "waiting", "live"), configMap("free"))
	got := map[string]string{}
	for _, name := range []string{"live", "kept", "bereft", "half", "of-renewed", "of-waiting", "between", "free"} {
		for _, c := range garbage.Decide(v.Only(garbage.Reads), kinds.ConfigMaps.Key("default", name), kerneltest.Start).Changes {
			got[name] = "delete"
			if c.Object != nil {
				got[name] = fmt.Sprintf("%d owners", len(c.Object.GetOwnerReferences()))
			}
		}
	}
	want := map[string]string{"bereft": "delete", "half": "1 owners", "of-renewed": "delete", "of-waiting": "delete", "between": "1 owners"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestLargeService wants slices of at most a hundred endpoints, and a change of
// one pod to touch one slice.
func TestLargeService(t *testing.T) {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "s"},
		Spec: corev1.ServiceSpec{
			ClusterIP: "10.43.0.5", Selector: map[string]string{"app": "web"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt(8080), Protocol: corev1.ProtocolTCP}},
		},
	}
	v := world(s)
	pod := func(i int) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%03d", i), Namespace: "default", UID: types.UID(fmt.Sprint(i)), Labels: s.Spec.Selector}}
		p.Status.PodIP, p.Status.Phase = fmt.Sprintf("10.42.%d.%d", i/250, i%250), corev1.PodRunning
		return p
	}
	for i := range 250 {
		v = v.With(pod(i))
	}
	v, sizes := decideSlices(v)
	if want := "100 100 50"; sizes != want {
		t.Errorf("250 pods: slices of %s, want %s", sizes, want)
	}
	changed := pod(120)
	changed.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	v, sizes = decideSlices(v.With(changed, pod(999)))
	if want := "100 51"; sizes != want {
		t.Errorf("one pod is ready and one is new: slices of %s changed, want %s", sizes, want)
	}
	total := 0
	for _, one := range kinds.EndpointSlices.List(v, "default") {
		total += len(one.Endpoints)
	}
	if total != 251 {
		t.Errorf("%d endpoints in all, want 251", total)
	}
}

// decideSlices folds one decision, and tells the sizes of the slices changed.
func decideSlices(v *kernel.View) (*kernel.View, string) {
	d := endpointSlice.Decide(v.Only(endpointSlice.Reads), kinds.Services.Key("default", "web"), kerneltest.Start)
	var sizes []string
	for _, c := range d.Changes {
		s := c.Object.(*discoveryv1.EndpointSlice)
		sizes = append(sizes, fmt.Sprint(len(s.Endpoints)))
		v = v.With(s)
	}
	return v, strings.Join(sizes, " ")
}

// TestEventBudget counts the events of a Deployment of ten pods from apply to
// ready with nodes that write two events per pod, started and ready, fifty
// milliseconds apart: at most sixty.
func TestEventBudget(t *testing.T) {
	w := kerneltest.NewWorld(t, testSchema, append(Deciders(Default()), scheduler.Decider)...)
	w.Put("apiserver", kinds.Namespaces.Key("", "default"), "", "{}")
	w.Put("apiserver", kinds.Nodes.Key("", "n1"), "", `status: {allocatable: {pods: "110"}, capacity: {pods: "110"}, conditions: [{type: Ready, status: "True"}]}`)
	w.Settle()
	before := len(w.Records())
	w.Put("user:admin", kinds.Deployments.Key("default", "web"), "", `
spec:
  replicas: 10
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "shop:v1"}]}
`)
	w.Wait(0)
	for _, status := range []string{"False", "True"} {
		for _, p := range kinds.Pods.List(w.View(), "default") {
			w.Put("nodeagent/n1", kinds.Pods.Key("default", p.Name), "", fmt.Sprintf(`
status: {phase: Running, podIP: 10.42.0.9, podIPs: [{ip: 10.42.0.9}], conditions: [{type: Ready, status: %q}]}`, status))
			w.Wait(50e6)
		}
	}
	w.Settle()
	d, _ := kinds.Deployments.Get(w.View(), "default", "web")
	if !complete(d, &d.Status) || d.Status.ReadyReplicas != 10 {
		t.Fatalf("the deployment is not ready: %+v", d.Status)
	}
	if n := len(w.Records()) - before; n > 60 {
		t.Errorf("%d events, want at most 60", n)
	} else {
		t.Logf("%d events", n)
	}
}
