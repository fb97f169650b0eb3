package apiserver

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Names that Kubernetes gives to users and groups of its own.
const (
	groupAuthenticated   = "system:authenticated"
	groupMasters         = "system:masters"
	groupServiceAccounts = "system:serviceaccounts"
	serviceAccountPrefix = "system:serviceaccount:"
)

// User is who a request comes from.
type User struct {
	Name   string
	UID    string
	Groups []string
	Extra  map[string][]string
}

type (
	userKey       struct{}
	connectionKey struct{}
)

// UserFrom returns the authenticated user of a request that a mounted handler
// was given, or nil.
func UserFrom(ctx context.Context) *User {
	u, _ := ctx.Value(userKey{}).(*User)
	return u
}

func withUser(ctx context.Context, u *User) context.Context {
	return context.WithValue(ctx, userKey{}, u)
}

// connection remembers whose certificate came with it: it is verified once.
type connection struct {
	once sync.Once
	user *User
	err  error
}

func withConnection(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, &connection{})
}

// authenticate finds out who asks: by the client's certificate, else by its
// token. r.user stays nil for a request that brings neither.
func (r *request) authenticate() error {
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		c, ok := r.Context().Value(connectionKey{}).(*connection)
		if !ok {
			c = &connection{}
		}
		c.once.Do(func() { c.user, c.err = r.s.certificateUser(r.TLS.PeerCertificates) })
		if c.err != nil {
			return apierrors.NewUnauthorized("Unauthorized")
		}
		r.user = c.user
		return nil
	}
	header := r.Header.Get("Authorization")
	if header == "" {
		return nil
	}
	scheme, token, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "bearer") {
		return apierrors.NewUnauthorized("Unauthorized")
	}
	user, err := r.s.tokens.user(r.s.cfg.Mirror.View(), strings.TrimSpace(token), nil)
	if err != nil {
		// The account or pod may be younger than the View.
		v, ierr := r.s.index.view(r.Context())
		if ierr != nil {
			return ierr
		}
		if user, err = r.s.tokens.user(v, strings.TrimSpace(token), nil); err != nil {
			return apierrors.NewUnauthorized("Unauthorized")
		}
	}
	r.user = user
	return nil
}

func (s *Server) certificateUser(chain []*x509.Certificate) (*User, error) {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{
		Roots: s.tls.ClientCAs, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return nil, err
	}
	return &User{Name: chain[0].Subject.CommonName, Groups: append(slices.Clone(chain[0].Subject.Organization), groupAuthenticated)}, nil
}

// impersonate acts as somebody else if the headers ask for it and the user may
// (kubectl --as). Every name and group is a right of its own.
func (r *request) impersonate() error {
	name := r.Header.Get("Impersonate-User")
	groups := r.Header.Values("Impersonate-Group")
	uid := r.Header.Get("Impersonate-Uid")
	if name == "" {
		if len(groups) > 0 || uid != "" {
			return badRequest("requested %v without impersonating a user", groups)
		}
		return nil
	}
	as := &User{Name: name, UID: uid, Groups: slices.Clone(groups)}
	need := []Attributes{{Resource: "users", Name: name}}
	if rest, ok := strings.CutPrefix(name, serviceAccountPrefix); ok {
		if ns, sa, ok := strings.Cut(rest, ":"); ok {
			need[0] = Attributes{Resource: "serviceaccounts", Namespace: ns, Name: sa}
			if len(groups) == 0 {
				as.Groups = serviceAccountGroups(ns)
			}
		}
	}
	for _, g := range groups {
		need = append(need, Attributes{Resource: "groups", Name: g})
	}
	if uid != "" {
		need = append(need, Attributes{Group: "authentication.k8s.io", Version: "v1", Resource: "uids", Name: uid})
	}
	for header, values := range r.Header {
		key, ok := strings.CutPrefix(header, "Impersonate-Extra-")
		if !ok {
			continue
		}
		if as.Extra == nil {
			as.Extra = map[string][]string{}
		}
		key, err := url.PathUnescape(strings.ToLower(key))
		if err != nil {
			return badRequest("header %s: %v", header, err)
		}
		as.Extra[key] = values
		for _, v := range values {
			need = append(need, Attributes{Group: "authentication.k8s.io", Version: "v1", Resource: "userextras", Subresource: key, Name: v})
		}
	}
	for _, a := range need {
		a.User, a.Verb = r.user, "impersonate"
		if err := r.authorize(a); err != nil {
			return err
		}
	}
	if name != "system:anonymous" && !slices.Contains(as.Groups, groupAuthenticated) {
		as.Groups = append(as.Groups, groupAuthenticated)
	}
	r.behind, r.user = r.user.Name, as
	for header := range r.Header {
		if strings.HasPrefix(http.CanonicalHeaderKey(header), "Impersonate-") {
			r.Header.Del(header)
		}
	}
	return nil
}

func serviceAccountGroups(namespace string) []string {
	return []string{groupServiceAccounts, groupServiceAccounts + ":" + namespace, groupAuthenticated}
}
