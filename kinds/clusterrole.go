package kinds

import (
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

// ClusterRoles are permissions in all namespaces and for what is in none (k8s.io/api/rbac/v1.ClusterRole).
var ClusterRoles = &Kind[*rbacv1.ClusterRole]{
	Info: Info{
		Resource: kernel.Resource{Group: "rbac.authorization.k8s.io", Plural: "clusterroles"}, Version: "v1", Kind: "ClusterRole",
		Singular: "clusterrole", Cluster: true,
	},
	New:      func() *rbacv1.ClusterRole { return &rbacv1.ClusterRole{} },
	NewList:  func() runtime.Object { return &rbacv1.ClusterRoleList{} },
	Validate: validateClusterRole,
	Columns: []Column[*rbacv1.ClusterRole]{
		nameColumn[*rbacv1.ClusterRole](),
		createdColumn[*rbacv1.ClusterRole](),
	},
}

// validateClusterRole checks the rules and what other roles' rules it takes in.
func validateClusterRole(now, old *rbacv1.ClusterRole) field.ErrorList {
	errs := validateObjectMeta(now, false, isRBACName)
	errs = append(errs, validatePolicyRules(now.Rules, false)...)
	if a := now.AggregationRule; a != nil {
		path := field.NewPath("aggregationRule", "clusterRoleSelectors")
		if len(a.ClusterRoleSelectors) == 0 {
			errs = append(errs, field.Required(path, "at least one clusterRoleSelector required if aggregationRule is non-nil"))
		}
		for i := range a.ClusterRoleSelectors {
			s := &a.ClusterRoleSelectors[i]
			opts := metav1validation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: hasInvalidSelectorValue(old)}
			errs = append(errs, metav1validation.ValidateLabelSelector(s, opts, path.Index(i))...)
			if _, err := metav1.LabelSelectorAsSelector(s); err != nil {
				errs = append(errs, field.Invalid(path.Index(i), nil, "invalid label selector."))
			}
		}
	}
	if old != nil {
		errs = append(errs, validateMetaUpdate(now, old)...)
	}
	return errs
}

// hasInvalidSelectorValue tells whether a stored role already selects by a
// value that no label can have: such a role stays writable.
func hasInvalidSelectorValue(old *rbacv1.ClusterRole) bool {
	if old == nil || old.AggregationRule == nil {
		return false
	}
	strict := metav1validation.LabelSelectorValidationOptions{}
	lax := metav1validation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: true}
	for i := range old.AggregationRule.ClusterRoleSelectors {
		s := &old.AggregationRule.ClusterRoleSelectors[i]
		if len(metav1validation.ValidateLabelSelector(s, strict, nil)) > len(metav1validation.ValidateLabelSelector(s, lax, nil)) {
			return true
		}
	}
	return false
}
