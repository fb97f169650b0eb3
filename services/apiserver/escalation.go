package apiserver

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/rutterhq/rutter/kernel"
)

// mayGrant keeps users from giving away rights that they do not have: a role's
// rules must be covered by the writer's own, or the writer may "escalate"
// roles; a binding's role must be, or the writer may "bind" it. u is nil for
// the server itself; old is nil for a create.
func (s *Server) mayGrant(ctx context.Context, u *User, o, old kernel.Object) error {
	if u == nil || slices.Contains(u.Groups, groupMasters) {
		return nil
	}
	switch o := o.(type) {
	case *rbacv1.Role:
		if before, ok := old.(*rbacv1.Role); ok && equality.Semantic.DeepEqual(before.Rules, o.Rules) {
			return nil
		}
		return s.mayGrantRules(ctx, u, "escalate", rolesResource, o.Namespace, o.Name, o.Namespace, o.Rules)
	case *rbacv1.ClusterRole:
		if before, ok := old.(*rbacv1.ClusterRole); ok && equality.Semantic.DeepEqual(before.Rules, o.Rules) &&
			equality.Semantic.DeepEqual(before.AggregationRule, o.AggregationRule) {
			return nil
		}
		rules := o.Rules
		if o.AggregationRule != nil {
			// What others will add to it is not known: it may become anything.
			rules = append(slices.Clone(rules), rbacv1.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
				rbacv1.PolicyRule{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}})
		}
		return s.mayGrantRules(ctx, u, "escalate", clusterRolesResource, "", o.Name, "", rules)
	case *rbacv1.RoleBinding:
		if before, ok := old.(*rbacv1.RoleBinding); ok && before.RoleRef == o.RoleRef && equality.Semantic.DeepEqual(before.Subjects, o.Subjects) {
			return nil
		}
		return s.mayBind(ctx, u, o.RoleRef, o.Namespace)
	case *rbacv1.ClusterRoleBinding:
		if before, ok := old.(*rbacv1.ClusterRoleBinding); ok && before.RoleRef == o.RoleRef && equality.Semantic.DeepEqual(before.Subjects, o.Subjects) {
			return nil
		}
		return s.mayBind(ctx, u, o.RoleRef, "")
	}
	return nil
}

func (s *Server) mayBind(ctx context.Context, u *User, role rbacv1.RoleRef, namespace string) error {
	v, err := s.out.Fresh(ctx)
	if err != nil {
		return err
	}
	resource := clusterRolesResource
	if role.Kind == "Role" {
		resource = rolesResource
	}
	return s.mayGrantRules(ctx, u, "bind", resource, namespace, role.Name, namespace, compilePolicy(v).rulesOf(role, namespace))
}

// mayGrantRules wants the user to have the verb on the role, or every right
// that the rules give in the namespace ("" is everywhere).
func (s *Server) mayGrantRules(ctx context.Context, u *User, verb string, role kernel.Resource, roleNamespace, name, namespace string, rules []rbacv1.PolicyRule) error {
	ok, _, err := s.allowed(ctx, &Attributes{User: u, Verb: verb, Group: role.Group, Version: "v1", Resource: role.Plural, Namespace: roleNamespace, Name: name})
	if err != nil || ok {
		return err
	}
	v, err := s.out.Fresh(ctx)
	if err != nil {
		return err
	}
	owned := compilePolicy(v).rulesFor(u, namespace)
	var lacking []string
	for i := range rules {
		for _, atom := range atoms(&rules[i]) {
			if !slices.ContainsFunc(owned, func(r rbacv1.PolicyRule) bool { return covers(&r, &atom) }) {
				lacking = append(lacking, ruleText(&atom))
			}
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	groups := slices.Clone(u.Groups)
	return apierrors.NewForbidden(schema.GroupResource{Group: role.Group, Resource: role.Plural}, name, fmt.Errorf(
		"user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s", u.Name, groups, strings.Join(lacking, "\n")))
}

// rulesFor are all rules that the user has in a namespace, or everywhere for "".
func (p *policy) rulesFor(u *User, namespace string) []rbacv1.PolicyRule {
	var rules []rbacv1.PolicyRule
	if slices.Contains(u.Groups, groupMasters) {
		rules = append(rules, rbacv1.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
			rbacv1.PolicyRule{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}})
	}
	p.each(u, namespace, func(g *grant, in string) bool {
		for _, r := range g.rules {
			if in != "" && len(r.NonResourceURLs) > 0 {
				continue // a RoleBinding gives no paths
			}
			rules = append(rules, r)
		}
		return true
	})
	return rules
}

// atoms takes a rule apart into rules of one verb and one resource each.
func atoms(r *rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for _, verb := range r.Verbs {
		for _, url := range r.NonResourceURLs {
			out = append(out, rbacv1.PolicyRule{Verbs: []string{verb}, NonResourceURLs: []string{url}})
		}
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				atom := rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{group}, Resources: []string{resource}}
				if len(r.ResourceNames) == 0 {
					out = append(out, atom)
				}
				for _, name := range r.ResourceNames {
					atom.ResourceNames = []string{name}
					out = append(out, atom)
				}
			}
		}
	}
	return out
}

// covers tells whether a rule gives all that an atom gives.
func covers(r, atom *rbacv1.PolicyRule) bool {
	if !has(r.Verbs, atom.Verbs[0]) {
		return false
	}
	if len(atom.NonResourceURLs) > 0 {
		return pathAllowed(r.NonResourceURLs, atom.NonResourceURLs[0])
	}
	if !has(r.APIGroups, atom.APIGroups[0]) {
		return false
	}
	resource, sub, _ := strings.Cut(atom.Resources[0], "/")
	if !resourceAllowed(r.Resources, resource, sub) {
		return false
	}
	return len(r.ResourceNames) == 0 || len(atom.ResourceNames) > 0 && slices.Contains(r.ResourceNames, atom.ResourceNames[0])
}

func ruleText(r *rbacv1.PolicyRule) string {
	if len(r.NonResourceURLs) > 0 {
		return fmt.Sprintf("{NonResourceURLs:%q, Verbs:%q}", r.NonResourceURLs, r.Verbs)
	}
	text := fmt.Sprintf("{APIGroups:%q, Resources:%q", r.APIGroups, r.Resources)
	if len(r.ResourceNames) > 0 {
		text += fmt.Sprintf(", ResourceNames:%q", r.ResourceNames)
	}
	return text + fmt.Sprintf(", Verbs:%q}", r.Verbs)
}
