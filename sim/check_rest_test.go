package sim

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// TestAtRest spoils a world that has come to rest, one object at a time.
func TestAtRest(t *testing.T) {
	t.Parallel()
	type plant struct {
		spoil func(w *World)
		want  string // part of what is found
	}
	// one changes the first object of a kind, and nil takes it away.
	one := func(r kernel.Resource, change func(kernel.Object)) func(*World) {
		return func(w *World) {
			for e := range w.view().Entries(r, "") {
				rewrite(t, w, e, change)
				return
			}
			t.Errorf("there are no %s", r.Plural)
		}
	}
	stranger := []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "x", UID: "x", Controller: &[]bool{true}[0]}}
	for asked, all := range map[string]map[string]plant{
		"reached": {
			"a wish is not met":      {func(w *World) { w.users.wishes[1].version++ }, "it exists: true, wanted: true"},
			"what is wanted is not":  {one(kinds.Ingresses.Resource, nil), "it exists: false, wanted: true"},
			"a status is old":        {one(kinds.Deployments.Resource, func(o kernel.Object) { o.(*appsv1.Deployment).Status.ObservedGeneration = 0 }), "its status is generation 0"},
			"a status counts others": {one(kinds.Deployments.Resource, func(o kernel.Object) { o.(*appsv1.Deployment).Status.AvailableReplicas = 9 }), "available 9"},
			"a set has no owner":     {one(kinds.ReplicaSets.Resource, func(o kernel.Object) { o.SetOwnerReferences(stranger) }), "its owner is gone"},
			"a pod has no owner":     {one(kinds.Pods.Resource, func(o kernel.Object) { o.SetOwnerReferences(stranger) }), "its owner is gone"},
			"a pod is going":         {one(kinds.Pods.Resource, func(o kernel.Object) { o.SetDeletionTimestamp(&metav1.Time{Time: start}) }), "and is still there"},
			"a pod is not ready":     {one(kinds.Pods.Resource, func(o kernel.Object) { o.(*corev1.Pod).Status.Conditions = nil }), "ready: false"},
			"a pod is on no node":    {one(kinds.Pods.Resource, func(o kernel.Object) { o.(*corev1.Pod).Spec.NodeName = "" }), `on node ""`},
			"a pod too few":          {one(kinds.Pods.Resource, nil), "1 pods, 2 are wanted"},
			"a pod failed":           {one(kinds.Pods.Resource, func(o kernel.Object) { o.(*corev1.Pod).Status.Phase = corev1.PodFailed }), "1 pods, 2 are wanted"},
			"a pod too many": {func(w *World) {
				p := kinds.Pods.List(w.view(), "")[0].DeepCopy()
				p.Name, p.UID, p.Spec.Containers[0].Image = "more", "more", "shop:v7"
				write(t, w, kernel.Record{Key: kinds.Pods.Key(p.Namespace, p.Name)}, p)
			}, "pods that nobody wants"},
			"a node is not ready":  {one(kinds.Nodes.Resource, func(o kernel.Object) { o.(*corev1.Node).Status.Conditions = nil }), "is not ready"},
			"a node has a taint":   {one(kinds.Nodes.Resource, func(o kernel.Object) { o.(*corev1.Node).Spec.Taints = []corev1.Taint{{Key: "x"}} }), "has taints"},
			"a slice lacks a pod":  {one(kinds.EndpointSlices.Resource, func(o kernel.Object) { s := o.(*discoveryv1.EndpointSlice); s.Endpoints = s.Endpoints[1:] }), "1 pods are not among its EndpointSlices"},
			"a slice names no pod": {one(kinds.EndpointSlices.Resource, func(o kernel.Object) { o.(*discoveryv1.EndpointSlice).Endpoints[0].Addresses[0] = "10.0.0.1" }), "the address 10.0.0.1 in its EndpointSlices is no pod's"},
			"endpoints lack a pod": {one(kinds.Endpoints.Resource, func(o kernel.Object) { s := o.(*corev1.Endpoints).Subsets; s[0].Addresses = s[0].Addresses[1:] }), "1 pods are not among its Endpoints"},
			"endpoints are gone":   {one(kinds.Endpoints.Resource, nil), "2 pods are not among its Endpoints"},
		},
		"orphans": {
			"a pod outlives its owner": {one(kinds.Pods.Resource, func(o kernel.Object) { o.SetOwnerReferences(stranger) }), "its owner is gone"},
			"a service's claim":        {one(kinds.Services.Resource, func(o kernel.Object) { o.(*corev1.Service).Spec.ClusterIP = "10.43.0.99" }), "does not have it"},
			"a node's claim":           {one(kinds.Nodes.Resource, func(o kernel.Object) { o.(*corev1.Node).Spec.PodCIDR = "10.42.99.0/24" }), "does not have it"},
		},
	} {
		for name, c := range all {
			w := rested(t)
			c.spoil(w)
			w.now = w.now.Add(time.Hour)
			err := reached(w)
			if asked == "orphans" {
				err = (&orphans{w: w}).end()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, %s: found %v", asked, name, err)
			}
		}
	}
}

// rested is a world without faults, in which all is as the users want it.
func rested(t *testing.T) *World {
	w := newWorld(Scenario{Seed: 1, Calm: true}, DefaultDeciders())
	w.populate()
	for _, one := range w.users.wishes {
		if one.key.Name == "web-0" || one.key.Name == "web" {
			one.wanted, one.replicas, one.image, one.version = true, 2, "shop:v1", 1
		}
	}
	if err := w.rest(w.now.Add(settleWithin), true); err != nil {
		t.Fatal(err)
	}
	return w
}

// rewrite writes an object past all rules, or its tombstone.
func rewrite(t *testing.T, w *World, e *kernel.Entry, change func(kernel.Object)) {
	o := e.Object().DeepCopyObject().(kernel.Object)
	if change != nil {
		change(o)
	}
	write(t, w, kernel.Record{Key: e.Key, Expect: e.Seq, Delete: change == nil}, o)
}

// write is of nobody that there is. What the checkers of events say to it does
// not matter.
func write(t *testing.T, w *World, r kernel.Record, o kernel.Object) {
	body, err := w.schema.Encode(o)
	if err != nil {
		t.Fatal(err)
	}
	r.Body, r.Envelope = body, events.Envelope{ID: fmt.Sprint("spoilt", w.end()), Source: "user:x", Seen: w.end(), Time: w.now}
	if _, err := w.append(r); err != nil {
		t.Fatal(err)
	}
}
