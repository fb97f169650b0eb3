package sim

import (
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

const (
	maxDeployments = 3
	maxReplicas    = 6
)

// wish is what the users want of one Deployment.
type wish struct {
	replicas int32
	image    string
}

// users create, scale, change and delete Deployments, and delete pods.
type users struct {
	w    *World
	want []*wish // by the Deployment's number; nil: none
}

func newUsers(w *World) *users { return &users{w: w, want: make([]*wish, maxDeployments)} }

func deploymentName(i int) string { return fmt.Sprintf("web-%d", i) }

// step does one thing that a user might.
func (u *users) step() {
	i := u.w.rng.IntN(maxDeployments)
	d, exists := kinds.Deployments.Get(u.w.view(), namespace, deploymentName(i))
	switch n := u.w.rng.IntN(10); {
	case !exists:
		u.create(i)
	case n < 3:
		u.want[i].replicas = int32(u.w.rng.IntN(maxReplicas + 1))
		u.update(d, i)
	case n < 7:
		u.want[i].image = u.image()
		u.update(d, i)
	case n < 9:
		u.deletePod()
	default:
		u.want[i] = nil
		u.delete(kinds.Deployments.Key(namespace, d.Name), d)
	}
}

func (u *users) image() string { return fmt.Sprintf("shop:v%d", u.w.rng.IntN(3)) }

func (u *users) create(i int) {
	u.want[i] = &wish{int32(u.w.rng.IntN(maxReplicas + 1)), u.image()}
	labels := map[string]string{"app": deploymentName(i)}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: deploymentName(i), Namespace: namespace},
		Spec: appsv1.DeploymentSpec{
			Replicas: &u.want[i].replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: u.want[i].image}}},
			},
			Strategy: u.strategy(),
		},
	}
	d.Spec.Replicas = new(int32)
	*d.Spec.Replicas = u.want[i].replicas
	u.w.create("user:admin", d)
}

func (u *users) strategy() appsv1.DeploymentStrategy {
	if u.w.rng.IntN(4) == 0 {
		return appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	}
	surge, missing := intstr.FromInt(u.w.rng.IntN(3)), intstr.FromInt(u.w.rng.IntN(2))
	if surge.IntVal == 0 {
		missing = intstr.FromInt(1)
	}
	return appsv1.DeploymentStrategy{
		Type:          appsv1.RollingUpdateDeploymentStrategyType,
		RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &missing},
	}
}

// update makes the Deployment what the users want it to be.
func (u *users) update(d *appsv1.Deployment, i int) {
	changed := d.DeepCopy()
	*changed.Spec.Replicas = u.want[i].replicas
	changed.Spec.Template.Spec.Containers[0].Image = u.want[i].image
	u.write(kernel.Write{Key: kinds.Deployments.Key(namespace, d.Name), New: changed})
}

func (u *users) deletePod() {
	if pods := kinds.Pods.List(u.w.view(), namespace); len(pods) > 0 {
		p := pods[u.w.rng.IntN(len(pods))]
		u.delete(kinds.Pods.Key(namespace, p.Name), p)
	}
}

func (u *users) delete(k kernel.Key, old kernel.Object) {
	u.write(kernel.Write{Key: k})
}

func (u *users) write(wr kernel.Write) {
	if err := u.w.write("user:admin", u.w.view(), wr); err != nil && !errors.Is(err, events.ErrConflict) {
		u.w.fail(err)
	}
}

// reached tells what is missing until all is as the users want it, or nil.
func reached(w *World) error {
	v := w.view()
	wanted := map[string]bool{} // uids of ReplicaSets that may have pods
	for i, want := range w.users.want {
		d, exists := kinds.Deployments.Get(v, namespace, deploymentName(i))
		if exists != (want != nil) {
			return fmt.Errorf("deployment %s: it exists: %t, wanted: %t", deploymentName(i), exists, want != nil)
		}
		if want == nil {
			continue
		}
		s := d.Status
		if s.ObservedGeneration != d.Generation || s.Replicas != want.replicas || s.UpdatedReplicas != want.replicas || s.AvailableReplicas != want.replicas {
			return fmt.Errorf("deployment %s: %d replicas of %s are wanted, its status is generation %d of %d, replicas %d, updated %d, available %d",
				d.Name, want.replicas, want.image, s.ObservedGeneration, d.Generation, s.Replicas, s.UpdatedReplicas, s.AvailableReplicas)
		}
		wanted[string(d.UID)] = true
	}
	for _, rs := range kinds.ReplicaSets.List(v, "") {
		ref := metav1.GetControllerOf(rs)
		if ref == nil || !wanted[string(ref.UID)] {
			return fmt.Errorf("replicaset %s: its owner is gone", rs.Name)
		}
		wanted[string(rs.UID)] = true
	}
	if err := reachedPods(w, v, wanted); err != nil {
		return err
	}
	return reachedEndpoints(v)
}

// reachedPods counts the pods, which are to have one of the owners.
func reachedPods(w *World, v *kernel.View, owners map[string]bool) error {
	have := map[string]int32{}
	for _, p := range kinds.Pods.List(v, "") {
		switch ref := metav1.GetControllerOf(p); {
		case ref == nil || !owners[string(ref.UID)]:
			return fmt.Errorf("pod %s: its owner is gone", p.Name)
		case p.DeletionTimestamp != nil:
			return fmt.Errorf("pod %s: it was deleted at %s and is still there", p.Name, p.DeletionTimestamp.Format(time.TimeOnly))
		case p.Spec.NodeName == "" || !isReady(p):
			return fmt.Errorf("pod %s: on node %q, ready: %t", p.Name, p.Spec.NodeName, isReady(p))
		}
		have[p.Labels["app"]+" "+p.Spec.Containers[0].Image]++
	}
	total := int32(0)
	for i, want := range w.users.want {
		if want == nil {
			continue
		}
		total += want.replicas
		if n := have[deploymentName(i)+" "+want.image]; n != want.replicas {
			return fmt.Errorf("deployment %s: %d pods of %s, %d are wanted", deploymentName(i), n, want.image, want.replicas)
		}
	}
	if n := len(kinds.Pods.List(v, "")); int32(n) != total {
		return fmt.Errorf("there are %d pods, %d are wanted", n, total)
	}
	return nil
}

// reachedEndpoints compares what the Services lead to with the ready pods.
func reachedEndpoints(v *kernel.View) error {
	for _, s := range kinds.Services.List(v, "") {
		missing := map[string]bool{}
		for _, p := range kinds.Pods.List(v, s.Namespace) {
			if p.Labels["app"] == s.Name {
				missing[p.Status.PodIP] = true
			}
		}
		for _, slice := range kinds.EndpointSlices.List(v, s.Namespace) {
			if slice.Labels["kubernetes.io/service-name"] != s.Name {
				continue
			}
			for _, e := range slice.Endpoints {
				if !missing[e.Addresses[0]] {
					return fmt.Errorf("service %s: its endpoint %s is no pod's, or is there twice", s.Name, e.Addresses[0])
				}
				delete(missing, e.Addresses[0])
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("service %s: %d pods are not among its endpoints", s.Name, len(missing))
		}
	}
	return nil
}
