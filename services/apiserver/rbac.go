package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/rutterhq/rutter/kernel"
)

// Attributes are what is asked for, in the terms of RBAC. Resource is empty
// for a path that is not a resource.
type Attributes struct {
	User        *User
	Verb        string
	Group       string
	Version     string
	Resource    string
	Subresource string
	Namespace   string
	Name        string
	Path        string
}

// The resources that RBAC is made of.
var (
	rolesResource               = kernel.Resource{Group: rbacv1.GroupName, Plural: "roles"}
	roleBindingsResource        = kernel.Resource{Group: rbacv1.GroupName, Plural: "rolebindings"}
	clusterRolesResource        = kernel.Resource{Group: rbacv1.GroupName, Plural: "clusterroles"}
	clusterRoleBindingsResource = kernel.Resource{Group: rbacv1.GroupName, Plural: "clusterrolebindings"}
)

// grant is a role given to somebody, as in a binding.
type grant struct {
	binding string // for the reason: `ClusterRoleBinding "cluster-admin"`
	role    rbacv1.RoleRef
	rules   []rbacv1.PolicyRule
}

// policy is RBAC compiled: who was granted what, in which namespace ("" is
// the whole cluster).
type policy struct {
	version kernel.Seq // the newest event of RBAC that it knows
	grants  map[string]map[string][]grant
	roles   map[kernel.Key][]rbacv1.PolicyRule // aggregation resolved
}

// accessCache holds the newest policy. Readers may be behind the log by the
// moment that follow needs; a denial is checked again against the newest View.
type accessCache struct {
	mu     sync.RWMutex // protects the following
	policy *policy
}

func (c *accessCache) current() *policy {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.policy
}

// step compiles anew if an event changed RBAC.
func (c *accessCache) step(step kernel.Step) {
	for _, e := range step.Events {
		if e.Key.Group == rbacv1.GroupName {
			c.compile(step.View)
			return
		}
	}
}

// compile makes the policy of a View the current one unless a newer one is.
func (c *accessCache) compile(v *kernel.View) *policy {
	p := compilePolicy(v)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.policy == nil || c.policy.version <= p.version {
		c.policy = p
	}
	return c.policy
}

// subjects are the strings under which grants to a user are filed.
func subjects(u *User) []string {
	out := make([]string, 0, len(u.Groups)+1)
	out = append(out, "u:"+u.Name)
	for _, g := range u.Groups {
		out = append(out, "g:"+g)
	}
	return out
}

func subjectOf(s *rbacv1.Subject, namespace string) string {
	switch s.Kind {
	case rbacv1.UserKind:
		return "u:" + s.Name
	case rbacv1.GroupKind:
		return "g:" + s.Name
	case rbacv1.ServiceAccountKind:
		if s.Namespace != "" {
			namespace = s.Namespace
		}
		return "u:" + serviceAccountPrefix + namespace + ":" + s.Name
	}
	return ""
}

func compilePolicy(v *kernel.View) *policy {
	p := &policy{grants: map[string]map[string][]grant{}, roles: map[kernel.Key][]rbacv1.PolicyRule{}, version: v.Seq()}
	var aggregated []*rbacv1.ClusterRole
	var all []*rbacv1.ClusterRole
	for e := range v.Entries(clusterRolesResource, "") {
		role := e.Object().(*rbacv1.ClusterRole)
		all = append(all, role)
		p.roles[e.Key] = role.Rules
		if role.AggregationRule != nil {
			aggregated = append(aggregated, role)
		}
	}
	for e := range v.Entries(rolesResource, "") {
		p.roles[e.Key] = e.Object().(*rbacv1.Role).Rules
	}
	p.aggregate(aggregated, all)
	for e := range v.Entries(clusterRoleBindingsResource, "") {
		b := e.Object().(*rbacv1.ClusterRoleBinding)
		p.bind("", fmt.Sprintf("ClusterRoleBinding %q", b.Name), b.RoleRef, b.Subjects)
	}
	for e := range v.Entries(roleBindingsResource, "") {
		b := e.Object().(*rbacv1.RoleBinding)
		p.bind(b.Namespace, fmt.Sprintf("RoleBinding %q", b.Name+"/"+b.Namespace), b.RoleRef, b.Subjects)
	}
	return p
}

// aggregate fills the roles that are sums of others. A sum may be part of
// another (view of edit, edit of admin), so it goes on until nothing grows:
// there are at most as many rounds as sums.
func (p *policy) aggregate(sums, all []*rbacv1.ClusterRole) {
	for range sums {
		for _, sum := range sums {
			key := kernel.Key{Resource: clusterRolesResource, Name: sum.Name}
			var rules []rbacv1.PolicyRule
			for _, part := range all {
				if part.Name != sum.Name && selected(sum.AggregationRule, part.Labels) {
					rules = append(rules, p.roles[kernel.Key{Resource: clusterRolesResource, Name: part.Name}]...)
				}
			}
			p.roles[key] = rules
		}
	}
}

func selected(a *rbacv1.AggregationRule, set map[string]string) bool {
	for i := range a.ClusterRoleSelectors {
		s, err := metav1.LabelSelectorAsSelector(&a.ClusterRoleSelectors[i])
		if err == nil && s.Matches(labels.Set(set)) {
			return true
		}
	}
	return false
}

func (p *policy) bind(namespace, binding string, ref rbacv1.RoleRef, to []rbacv1.Subject) {
	g := grant{binding: binding, role: ref, rules: p.rulesOf(ref, namespace)}
	for i := range to {
		who := subjectOf(&to[i], namespace)
		if p.grants[who] == nil {
			p.grants[who] = map[string][]grant{}
		}
		p.grants[who][namespace] = append(p.grants[who][namespace], g)
	}
}

func (p *policy) rulesOf(ref rbacv1.RoleRef, namespace string) []rbacv1.PolicyRule {
	if ref.Kind == "ClusterRole" {
		return p.roles[kernel.Key{Resource: clusterRolesResource, Name: ref.Name}]
	}
	return p.roles[kernel.Key{Resource: rolesResource, Namespace: namespace, Name: ref.Name}]
}

// each calls f with every grant that the user has for the namespace until f
// says stop.
func (p *policy) each(u *User, namespace string, f func(g *grant, namespace string) bool) {
	for _, who := range subjects(u) {
		byNamespace := p.grants[who]
		for i := range byNamespace[""] {
			if !f(&byNamespace[""][i], "") {
				return
			}
		}
		if namespace == "" {
			continue
		}
		for i := range byNamespace[namespace] {
			if !f(&byNamespace[namespace][i], namespace) {
				return
			}
		}
	}
}

// allows tells whether RBAC grants the attributes, and by what.
func (p *policy) allows(a *Attributes) (bool, string) {
	if slices.Contains(a.User.Groups, groupMasters) {
		return true, ""
	}
	if p == nil {
		return false, ""
	}
	reason, ok := "", false
	p.each(a.User, a.Namespace, func(g *grant, _ string) bool {
		for i := range g.rules {
			if ruleAllows(&g.rules[i], a) {
				ok, reason = true, fmt.Sprintf("RBAC: allowed by %s of %s %q to %s", g.binding, g.role.Kind, g.role.Name, a.User.Name)
				return false
			}
		}
		return true
	})
	return ok, reason
}

// ruleAllows tells whether one rule grants the attributes.
func ruleAllows(r *rbacv1.PolicyRule, a *Attributes) bool {
	if !has(r.Verbs, a.Verb) {
		return false
	}
	if a.Resource == "" {
		return pathAllowed(r.NonResourceURLs, a.Path)
	}
	if !has(r.APIGroups, a.Group) {
		return false
	}
	if len(r.ResourceNames) > 0 && !slices.Contains(r.ResourceNames, a.Name) {
		return false
	}
	return resourceAllowed(r.Resources, a.Resource, a.Subresource)
}

func has(list []string, s string) bool {
	return slices.Contains(list, "*") || slices.Contains(list, s)
}

func resourceAllowed(list []string, resource, sub string) bool {
	full := resource
	if sub != "" {
		full += "/" + sub
	}
	for _, r := range list {
		if r == "*" || r == full || sub != "" && r == "*/"+sub {
			return true
		}
	}
	return false
}

func pathAllowed(list []string, path string) bool {
	for _, p := range list {
		if p == "*" || p == path {
			return true
		}
		if prefix, ok := strings.CutSuffix(p, "*"); ok && strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}

// Authorize returns nil if the user of the attributes may do what they say,
// else the 403 Status to answer with.
func (s *Server) Authorize(ctx context.Context, a Attributes) error {
	ok, _, err := s.allowed(ctx, &a)
	if err != nil || ok {
		return err
	}
	return forbidden(&a)
}

// allowed judges by the current policy. Before it denies it makes sure that
// the policy has all that was acknowledged: a binding counts at once.
func (s *Server) allowed(ctx context.Context, a *Attributes) (bool, string, error) {
	if ok, reason := s.access.current().allows(a); ok {
		return true, reason, nil
	}
	v, err := s.index.view(ctx)
	if err != nil {
		return false, "", err
	}
	if node, ok := nodeOf(a.User); ok && nodeMay(v, node, a) {
		return true, "the object concerns the node", nil
	}
	p := s.access.current()
	if p == nil || p.version < lastChange(v) {
		p = s.access.compile(v)
	}
	ok, reason := p.allows(a)
	return ok, reason, nil
}

// lastChange is the Seq of the newest live object of RBAC. A removed one is
// not counted: it can only take rights away.
func lastChange(v *kernel.View) kernel.Seq {
	var last kernel.Seq
	for _, r := range []kernel.Resource{rolesResource, roleBindingsResource, clusterRolesResource, clusterRoleBindingsResource} {
		for e := range v.Entries(r, "") {
			last = max(last, e.Seq)
		}
	}
	return last
}

func (r *request) authorize(a Attributes) error { return r.s.Authorize(r.Context(), a) }

// forbidden is the 403 that kubectl users know.
func forbidden(a *Attributes) error {
	who := fmt.Sprintf("User %q cannot %s ", a.User.Name, a.Verb)
	if a.Resource == "" {
		return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusForbidden,
			Reason: metav1.StatusReasonForbidden, Details: &metav1.StatusDetails{},
			Message: fmt.Sprintf("forbidden: %spath %q", who, a.Path)}}
	}
	resource := a.Resource
	if a.Subresource != "" {
		resource += "/" + a.Subresource
	}
	where := "at the cluster scope"
	if a.Namespace != "" {
		where = fmt.Sprintf("in the namespace %q", a.Namespace)
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: a.Group, Resource: a.Resource}, a.Name,
		fmt.Errorf("%sresource %q in API group %q %s", who, resource, a.Group, where))
}
