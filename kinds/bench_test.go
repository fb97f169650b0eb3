package kinds

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/kernel"
)

func benchFinish(b *testing.B, manager string, make func() kernel.Object) {
	s := keyed()
	v := kernel.NewView(s)
	seq := kernel.Seq(0)
	for _, o := range []kernel.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", UID: "ns"}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "default", UID: "sa"}}} {
		body, _ := s.Encode(o)
		seq++
		v, _ = v.Fold(kernel.Record{Key: s.KeyOf(o), Seq: seq, Body: body})
	}
	o := make()
	k := s.KeyOf(o)
	b.ReportAllocs()
	for b.Loop() {
		if _, r := s.Finish(v, kernel.Write{Verb: Create, Key: k, New: o.DeepCopyObject().(kernel.Object), Manager: manager}, testNow); r != nil {
			b.Fatal(r)
		}
	}
}

func BenchmarkFinishPod(b *testing.B) {
	benchFinish(b, "", func() kernel.Object { return testPod("p") })
}
func BenchmarkFinishPodManaged(b *testing.B) {
	benchFinish(b, "m", func() kernel.Object { return testPod("p") })
}
func BenchmarkFinishConfigMap(b *testing.B) {
	benchFinish(b, "", func() kernel.Object { return testConfigMap("p") })
}
func BenchmarkFinishConfigMapManaged(b *testing.B) {
	benchFinish(b, "m", func() kernel.Object { return testConfigMap("p") })
}

func fullPod() *corev1.Pod {
	p := testPod("p")
	p.UID = "11111111-2222-3333-4444-555555555555"
	p.Labels = map[string]string{"app": "x", "pod-template-hash": "abc"}
	Pods.Default(p)
	SetTypeMeta(p)
	return p
}

func BenchmarkEncodePod(b *testing.B) {
	p := fullPod()
	b.ReportAllocs()
	for b.Loop() {
		keyed().Encode(p)
	}
}
func BenchmarkEncodePodV1(b *testing.B) {
	p := fullPod()
	b.ReportAllocs()
	for b.Loop() {
		json.Marshal(p)
	}
}
func BenchmarkDecodePod(b *testing.B) {
	p := fullPod()
	body, _ := keyed().Encode(p)
	b.ReportAllocs()
	for b.Loop() {
		keyed().Decode(Pods.Key("default", "p"), body)
	}
}
func BenchmarkDecodeStrictPod(b *testing.B) {
	p := fullPod()
	body, _ := keyed().Encode(p)
	b.ReportAllocs()
	for b.Loop() {
		DecodeStrict(Pods, body, ContentJSON)
	}
}

// BenchmarkFinishUpdateManaged is an update by a second manager: the library's
// field manager does the work.
func BenchmarkFinishUpdateManaged(b *testing.B) {
	s := keyed()
	v := kernel.NewView(s)
	old := fullPod()
	old.ResourceVersion = "1"
	walked(Pods, "", old, nil, "one", testNow)
	b.ReportAllocs()
	for b.Loop() {
		o := old.DeepCopy()
		o.Labels["app"] = "y"
		if _, r := s.Finish(v, kernel.Write{Verb: Update, Key: s.KeyOf(o), Old: old, New: o, Manager: "two"}, testNow); r != nil {
			b.Fatal(r)
		}
	}
}
