package controllers

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// TestRefusedReplicaSetTellsOnce has the ReplicaSet of a Deployment without
// replicas refused for ever, as in a namespace that is going. What the
// Deployment's status says must not be said anew each time.
func TestRefusedReplicaSetTellsOnce(t *testing.T) {
	t.Parallel()
	schema, now := kinds.Schema{Cluster: "test"}, time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	v, written := kernel.NewView(schema), 0
	put := func(o kernel.Object) {
		p, refused := schema.Make(v, kernel.Write{Key: schema.KeyOf(o), Subresource: kernel.Whole, New: o, By: "test"}, now)
		if refused != nil {
			t.Fatal(refused)
		}
		if p != nil {
			written++
			p.Seq = v.Seq() + 1
			v, _ = v.Fold(p.Record)
		}
	}
	labels := map[string]string{"app": "web"}
	put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	put(&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: appsv1.DeploymentSpec{
		Replicas: new(int32), Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}}},
	}})
	written = 0
	for range 10 {
		now = now.Add(1500 * time.Millisecond)
		for _, c := range decideDeployment(v, kinds.Deployments.Key("default", "web"), now).Changes {
			if d, ok := c.Object.(*appsv1.Deployment); ok {
				put(d)
			}
		}
	}
	if written > 2 {
		t.Errorf("the Deployment was written %d times", written)
	}
}
