package kerneltest

import (
	"encoding/json"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
)

// ConfigMaps are the resource that Plain knows.
var ConfigMaps = kernel.Resource{Plural: "configmaps"}

// Plain is a Schema of ConfigMaps nearly without rules, for tests of what does
// not depend on kinds: a write with the data "refuse" is refused.
type Plain struct{}

// KeyOf implements kernel.Schema.
func (Plain) KeyOf(o kernel.Object) kernel.Key {
	return kernel.Key{Resource: ConfigMaps, Namespace: o.GetNamespace(), Name: o.GetName()}
}

// Encode gives the body of a Record.
func (Plain) Encode(o kernel.Object) ([]byte, error) {
	c := o.DeepCopyObject().(*corev1.ConfigMap)
	c.ResourceVersion = ""
	return json.Marshal(c)
}

// Decode implements kernel.Schema.
func (Plain) Decode(_ kernel.Key, body []byte) (kernel.Object, error) {
	c := &corev1.ConfigMap{}
	return c, json.Unmarshal(body, c)
}

// Propose implements kernel.Schema.
func (p Plain) Propose(v *kernel.View, w kernel.Write, now time.Time) (*kernel.Record, *kernel.Refusal) {
	r := &kernel.Record{Key: w.Key, Envelope: events.Envelope{Source: w.By, Type: "configmap.updated", Time: now, Seen: v.Seq()}}
	old, _ := v.Entry(w.Key).Live().(*corev1.ConfigMap)
	if before := v.Entry(w.Key); before != nil {
		r.Expect = before.Seq
	}
	o := w.New
	switch {
	case o == nil && old == nil:
		return nil, nil
	case o == nil:
		o, r.Delete, r.Type = old, true, "configmap.deleted"
	case o.(*corev1.ConfigMap).Data["refuse"] != "":
		return nil, apierrors.NewForbidden(schema.GroupResource{}, w.Key.Name, nil)
	case old == nil:
		r.Type = "configmap.created"
	case equality.Semantic.DeepEqual(old.Data, o.(*corev1.ConfigMap).Data):
		return nil, nil
	}
	body, err := p.Encode(o)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	r.Body = body
	return r, nil
}

// Refused implements kernel.Schema: it tells nobody, and tries again in a
// second.
func (Plain) Refused(_ *kernel.View, _ string, _ kernel.Key, why []*kernel.Refusal, now time.Time) (*kernel.Change, time.Time) {
	for _, r := range why {
		if r != nil {
			return nil, now.Add(time.Second)
		}
	}
	return nil, time.Time{}
}
