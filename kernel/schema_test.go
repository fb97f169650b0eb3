package kernel_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kernel/kerneltest"
)

type plain = kerneltest.Plain

var configMaps = kerneltest.ConfigMaps

func key(name string) kernel.Key {
	return kernel.Key{Resource: configMaps, Namespace: "default", Name: name}
}

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{"value": value}}
}

// record is an outside event.
func record(t *testing.T, name, value string, expect kernel.Seq) kernel.Record {
	t.Helper()
	body, err := plain{}.Encode(configMap(name, value))
	if err != nil {
		t.Fatal(err)
	}
	return kernel.Record{Key: key(name), Expect: expect, Body: body,
		Envelope: events.Envelope{ID: fmt.Sprint(name, expect), Source: "user:test", Type: "configmap.updated"}}
}

// put appends an outside event.
func put(t *testing.T, log events.Log, name, value string, expect kernel.Seq) kernel.Seq {
	t.Helper()
	seq, err := log.Append(context.Background(), record(t, name, value, expect))
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

// copier keeps "copy-of-NAME" equal to every object NAME.
func copier(now *[]time.Time) kernel.Decider {
	return kernel.Decider{Name: "copier", Reads: []kernel.Resource{configMaps}, Writes: []kernel.Resource{configMaps},
		Wakes: func(_ *kernel.View, e kernel.Event) []kernel.Key {
			if len(e.Key.Name) > 8 && e.Key.Name[:8] == "copy-of-" {
				return nil
			}
			return []kernel.Key{e.Key}
		},
		Decide: func(v *kernel.View, k kernel.Key, at time.Time) kernel.Decision {
			if now != nil {
				*now = append(*now, at)
			}
			o, ok := v.Get(k)
			if !ok {
				return kernel.Decision{}
			}
			c := configMap("copy-of-"+k.Name, o.(*corev1.ConfigMap).Data["value"])
			return kernel.Decision{Changes: []kernel.Change{{Key: key(c.Name), Object: c, Note: "as " + k.Name}}}
		}}
}
