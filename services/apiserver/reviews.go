package apiserver

import (
	"net/http"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// virtual is a resource that can only be created and is kept nowhere: a
// question with its answer.
type virtual struct {
	gvk        schema.GroupVersionKind
	namespaced bool
	serve      func(*request) error
}

// virtuals are all of them. It is filled in init, because the functions use it
// by way of the routes.
var virtuals map[schema.GroupVersionResource]virtual

func init() {
	authz, authn := authorizationv1.SchemeGroupVersion, authenticationv1.SchemeGroupVersion
	virtuals = map[schema.GroupVersionResource]virtual{
		authz.WithResource("selfsubjectaccessreviews"):  {gvk: authz.WithKind("SelfSubjectAccessReview"), serve: (*request).selfAccessReview},
		authz.WithResource("selfsubjectrulesreviews"):   {gvk: authz.WithKind("SelfSubjectRulesReview"), serve: (*request).selfRulesReview},
		authz.WithResource("subjectaccessreviews"):      {gvk: authz.WithKind("SubjectAccessReview"), serve: (*request).accessReview},
		authz.WithResource("localsubjectaccessreviews"): {gvk: authz.WithKind("LocalSubjectAccessReview"), namespaced: true, serve: (*request).localAccessReview},
		authn.WithResource("tokenreviews"):              {gvk: authn.WithKind("TokenReview"), serve: (*request).tokenReview},
		authn.WithResource("selfsubjectreviews"):        {gvk: authn.WithKind("SelfSubjectReview"), serve: (*request).selfReview},
	}
}

// review judges what a review asks about.
func (r *request) review(u *User, res *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) (authorizationv1.SubjectAccessReviewStatus, error) {
	a := Attributes{User: u}
	switch {
	case res != nil && path != nil:
		return authorizationv1.SubjectAccessReviewStatus{}, badRequest("spec: only one of resourceAttributes and nonResourceAttributes may be set")
	case res != nil:
		a.Verb, a.Group, a.Version, a.Resource, a.Subresource = res.Verb, res.Group, res.Version, res.Resource, res.Subresource
		a.Namespace, a.Name = res.Namespace, res.Name
		if a.Resource == "" {
			a.Resource = "*" // matches only rules for everything
		}
	case path != nil:
		a.Verb, a.Path = path.Verb, path.Path
	default:
		return authorizationv1.SubjectAccessReviewStatus{}, badRequest("spec: exactly one of resourceAttributes and nonResourceAttributes must be set")
	}
	ok, reason, err := r.s.allowed(r.Context(), &a)
	return authorizationv1.SubjectAccessReviewStatus{Allowed: ok, Reason: reason}, err
}

func (r *request) selfAccessReview() error {
	o := &authorizationv1.SelfSubjectAccessReview{}
	if err := r.decodeAPI(o, "SelfSubjectAccessReview"); err != nil {
		return err
	}
	var err error
	if o.Status, err = r.review(r.user, o.Spec.ResourceAttributes, o.Spec.NonResourceAttributes); err != nil {
		return err
	}
	return r.writeAPI(http.StatusCreated, o, authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview"))
}

// subject is the user that a review asks about.
func subject(spec *authorizationv1.SubjectAccessReviewSpec) (*User, error) {
	if spec.User == "" && len(spec.Groups) == 0 {
		return nil, badRequest("spec.user: at least one of user or group must be specified")
	}
	u := &User{Name: spec.User, UID: spec.UID, Groups: spec.Groups, Extra: map[string][]string{}}
	for k, v := range spec.Extra {
		u.Extra[k] = v
	}
	return u, nil
}

func (r *request) accessReview() error {
	o := &authorizationv1.SubjectAccessReview{}
	if err := r.decodeAPI(o, "SubjectAccessReview"); err != nil {
		return err
	}
	u, err := subject(&o.Spec)
	if err != nil {
		return err
	}
	if o.Status, err = r.review(u, o.Spec.ResourceAttributes, o.Spec.NonResourceAttributes); err != nil {
		return err
	}
	return r.writeAPI(http.StatusCreated, o, authorizationv1.SchemeGroupVersion.WithKind("SubjectAccessReview"))
}

func (r *request) localAccessReview() error {
	o := &authorizationv1.LocalSubjectAccessReview{}
	if err := r.decodeAPI(o, "LocalSubjectAccessReview"); err != nil {
		return err
	}
	u, err := subject(&o.Spec)
	if err != nil {
		return err
	}
	if o.Spec.ResourceAttributes == nil || o.Spec.ResourceAttributes.Namespace != r.info.Namespace {
		return badRequest("spec.resourceAttributes.namespace: must be the namespace of the request, %q", r.info.Namespace)
	}
	if o.Status, err = r.review(u, o.Spec.ResourceAttributes, nil); err != nil {
		return err
	}
	return r.writeAPI(http.StatusCreated, o, authorizationv1.SchemeGroupVersion.WithKind("LocalSubjectAccessReview"))
}

// selfRulesReview lists what the user may do in a namespace (kubectl auth
// can-i --list).
func (r *request) selfRulesReview() error {
	o := &authorizationv1.SelfSubjectRulesReview{}
	if err := r.decodeAPI(o, "SelfSubjectRulesReview"); err != nil {
		return err
	}
	if o.Spec.Namespace == "" {
		return badRequest("no namespace on request")
	}
	o.Status.ResourceRules, o.Status.NonResourceRules = []authorizationv1.ResourceRule{}, []authorizationv1.NonResourceRule{}
	add := func(rule *rbacv1.PolicyRule) {
		if len(rule.Resources) > 0 {
			o.Status.ResourceRules = append(o.Status.ResourceRules, authorizationv1.ResourceRule{
				Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames})
		}
		if len(rule.NonResourceURLs) > 0 {
			o.Status.NonResourceRules = append(o.Status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
		}
	}
	v, err := r.viewFor("")
	if err != nil {
		return err
	}
	for _, rule := range compilePolicy(v).rulesFor(r.user, o.Spec.Namespace) {
		add(&rule)
	}
	return r.writeAPI(http.StatusCreated, o, authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectRulesReview"))
}

// selfReview says who the user is (kubectl auth whoami).
func (r *request) selfReview() error {
	o := &authenticationv1.SelfSubjectReview{}
	if err := r.decodeAPI(o, "SelfSubjectReview"); err != nil {
		return err
	}
	o.CreationTimestamp = metav1.Now()
	o.Status.UserInfo = userInfo(r.user)
	return r.writeAPI(http.StatusCreated, o, authenticationv1.SchemeGroupVersion.WithKind("SelfSubjectReview"))
}

func userInfo(u *User) authenticationv1.UserInfo {
	i := authenticationv1.UserInfo{Username: u.Name, UID: u.UID, Groups: u.Groups}
	for k, v := range u.Extra {
		if i.Extra == nil {
			i.Extra = map[string]authenticationv1.ExtraValue{}
		}
		i.Extra[k] = v
	}
	return i
}

// tokenReview says whose a token is.
func (r *request) tokenReview() error {
	o := &authenticationv1.TokenReview{}
	if err := r.decodeAPI(o, "TokenReview"); err != nil {
		return err
	}
	if o.Spec.Token == "" {
		return badRequest("token is required for TokenReview in authentication")
	}
	v, err := r.viewFor("")
	if err != nil {
		return err
	}
	audiences := o.Spec.Audiences
	if len(audiences) == 0 {
		audiences = []string{r.s.tokens.issuer}
	}
	u, err := r.s.tokens.user(v, o.Spec.Token, audiences)
	o.Status = authenticationv1.TokenReviewStatus{}
	if err != nil {
		o.Status.Error = err.Error()
	} else {
		c, _ := r.s.tokens.verify(o.Spec.Token) // it was good a moment ago
		o.Status.Authenticated, o.Status.User = true, userInfo(u)
		for _, a := range audiences {
			if c != nil && slices.Contains(c.Audience, a) {
				o.Status.Audiences = append(o.Status.Audiences, a)
			}
		}
	}
	return r.writeAPI(http.StatusCreated, o, authenticationv1.SchemeGroupVersion.WithKind("TokenReview"))
}
