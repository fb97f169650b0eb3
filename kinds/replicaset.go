package kinds

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/rutterhq/rutter/kernel"
)

// ReplicaSets keep a number of equal pods (k8s.io/api/apps/v1.ReplicaSet).
var ReplicaSets = &Kind[*appsv1.ReplicaSet]{
	Info: Info{
		Resource: kernel.Resource{Group: "apps", Plural: "replicasets"}, Version: "v1", Kind: "ReplicaSet",
		Singular: "replicaset", ShortNames: []string{"rs"}, Categories: []string{"all"}, Status: true,
	},
	New:            func() *appsv1.ReplicaSet { return &appsv1.ReplicaSet{} },
	NewList:        func() runtime.Object { return &appsv1.ReplicaSetList{} },
	Default:        defaultReplicaSet,
	Prepare:        prepareReplicaSet,
	Admit:          admitReplicaSet,
	Validate:       validateReplicaSet,
	ValidateStatus: validateReplicaSetStatus,
	Columns: append(append([]Column[*appsv1.ReplicaSet]{
		nameColumn[*appsv1.ReplicaSet](),
		number("Desired", doc(appsv1.ReplicaSetSpec{}, "replicas"), func(r *appsv1.ReplicaSet) int64 { return int64(value(r.Spec.Replicas)) }),
		number("Current", doc(appsv1.ReplicaSetStatus{}, "replicas"), func(r *appsv1.ReplicaSet) int64 { return int64(r.Status.Replicas) }),
		number("Ready", doc(appsv1.ReplicaSetStatus{}, "readyReplicas"), func(r *appsv1.ReplicaSet) int64 { return int64(r.Status.ReadyReplicas) }),
		ageColumn[*appsv1.ReplicaSet](),
	}, templateColumns(func(r *appsv1.ReplicaSet) *corev1.PodTemplateSpec { return &r.Spec.Template })...),
		wide(column("Selector", doc(appsv1.ReplicaSetSpec{}, "selector"), func(r *appsv1.ReplicaSet) any {
			return metav1.FormatLabelSelector(r.Spec.Selector)
		})),
	),
	Fields: func(r *appsv1.ReplicaSet) fields.Set {
		return fields.Set{"status.replicas": strconv.Itoa(int(r.Status.Replicas))}
	},
	Type: func(now, old *appsv1.ReplicaSet) string {
		switch {
		case old == nil || Gone(now):
			return ""
		case value(now.Spec.Replicas) != value(old.Spec.Replicas):
			return "replicaset.scaled"
		case !equality.Semantic.DeepEqual(now.Status, old.Status):
			return "replicaset.progressed"
		}
		return ""
	},
	Scale: &Scale[*appsv1.ReplicaSet]{
		Get: func(r *appsv1.ReplicaSet) (int32, int32, string) {
			return value(r.Spec.Replicas), r.Status.Replicas, scaleSelector(r.Spec.Selector)
		},
		Set: func(r *appsv1.ReplicaSet, replicas int32) { r.Spec.Replicas = &replicas },
	},
}

// defaultReplicaSet asks for one pod.
func defaultReplicaSet(r *appsv1.ReplicaSet) {
	if r.Spec.Replicas == nil {
		r.Spec.Replicas = pointer[int32](1)
	}
	defaultPodTemplate(&r.Spec.Template)
}

// prepareReplicaSet drops from the pod template what is not enabled.
func prepareReplicaSet(now, _ *appsv1.ReplicaSet) { dropGatedPodFields(&now.Spec.Template.Spec) }

// scaleSelector is a selector as the scale subresource writes it: what a list
// of pods takes as labelSelector.
func scaleSelector(s *metav1.LabelSelector) string {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return ""
	}
	return selector.String()
}
