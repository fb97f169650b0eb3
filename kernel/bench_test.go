package kernel_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/events/logtest"
	"github.com/rutterhq/rutter/kernel"
)

// BenchmarkFold folds events of 1.5 KB each into a View of 10,000 objects, as
// a Mirror does while it reads history (256 at once) and as it does with what
// happens now (one at a time).
func BenchmarkFold(b *testing.B) {
	const objects = 10_000
	body := []byte(`{"metadata":{"name":"x"},"data":{"value":"` + strings.Repeat("x", 1450) + `"}}`)
	for _, batch := range []int{1, 256} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			var seq kernel.Seq
			next := func(n int) []kernel.Record {
				rs := make([]kernel.Record, n)
				for i := range rs {
					seq++
					rs[i] = kernel.Record{Key: key(fmt.Sprintf("o%05d", uint64(seq)*7919%objects)), Seq: seq, Body: body}
				}
				return rs
			}
			v, _ := kernel.NewView(plain{}).Fold(next(objects)...)
			b.ReportAllocs()
			peak := logtest.PeakMemory(b)
			for b.Loop() {
				v, _ = v.Fold(next(batch)...)
			}
			b.ReportMetric(peak(), "MiB-peak")
			b.ReportMetric(float64(b.N)*float64(batch)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// TestOwned holds Owned to what the objects say.
func TestOwned(t *testing.T) {
	free, owned := configMap("free", "ownerReferences"), configMap("owned", "")
	owned.OwnerReferences = []metav1.OwnerReference{{Kind: "Pod", Name: "p", UID: "1"}}
	v := kernel.NewView(plain{})
	for i, o := range []*corev1.ConfigMap{free, owned} {
		body, err := plain{}.Encode(o)
		if err != nil {
			t.Fatal(err)
		}
		v, _ = v.Fold(kernel.Record{Key: plain{}.KeyOf(o), Seq: kernel.Seq(i + 1), Body: body})
	}
	for what, v := range map[string]*kernel.View{"folded": v, "assumed": v.With(free, owned)} {
		if v.Entry(key("free")).Owned || !v.Entry(key("owned")).Owned {
			t.Errorf("%s: Owned of what is free, and of what is owned: %v, %v", what, v.Entry(key("free")).Owned, v.Entry(key("owned")).Owned)
		}
	}
}
