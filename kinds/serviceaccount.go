package kinds

import (
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

// ServiceAccounts are who pods are to the apiserver (k8s.io/api/core/v1.ServiceAccount).
var ServiceAccounts = &Kind[*corev1.ServiceAccount]{
	Info: Info{
		Resource: kernel.Resource{Plural: "serviceaccounts"}, Version: "v1", Kind: "ServiceAccount",
		Singular: "serviceaccount", ShortNames: []string{"sa"}, Streams: []string{"token"},
	},
	New:      func() *corev1.ServiceAccount { return &corev1.ServiceAccount{} },
	NewList:  func() runtime.Object { return &corev1.ServiceAccountList{} },
	Prepare:  prepareServiceAccount,
	Validate: validateServiceAccount,
	Columns: []Column[*corev1.ServiceAccount]{
		nameColumn[*corev1.ServiceAccount](),
		ageColumn[*corev1.ServiceAccount](),
	},
}

// prepareServiceAccount keeps of references to secrets only the names: they
// are in the account's own namespace.
func prepareServiceAccount(now, _ *corev1.ServiceAccount) {
	for i := range now.Secrets {
		now.Secrets[i] = corev1.ObjectReference{Name: now.Secrets[i].Name}
	}
}

// validateServiceAccount checks only metadata: references may point nowhere.
func validateServiceAccount(now, old *corev1.ServiceAccount) field.ErrorList {
	errs := validateObjectMeta(now, true, apivalidation.ValidateServiceAccountName)
	if old != nil {
		errs = append(errs, validateMetaUpdate(now, old)...)
	}
	return errs
}
