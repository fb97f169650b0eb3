package fieldset

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// That a Walker equals the library is tested where the kinds are; here stands
// what it does, to read.

func walker(t *testing.T, o any) *Walker {
	t.Helper()
	w, err := For(corev1.SchemeGroupVersion, o)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func pod() *corev1.Pod {
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", Labels: map[string]string{"b": "1", "a": "2"}, Finalizers: []string{"x/y"}},
		Spec: corev1.PodSpec{
			NodeSelector: map[string]string{"a": "b"}, // set as a whole
			Containers: []corev1.Container{{
				Name: "c", Ports: []corev1.ContainerPort{{ContainerPort: 80}},
				ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(80)}}},
			}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
}

func TestAppend(t *testing.T) {
	raw, ok := walker(t, pod()).Append(nil, pod(), "status")
	want := `{"f:metadata":{"f:finalizers":{".":{},"v:\"x/y\"":{}},"f:labels":{".":{},"f:a":{},"f:b":{}}},` +
		`"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:name":{},` +
		`"f:ports":{".":{},"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{}}},` +
		`"f:readinessProbe":{".":{},"f:tcpSocket":{".":{},"f:port":{}}},"f:resources":{}}},"f:nodeSelector":{}}}`
	if !ok || string(raw) != want {
		t.Errorf("got  %s, %v\nwant %s", raw, ok, want)
	}
	empty := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c", UID: "u"}}
	if raw, ok := walker(t, empty).Append(nil, empty, ""); !ok || string(raw) != "{}" {
		t.Errorf("an object that sets nothing gives %s, %v", raw, ok)
	}
}

func TestAppendRefuses(t *testing.T) {
	twice := pod()
	twice.Spec.Containers = append(twice.Spec.Containers, twice.Spec.Containers[0])
	escaped := pod()
	escaped.Labels["<"] = ""
	for name, o := range map[string]*corev1.Pod{"twice": twice, "escaped": escaped} {
		if raw, ok := walker(t, o).Append(nil, o, "status"); ok {
			t.Errorf("%s: wrote %s", name, raw)
		}
	}
}

func TestCompare(t *testing.T) {
	old, o := pod(), pod()
	o.Labels = map[string]string{"a": "3", "c": "1"}
	o.Finalizers = nil
	o.Spec.NodeSelector["a"] = "c"
	o.Spec.Containers[0].Ports = nil
	o.Status.Phase = corev1.PodFailed
	o.Generation = 2
	changed, removed, ok := walker(t, o).Compare(old, o, Skip{Top: "status"})
	if !ok {
		t.Fatal("refused")
	}
	for name, c := range map[string]struct {
		got  interface{ ToJSON() ([]byte, error) }
		want string
	}{
		"changed": {changed, `{"f:metadata":{"f:labels":{"f:a":{},"f:c":{}}},"f:spec":{"f:nodeSelector":{}}}`},
		"removed": {removed, `{"f:metadata":{"f:finalizers":{".":{},"v:\"x/y\"":{}},"f:labels":{"f:b":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":` +
			`{"f:ports":{".":{},"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{}}}}}}}`},
	} {
		if raw, _ := c.got.ToJSON(); string(raw) != c.want {
			t.Errorf("%s\ngot  %s\nwant %s", name, raw, c.want)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	w, err := For(corev1.SchemeGroupVersion, pod())
	if err != nil {
		b.Fatal(err)
	}
	p := pod()
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		w.Append(buf[:0], p, "status")
	}
}

func BenchmarkCompare(b *testing.B) {
	w, err := For(corev1.SchemeGroupVersion, pod())
	if err != nil {
		b.Fatal(err)
	}
	old, o := pod(), pod()
	o.Labels["a"] = "3"
	b.ReportAllocs()
	for b.Loop() {
		w.Compare(old, o, Skip{Top: "status"})
	}
}
