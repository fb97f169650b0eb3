package kernel_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
)

// plain is a Schema of ConfigMaps without rules, for tests of the kernel alone.
type plain struct{}

var configMaps = kernel.Resource{Plural: "configmaps"}

func key(name string) kernel.Key {
	return kernel.Key{Resource: configMaps, Namespace: "default", Name: name}
}

func (plain) KeyOf(o kernel.Object) kernel.Key {
	return kernel.Key{Resource: configMaps, Namespace: o.GetNamespace(), Name: o.GetName()}
}

func (plain) Encode(o kernel.Object) ([]byte, error) {
	c := o.DeepCopyObject().(*corev1.ConfigMap)
	c.ResourceVersion = ""
	return json.Marshal(c)
}

func (plain) Decode(_ kernel.Key, body []byte) (kernel.Object, error) {
	c := &corev1.ConfigMap{}
	return c, json.Unmarshal(body, c)
}

func (plain) Finish(_ *kernel.View, w kernel.Write, now time.Time) (kernel.Object, *kernel.Refusal) {
	switch {
	case w.Verb == kernel.Delete:
		c := w.Old.DeepCopyObject().(kernel.Object)
		c.SetDeletionTimestamp(&metav1.Time{Time: now})
		return c, nil
	case w.New.(*corev1.ConfigMap).Data["refuse"] != "":
		return nil, apierrors.NewForbidden(schema.GroupResource{}, w.Key.Name, nil)
	case w.Old != nil && equality.Semantic.DeepEqual(w.Old.(*corev1.ConfigMap).Data, w.New.(*corev1.ConfigMap).Data):
		return nil, nil
	}
	return w.New, nil
}

func (plain) TypeOf(old, _ kernel.Object) string {
	if old == nil {
		return "configmap.created"
	}
	return "configmap.updated"
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
