package kinds

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

// Pods are groups of containers that run together on one node
// (k8s.io/api/core/v1.Pod).
var Pods = &Kind[*corev1.Pod]{
	Info: Info{
		Resource: kernel.Resource{Plural: "pods"}, Version: "v1", Kind: "Pod",
		Singular: "pod", ShortNames: []string{"po"}, Categories: []string{"all"},
		Status: true,
		Streams: []string{
			"attach", "binding", "ephemeralcontainers", "eviction", "exec", "log", "portforward", "proxy", "resize",
		},
	},
	New:            func() *corev1.Pod { return &corev1.Pod{} },
	NewList:        func() runtime.Object { return &corev1.PodList{} },
	Default:        defaultPod,
	Prepare:        preparePod,
	Admit:          admitPod,
	Validate:       validatePod,
	ValidateStatus: validatePodStatusWrite,
	Grace:          podGrace,
	Columns:        podColumns,
	Fields:         podFields,
	Type:           podChangeType,
}

// initContainerAnnotations are where init containers stood before they had a
// field. Nothing reads them any more.
var initContainerAnnotations = []string{
	"pod.beta.kubernetes.io/init-containers", "pod.alpha.kubernetes.io/init-containers",
	"pod.beta.kubernetes.io/init-container-statuses", "pod.alpha.kubernetes.io/init-container-statuses",
}

// preparePod takes from a pod what its writer may not say: a new pod begins
// Pending with the quality of service that its resources give it; an update
// cannot unsay what only the cluster knows.
func preparePod(now, old *corev1.Pod) {
	for _, k := range initContainerAnnotations {
		delete(now.Annotations, k)
	}
	if old == nil {
		dropGatedPodFields(&now.Spec)
		applyMatchLabelKeys(now)
		applyAppArmorAnnotations(now)
		defaultPodLevelResources(&now.Spec)
		now.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: podQOS(&now.Spec)}
		if len(now.Spec.SchedulingGates) > 0 {
			now.Status.Conditions = []corev1.PodCondition{{
				Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
				LastTransitionTime: now.CreationTimestamp,
				Message:            "Scheduling is blocked due to non-empty scheduling gates",
			}}
		}
		return
	}
	if now.Spec.Resources == nil && old.Spec.Resources != nil {
		now.Spec.Resources = old.Spec.Resources.DeepCopy()
	}
	dropGatedPodFields(&now.Spec)
	if now.Status.QOSClass == "" {
		now.Status.QOSClass = old.Status.QOSClass
	}
	keepObservedGenerations(&now.Status, &old.Status)
	keepClaimStatuses(&now.Status, &old.Status)
	dropGatedStatusFields(&now.Status)
}

// dropGatedStatusFields takes away what Kubernetes 1.37 does not keep in a
// status by default.
func dropGatedStatusFields(s *corev1.PodStatus) {
	s.VolumeHealth, s.NodeAllocatableResourceClaimStatuses = nil, nil
	for _, statuses := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range statuses {
			for j := range statuses[i].VolumeMounts {
				statuses[i].VolumeMounts[j].VolumeStatus = nil
			}
		}
	}
}

// keepClaimStatuses gives back what was reported of claims of devices, where a
// writer who does not know them has dropped them. An empty list takes them away.
func keepClaimStatuses(now, old *corev1.PodStatus) {
	if now.ResourceClaimStatuses == nil {
		now.ResourceClaimStatuses = slices.Clone(old.ResourceClaimStatuses)
	}
	if now.ExtendedResourceClaimStatus == nil {
		now.ExtendedResourceClaimStatus = old.ExtendedResourceClaimStatus.DeepCopy()
	}
}

// keepObservedGenerations gives back the generations that a writer who does
// not know the field has dropped. Conditions of one type are matched in order.
func keepObservedGenerations(now, old *corev1.PodStatus) {
	if now.ObservedGeneration == 0 {
		now.ObservedGeneration = old.ObservedGeneration
	}
	before := map[corev1.PodConditionType][]int64{}
	for _, c := range old.Conditions {
		before[c.Type] = append(before[c.Type], c.ObservedGeneration)
	}
	for i := range now.Conditions {
		c := &now.Conditions[i]
		seen := before[c.Type]
		if len(seen) == 0 {
			continue
		}
		before[c.Type] = seen[1:]
		if c.ObservedGeneration == 0 {
			c.ObservedGeneration = seen[0]
		}
	}
}

// validatePod checks a create or any update. A write that sets the node of a
// pod that has none is a binding: admitPod says who may do that.
func validatePod(now, old *corev1.Pod) field.ErrorList {
	if old == nil {
		return validatePodCreate(now)
	}
	var errs field.ErrorList
	if node := now.Spec.NodeName; old.Spec.NodeName == "" && node != "" {
		for _, m := range apivalidation.NameIsDNSSubdomain(node, false) {
			errs = append(errs, field.Invalid(field.NewPath("spec", "nodeName"), node, m))
		}
		bound := *old
		bound.Spec.NodeName = node
		old = &bound
	}
	errs = append(errs, validatePodUpdate(now, old)...)
	if !same(now.Status, old.Status) {
		errs = append(errs, validatePodStatus(now, old)...)
	}
	return errs
}

// validatePodStatusWrite checks a write of the status subresource.
func validatePodStatusWrite(now, old *corev1.Pod) field.ErrorList {
	errs := validateMetaUpdate(now, old)
	errs = append(errs, validatePodAnnotationUpdate(now, old, field.NewPath("metadata", "annotations"))...)
	return append(errs, validatePodStatus(now, old)...)
}

// podGrace is for how many seconds a pod stays after its delete: what was
// asked for, else what its spec says; nothing for a pod that no node has or
// that has ended. A negative grace means one second.
func podGrace(p *corev1.Pod, asked *int64) int64 {
	var grace int64
	switch {
	case p.Spec.NodeName == "", podEnded(p):
		return 0
	case asked != nil:
		grace = *asked
	case p.Spec.TerminationGracePeriodSeconds != nil:
		grace = *p.Spec.TerminationGracePeriodSeconds
	}
	if grace < 0 {
		return 1
	}
	return grace
}

func podEnded(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// podFields are what a field selector may ask of pods.
func podFields(p *corev1.Pod) fields.Set {
	return fields.Set{
		"spec.nodeName":            p.Spec.NodeName,
		"spec.restartPolicy":       string(p.Spec.RestartPolicy),
		"spec.schedulerName":       p.Spec.SchedulerName,
		"spec.serviceAccountName":  p.Spec.ServiceAccountName,
		"spec.hostNetwork":         fmt.Sprint(p.Spec.HostNetwork),
		"status.phase":             string(p.Status.Phase),
		"status.podIP":             p.Status.PodIP,
		"status.nominatedNodeName": p.Status.NominatedNodeName,
	}
}

// podChangeType names the most telling thing that a change of a pod says.
func podChangeType(now, old *corev1.Pod) string {
	if old == nil || Gone(now) || (now.DeletionTimestamp != nil && old.DeletionTimestamp == nil) {
		return ""
	}
	if now.Spec.NodeName != "" && old.Spec.NodeName == "" {
		return "pod.bound"
	}
	if now.Status.Phase != old.Status.Phase {
		switch now.Status.Phase {
		case corev1.PodSucceeded:
			return "pod.succeeded"
		case corev1.PodFailed:
			return "pod.failed"
		case corev1.PodRunning:
			return "pod.started"
		}
	}
	if t := containerChangeType(&now.Status, &old.Status); t != "" {
		return t
	}
	ready, wasReady := podCondition(&now.Status, corev1.PodReady), podCondition(&old.Status, corev1.PodReady)
	switch {
	case ready.Status == corev1.ConditionTrue && wasReady.Status != corev1.ConditionTrue:
		return "pod.ready"
	case ready.Status != corev1.ConditionTrue && wasReady.Status == corev1.ConditionTrue:
		return "pod.unready"
	}
	scheduled, was := podCondition(&now.Status, corev1.PodScheduled), podCondition(&old.Status, corev1.PodScheduled)
	if scheduled.Reason == corev1.PodReasonUnschedulable && was != scheduled {
		return "pod.unschedulable"
	}
	return ""
}

// containerChangeType tells whether a container died or came back.
func containerChangeType(now, old *corev1.PodStatus) string {
	restarted := false
	for _, pair := range [][2][]corev1.ContainerStatus{
		{now.InitContainerStatuses, old.InitContainerStatuses}, {now.ContainerStatuses, old.ContainerStatuses},
	} {
		before := map[string]*corev1.ContainerStatus{}
		for i := range pair[1] {
			before[pair[1][i].Name] = &pair[1][i]
		}
		for i := range pair[0] {
			c, was := &pair[0][i], before[pair[0][i].Name]
			if was == nil {
				continue
			}
			if was.State.Running != nil && c.State.Running == nil {
				return "container.died"
			}
			restarted = restarted || (c.RestartCount > was.RestartCount && c.State.Running != nil)
		}
	}
	if restarted {
		return "container.restarted"
	}
	return ""
}

// podCondition returns the condition of the type, or the zero condition.
func podCondition(s *corev1.PodStatus, t corev1.PodConditionType) corev1.PodCondition {
	for _, c := range s.Conditions {
		if c.Type == t {
			return c
		}
	}
	return corev1.PodCondition{}
}
