package kinds

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

// Namespaces divide the cluster (k8s.io/api/core/v1.Namespace). Beside the
// finalizers of its metadata a namespace has those of its spec, which only the
// finalize subresource changes: "kubernetes" stands for all that is in it.
var Namespaces = &Kind[*corev1.Namespace]{
	Info: Info{
		Resource: kernel.Resource{Plural: "namespaces"}, Version: "v1", Kind: "Namespace",
		Singular: "namespace", ShortNames: []string{"ns"}, Cluster: true, Status: true,
		Streams: []string{"finalize"},
		Verbs:   []string{"create", "delete", "get", "list", "patch", "update", "watch"},
	},
	New:            func() *corev1.Namespace { return &corev1.Namespace{} },
	NewList:        func() runtime.Object { return &corev1.NamespaceList{} },
	Default:        defaultNamespace,
	Prepare:        prepareNamespace,
	Validate:       validateNamespace,
	ValidateStatus: validateNamespaceStatus,
	Columns: []Column[*corev1.Namespace]{
		nameColumn[*corev1.Namespace](),
		column("Status", "The phase of the namespace.", func(n *corev1.Namespace) any { return string(n.Status.Phase) }),
		ageColumn[*corev1.Namespace](),
	},
	Fields: func(n *corev1.Namespace) fields.Set {
		return fields.Set{"status.phase": string(n.Status.Phase), "name": n.Name}
	},
	Type: func(now, old *corev1.Namespace) string {
		switch {
		case old == nil:
			return ""
		case len(now.Spec.Finalizers) < len(old.Spec.Finalizers):
			return "namespace.finalized"
		case now.Status.Phase != old.Status.Phase && now.Status.Phase == corev1.NamespaceTerminating && old.DeletionTimestamp != nil:
			return "namespace.terminating"
		}
		return ""
	},
}

// defaultNamespace gives the namespace a phase and the label that selectors
// match it by. One that only has a generateName yet gets the label when it has
// its name.
func defaultNamespace(n *corev1.Namespace) {
	if n.Status.Phase == "" {
		n.Status.Phase = corev1.NamespaceActive
	}
	if n.Name != "" {
		if n.Labels == nil {
			n.Labels = map[string]string{}
		}
		n.Labels[corev1.LabelMetadataName] = n.Name
	}
}

// prepareNamespace makes a new namespace one that is emptied before it goes,
// which only the finalize subresource may end.
func prepareNamespace(now, old *corev1.Namespace) {
	if old != nil {
		now.Spec.Finalizers = slices.Clone(old.Spec.Finalizers)
		return
	}
	defaultNamespace(now) // again: by now it has its name
	now.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	if !slices.Contains(now.Spec.Finalizers, corev1.FinalizerKubernetes) {
		now.Spec.Finalizers = append(now.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
}

// validateNamespace checks names, also those of the finalizers in the spec.
func validateNamespace(now, old *corev1.Namespace) field.ErrorList {
	errs := validateObjectMeta(now, false, apivalidation.ValidateNamespaceName)
	for _, name := range now.Spec.Finalizers {
		path := field.NewPath("spec", "finalizers")
		errs = append(errs, apivalidation.ValidateFinalizerName(string(name), path)...)
		errs = append(errs, validateFinalizerDomain(string(name), path)...)
	}
	if old != nil {
		errs = append(errs, validateMetaUpdate(now, old)...)
	}
	return errs
}

// validateNamespaceStatus keeps the phase in line with the deletion.
func validateNamespaceStatus(now, old *corev1.Namespace) field.ErrorList {
	errs := validateMetaUpdate(now, old)
	path := field.NewPath("status", "Phase")
	if now.DeletionTimestamp.IsZero() && now.Status.Phase != corev1.NamespaceActive {
		errs = append(errs, field.Invalid(path, now.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty"))
	}
	if !now.DeletionTimestamp.IsZero() && now.Status.Phase != corev1.NamespaceTerminating {
		errs = append(errs, field.Invalid(path, now.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty"))
	}
	return errs
}
