package kinds

import (
	"slices"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

// Leases say who holds something, and until when (k8s.io/api/coordination/v1.Lease).
var Leases = &Kind[*coordinationv1.Lease]{
	Info: Info{
		Resource: kernel.Resource{Group: "coordination.k8s.io", Plural: "leases"}, Version: "v1", Kind: "Lease",
		Singular: "lease",
	},
	New:      func() *coordinationv1.Lease { return &coordinationv1.Lease{} },
	NewList:  func() runtime.Object { return &coordinationv1.LeaseList{} },
	Prepare:  prepareLease,
	Validate: validateLease,
	Columns: []Column[*coordinationv1.Lease]{
		nameColumn[*coordinationv1.Lease](),
		column("Holder", doc(coordinationv1.LeaseSpec{}, "holderIdentity"), func(l *coordinationv1.Lease) any { return value(l.Spec.HolderIdentity) }),
		ageColumn[*coordinationv1.Lease](),
	},
	Type: func(now, old *coordinationv1.Lease) string {
		switch {
		case old == nil || Gone(now) || now.DeletionTimestamp != nil:
			return ""
		case value(now.Spec.HolderIdentity) != value(old.Spec.HolderIdentity):
			return "lease.acquired"
		}
		return "lease.renewed"
	},
}

// leaseStrategies are the ways of choosing a holder that need no domain in
// their name.
var leaseStrategies = []coordinationv1.CoordinatedLeaseStrategy{coordinationv1.OldestEmulationVersion}

// prepareLease drops what chooses among candidates, which Kubernetes has behind
// a gate that is off, unless the lease has it already.
func prepareLease(now, old *coordinationv1.Lease) {
	if old == nil || old.Spec.Strategy == nil {
		now.Spec.Strategy = nil
	}
	if old == nil || old.Spec.PreferredHolder == nil {
		now.Spec.PreferredHolder = nil
	}
}

// validateLease checks durations and the strategy.
func validateLease(now, old *coordinationv1.Lease) field.ErrorList {
	var errs field.ErrorList
	if old == nil {
		errs = apivalidation.ValidateObjectMetaAccessor(now, true, apivalidation.NameIsDNSSubdomain, metadataPath)
	} else {
		errs = apivalidation.ValidateObjectMetaAccessorUpdate(now, old, metadataPath)
	}
	spec, path := &now.Spec, field.NewPath("spec")
	if d := spec.LeaseDurationSeconds; d != nil && *d <= 0 {
		errs = append(errs, field.Invalid(path.Child("leaseDurationSeconds"), *d, "must be greater than 0"))
	}
	if n := spec.LeaseTransitions; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(path.Child("leaseTransitions"), *n, apivalidation.IsNegativeErrorMsg))
	}
	if s := spec.Strategy; s != nil {
		path := path.Child("strategy", "strategy") // twice, as Kubernetes reports it
		if strings.Contains(string(*s), "/") {
			errs = append(errs, invalid(path, *s, validation.IsQualifiedName(string(*s)))...)
		} else if !slices.Contains(leaseStrategies, *s) {
			errs = append(errs, field.NotSupported(path, *s, leaseStrategies))
		}
	}
	if value(spec.PreferredHolder) != "" && value(spec.Strategy) == "" {
		errs = append(errs, field.Forbidden(path.Child("preferredHolder"), "may only be specified if `strategy` is defined"))
	}
	return errs
}
