package kinds

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/rutterhq/rutter/kernel"
)

// What a Deployment gets that does not say.
const (
	defaultRevisionHistory  = 10  // old ReplicaSets
	defaultProgressDeadline = 600 // seconds
)

// Deployments change their pods bit by bit (k8s.io/api/apps/v1.Deployment).
var Deployments = &Kind[*appsv1.Deployment]{
	Info: Info{
		Resource: kernel.Resource{Group: "apps", Plural: "deployments"}, Version: "v1", Kind: "Deployment",
		Singular: "deployment", ShortNames: []string{"deploy"}, Categories: []string{"all"}, Status: true,
	},
	New:            func() *appsv1.Deployment { return &appsv1.Deployment{} },
	NewList:        func() runtime.Object { return &appsv1.DeploymentList{} },
	Default:        defaultDeployment,
	Prepare:        prepareDeployment,
	Admit:          admitDeployment,
	Validate:       validateDeployment,
	ValidateStatus: validateDeploymentStatus,
	Columns: append(append([]Column[*appsv1.Deployment]{
		nameColumn[*appsv1.Deployment](),
		column("Ready", "How many pods are ready, of how many wanted.", func(d *appsv1.Deployment) any {
			return fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, value(d.Spec.Replicas))
		}),
		column("Up-to-date", doc(appsv1.DeploymentStatus{}, "updatedReplicas"), func(d *appsv1.Deployment) any { return int64(d.Status.UpdatedReplicas) }),
		column("Available", doc(appsv1.DeploymentStatus{}, "availableReplicas"), func(d *appsv1.Deployment) any { return int64(d.Status.AvailableReplicas) }),
		ageColumn[*appsv1.Deployment](),
	}, templateColumns(func(d *appsv1.Deployment) *corev1.PodTemplateSpec { return &d.Spec.Template })...),
		wide(column("Selector", doc(appsv1.DeploymentSpec{}, "selector"), func(d *appsv1.Deployment) any {
			selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
			if err != nil {
				return "<invalid>"
			}
			return selector.String()
		})),
	),
	Type: deploymentType,
	Scale: &Scale[*appsv1.Deployment]{
		Get: func(d *appsv1.Deployment) (int32, int32, string) {
			return value(d.Spec.Replicas), d.Status.Replicas, scaleSelector(d.Spec.Selector)
		},
		Set: func(d *appsv1.Deployment, replicas int32) { d.Spec.Replicas = &replicas },
	},
}

// defaultDeployment asks for one pod and a rolling update by quarters.
func defaultDeployment(d *appsv1.Deployment) {
	s := &d.Spec
	if s.Replicas == nil {
		s.Replicas = pointer[int32](1)
	}
	if s.Strategy.Type == "" {
		s.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
	}
	if s.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		if s.Strategy.RollingUpdate == nil {
			s.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{}
		}
		r := s.Strategy.RollingUpdate
		if r.MaxUnavailable == nil {
			r.MaxUnavailable = pointer(intstr.FromString("25%"))
		}
		if r.MaxSurge == nil {
			r.MaxSurge = pointer(intstr.FromString("25%"))
		}
	} else if r := s.Strategy.RollingUpdate; r != nil {
		// Not allowed with another type, yet read back as zeros.
		r.MaxUnavailable = pointer(value(r.MaxUnavailable))
		r.MaxSurge = pointer(value(r.MaxSurge))
	}
	if s.RevisionHistoryLimit == nil {
		s.RevisionHistoryLimit = pointer[int32](defaultRevisionHistory)
	}
	if s.ProgressDeadlineSeconds == nil {
		s.ProgressDeadlineSeconds = pointer[int32](defaultProgressDeadline)
	}
	defaultPodTemplate(&s.Template)
}

// prepareDeployment drops from the pod template what is not enabled.
func prepareDeployment(now, _ *appsv1.Deployment) { dropGatedPodFields(&now.Spec.Template.Spec) }

// deploymentType names what happened to a Deployment, the most telling first.
func deploymentType(now, old *appsv1.Deployment) string {
	switch {
	case old == nil || Gone(now):
		return ""
	case now.DeletionTimestamp != nil && old.DeletionTimestamp == nil:
		return ""
	case imagesChanged(&now.Spec.Template.Spec, &old.Spec.Template.Spec):
		return "deployment.imagechanged"
	case !equality.Semantic.DeepEqual(now.Spec.Template, old.Spec.Template):
		return "deployment.templatechanged"
	case value(now.Spec.Replicas) != value(old.Spec.Replicas):
		return "deployment.scaled"
	case now.Spec.Paused && !old.Spec.Paused:
		return "deployment.paused"
	case !now.Spec.Paused && old.Spec.Paused:
		return "deployment.resumed"
	case !equality.Semantic.DeepEqual(now.Status, old.Status):
		return "deployment.progressed"
	}
	return ""
}

// imagesChanged tells whether containers of the same name run another image.
func imagesChanged(now, old *corev1.PodSpec) bool {
	images := map[string]string{}
	for i := range old.Containers {
		images[old.Containers[i].Name] = old.Containers[i].Image
	}
	for i := range now.Containers {
		if image, ok := images[now.Containers[i].Name]; ok && image != now.Containers[i].Image {
			return true
		}
	}
	return false
}
