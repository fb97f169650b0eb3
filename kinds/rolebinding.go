package kinds

import (
	rbacv1 "k8s.io/api/rbac/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

// RoleBindings give somebody permissions in one namespace (k8s.io/api/rbac/v1.RoleBinding).
var RoleBindings = &Kind[*rbacv1.RoleBinding]{
	Info: Info{
		Resource: kernel.Resource{Group: "rbac.authorization.k8s.io", Plural: "rolebindings"}, Version: "v1", Kind: "RoleBinding",
		Singular: "rolebinding",
	},
	New:      func() *rbacv1.RoleBinding { return &rbacv1.RoleBinding{} },
	NewList:  func() runtime.Object { return &rbacv1.RoleBindingList{} },
	Default:  func(b *rbacv1.RoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) },
	Validate: validateRoleBinding,
	Columns: append([]Column[*rbacv1.RoleBinding]{
		nameColumn[*rbacv1.RoleBinding](),
		column("Role", doc(rbacv1.RoleBinding{}, "roleRef"), func(b *rbacv1.RoleBinding) any { return b.RoleRef.Kind + "/" + b.RoleRef.Name }),
		ageColumn[*rbacv1.RoleBinding](),
	}, subjectColumns(func(b *rbacv1.RoleBinding) []rbacv1.Subject { return b.Subjects })...),
}

// validateRoleBinding checks the role, which never changes, and who gets it.
func validateRoleBinding(now, old *rbacv1.RoleBinding) field.ErrorList {
	errs := validateObjectMeta(now, true, isRBACName)
	errs = append(errs, validateRoleRef(&now.RoleRef, "Role", "ClusterRole")...)
	errs = append(errs, validateSubjects(now.Subjects, true)...)
	if old != nil {
		errs = append(errs, validateMetaUpdate(now, old)...)
		errs = append(errs, apivalidation.ValidateImmutableField(now.RoleRef, old.RoleRef, field.NewPath("roleRef"))...)
	}
	return errs
}
