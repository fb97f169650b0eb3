package kinds

import (
	rbacv1 "k8s.io/api/rbac/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

// ClusterRoleBindings give somebody permissions in all namespaces and for what is in none (k8s.io/api/rbac/v1.ClusterRoleBinding).
var ClusterRoleBindings = &Kind[*rbacv1.ClusterRoleBinding]{
	Info: Info{
		Resource: kernel.Resource{Group: "rbac.authorization.k8s.io", Plural: "clusterrolebindings"}, Version: "v1", Kind: "ClusterRoleBinding",
		Singular: "clusterrolebinding", Cluster: true,
	},
	New:      func() *rbacv1.ClusterRoleBinding { return &rbacv1.ClusterRoleBinding{} },
	NewList:  func() runtime.Object { return &rbacv1.ClusterRoleBindingList{} },
	Default:  func(b *rbacv1.ClusterRoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) },
	Validate: validateClusterRoleBinding,
	Columns: append([]Column[*rbacv1.ClusterRoleBinding]{
		nameColumn[*rbacv1.ClusterRoleBinding](),
		column("Role", doc(rbacv1.ClusterRoleBinding{}, "roleRef"), func(b *rbacv1.ClusterRoleBinding) any { return b.RoleRef.Kind + "/" + b.RoleRef.Name }),
		ageColumn[*rbacv1.ClusterRoleBinding](),
	}, subjectColumns(func(b *rbacv1.ClusterRoleBinding) []rbacv1.Subject { return b.Subjects })...),
}

// validateClusterRoleBinding checks the role, which never changes, and who gets it.
func validateClusterRoleBinding(now, old *rbacv1.ClusterRoleBinding) field.ErrorList {
	errs := validateObjectMeta(now, false, isRBACName)
	errs = append(errs, validateRoleRef(&now.RoleRef, "ClusterRole")...)
	errs = append(errs, validateSubjects(now.Subjects, false)...)
	if old != nil {
		errs = append(errs, validateMetaUpdate(now, old)...)
		errs = append(errs, apivalidation.ValidateImmutableField(now.RoleRef, old.RoleRef, field.NewPath("roleRef"))...)
	}
	return errs
}
