package kinds

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

// Roles are permissions in one namespace (k8s.io/api/rbac/v1.Role).
var Roles = &Kind[*rbacv1.Role]{
	Info: Info{
		Resource: kernel.Resource{Group: "rbac.authorization.k8s.io", Plural: "roles"}, Version: "v1", Kind: "Role",
		Singular: "role",
	},
	New:      func() *rbacv1.Role { return &rbacv1.Role{} },
	NewList:  func() runtime.Object { return &rbacv1.RoleList{} },
	Validate: validateRole,
	Columns: []Column[*rbacv1.Role]{
		nameColumn[*rbacv1.Role](),
		createdColumn[*rbacv1.Role](),
	},
}

// validateRole checks the rules.
func validateRole(now, old *rbacv1.Role) field.ErrorList {
	errs := validateObjectMeta(now, true, isRBACName)
	errs = append(errs, validatePolicyRules(now.Rules, true)...)
	if old != nil {
		errs = append(errs, validateMetaUpdate(now, old)...)
	}
	return errs
}
