package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// maxBody bounds a request's body in bytes, as kube-apiserver does.
const maxBody = 3 << 20

// request is one request on its way through the server.
type request struct {
	*http.Request
	w      http.ResponseWriter
	s      *Server
	user   *User
	behind string // who impersonates the user, if anybody does
	query  url.Values
	info   requestInfo
	row    kinds.Row // of info.Resource, if it is one of the log
	kind   *kinds.Info
	raw    []byte       // the body that an object was decoded from
	past   *kernel.View // the View to read, if the request is about the past
}

// requestInfo is what a path and method ask for.
type requestInfo struct {
	IsResource  bool
	Verb        string // of RBAC: get, list, watch, create, update, patch, delete, deletecollection
	Group       string
	Version     string
	Namespace   string
	Resource    string
	Name        string
	Subresource string
	Rest        string // what follows the subresource, for proxies
}

// parseInfo reads a path as the Kubernetes API lays them out:
// /api/v1/... for the core group and /apis/GROUP/VERSION/... for the others,
// then [namespaces/NS/]RESOURCE[/NAME[/SUBRESOURCE]].
func parseInfo(method, path string, query url.Values) requestInfo {
	i := requestInfo{Verb: strings.ToLower(method)}
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case parts[0] == "api" && len(parts) > 2:
		i.Version, parts = parts[1], parts[2:]
	case parts[0] == "apis" && len(parts) > 3:
		i.Group, i.Version, parts = parts[1], parts[2], parts[3:]
	default:
		return i
	}
	i.IsResource = true
	watch := query.Get("watch")
	watching := watch == "true" || watch == "1"
	if parts[0] == "watch" && len(parts) > 1 { // the old form of ?watch=true
		watching, parts = true, parts[1:]
	}
	if parts[0] == "namespaces" && len(parts) > 1 {
		i.Namespace = parts[1]
		if len(parts) > 2 && parts[2] != "status" && parts[2] != "finalize" {
			parts = parts[2:]
		}
	}
	i.Resource = parts[0]
	if len(parts) > 1 {
		i.Name = parts[1]
	}
	if len(parts) > 2 {
		i.Subresource = parts[2]
	}
	if len(parts) > 3 {
		i.Rest = "/" + strings.Join(parts[3:], "/")
	}
	i.Verb = verbOf(method, i.Name != "", watching)
	return i
}

func verbOf(method string, named, watching bool) string {
	switch method {
	case http.MethodGet, http.MethodHead:
		switch {
		case watching:
			return "watch"
		case named:
			return "get"
		}
		return "list"
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		if named {
			return "delete"
		}
		return "deletecollection"
	}
	return strings.ToLower(method)
}

// open are the paths that answer without a certificate or token.
func open(path string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return slices.Contains([]string{"healthz", "livez", "readyz", "version"}, first)
}

// serve answers the request, or returns why it cannot.
func (r *request) serve() error {
	// A malformed pair is skipped and the others count, as net/http does it.
	r.query, _ = url.ParseQuery(r.URL.RawQuery)
	if err := r.authenticate(); err != nil {
		return err
	}
	r.info = parseInfo(r.Method, r.URL.Path, r.query)
	if open(r.URL.Path) {
		return r.servePath()
	}
	if r.user == nil {
		return apierrors.NewUnauthorized("Unauthorized")
	}
	if err := r.awaitStart(); err != nil {
		return err
	}
	if err := r.impersonate(); err != nil {
		return err
	}
	r.Request = r.Request.WithContext(withUser(r.Context(), r.user))
	if r.past, _ = r.Context().Value(pastKey{}).(*kernel.View); r.past != nil && r.info.IsResource && r.info.Verb != "get" && r.info.Verb != "list" {
		return badRequest("the past can only be read: get and list")
	}
	if h := r.s.mounted(r.URL.Path); h != nil {
		h.ServeHTTP(r.w, r.Request)
		return nil
	}
	if err := r.authorize(r.attributes()); err != nil {
		return err
	}
	if !r.info.IsResource {
		return r.servePath()
	}
	return r.serveResource()
}

// awaitStart waits until this server has read the log: nothing is answered
// from a View that is still being read. A node is not kept waiting, for
// another server may let it in.
func (r *request) awaitStart() error {
	select {
	case <-r.s.started:
		return nil
	default:
	}
	if strings.HasPrefix(r.URL.Path, doorPrefix) {
		return refusal(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "this apiserver is still reading the log; ask another")
	}
	select {
	case <-r.s.started:
		return nil
	case <-r.Context().Done():
		return r.Context().Err()
	}
}

func (r *request) attributes() Attributes {
	a := Attributes{User: r.user, Verb: r.info.Verb}
	if !r.info.IsResource {
		a.Path = r.URL.Path
		return a
	}
	a.Group, a.Version, a.Resource, a.Subresource = r.info.Group, r.info.Version, r.info.Resource, r.info.Subresource
	a.Namespace, a.Name = r.info.Namespace, r.info.Name
	return a
}

// servePath answers what is not a resource: health, version, discovery,
// OpenAPI.
func (r *request) servePath() error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return apierrors.NewMethodNotSupported(schema.GroupResource{}, r.Method)
	}
	path := r.URL.Path
	if len(path) > 1 {
		path = strings.TrimSuffix(path, "/")
	}
	if h := r.s.special[path]; h != nil {
		h(r.w, r.Request)
		return nil
	}
	return r.serveDiscovery(path)
}

// serveResource routes to a verb of a row or to a virtual resource.
func (r *request) serveResource() error {
	i := &r.info
	if v, ok := virtuals[schema.GroupVersionResource{Group: i.Group, Version: i.Version, Resource: i.Resource}]; ok && i.Subresource == "" {
		if i.Verb != "create" {
			return r.notAllowed()
		}
		return v.serve(r)
	}
	row, ok := r.s.routes.row(i.Group, i.Version, i.Resource)
	if !ok {
		if i.Group == crdGroup && i.Version == "v1" && i.Resource == "customresourcedefinitions" && i.Verb == "list" {
			return r.noDefinitions()
		}
		return errNotFoundPath
	}
	r.row, r.kind = row, row.Describe()
	if r.kind.Cluster {
		if i.Namespace != "" && i.Resource != "namespaces" {
			return errNotFoundPath
		}
		i.Namespace = ""
	} else if i.Namespace == "" { // across namespaces one may read, and do no more
		if i.Name != "" {
			return errNotFoundPath
		}
		if i.Verb != "list" && i.Verb != "watch" {
			return r.notAllowed()
		}
	}
	if i.Subresource != "" {
		return r.serveSubresource()
	}
	if i.Verb != "watch" {
		ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
		defer cancel()
		r.Request = r.Request.WithContext(ctx)
	}
	if !r.kind.Serves(i.Verb) {
		return r.notAllowed()
	}
	switch i.Verb {
	case "get":
		return r.get()
	case "list":
		return r.list()
	case "watch":
		return r.watch()
	case "create":
		if i.Name != "" {
			return r.notAllowed()
		}
		return r.create()
	case "update", "patch":
		if i.Name == "" {
			return r.notAllowed()
		}
		if i.Verb == "update" {
			return r.update("")
		}
		return r.patch("")
	case "delete":
		return r.delete()
	case "deletecollection":
		return r.deleteCollection()
	}
	return r.notAllowed()
}

// crdGroup is the group of CustomResourceDefinitions.
const crdGroup = "apiextensions.k8s.io"

// noDefinitions says that there are no CustomResourceDefinitions. kubectl asks
// before it tells a user that a kind is not known.
func (r *request) noDefinitions() error {
	gvk := schema.GroupVersionKind{Group: crdGroup, Version: "v1", Kind: "CustomResourceDefinitionList"}
	list := &metav1.PartialObjectMetadataList{ListMeta: metav1.ListMeta{ResourceVersion: fmt.Sprint(r.s.cfg.Mirror.View().Seq())}, Items: []metav1.PartialObjectMetadata{}}
	list.SetGroupVersionKind(gvk)
	body, err := json.Marshal(list)
	if err != nil {
		return err
	}
	r.w.Header().Set("Content-Type", "application/json")
	_, err = r.w.Write(body)
	return err
}

func (r *request) notAllowed() error {
	e := apierrors.NewMethodNotSupported(schema.GroupResource{}, r.info.Verb)
	e.ErrStatus.Message = "the server does not allow this method on the requested resource"
	return e
}

func (r *request) key() kernel.Key { return r.kind.Key(r.info.Namespace, r.info.Name) }

// body reads the request's body, at most maxBody bytes of it.
func (r *request) body() ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	var buf bytes.Buffer
	if r.ContentLength > 0 && r.ContentLength <= maxBody {
		buf.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	if _, err := io.Copy(&buf, http.MaxBytesReader(nil, r.Body, maxBody)); err != nil {
		return nil, fmt.Errorf("read the request: %w", err)
	}
	return buf.Bytes(), nil
}

// routes finds rows by what URLs name.
type routes struct {
	rows     []kinds.Row
	byName   map[schema.GroupVersionResource]kinds.Row
	groups   []string            // in the order of discovery, "" not among them
	versions map[string][]string // of each group
}

func newRoutes(rows []kinds.Row) routes {
	t := routes{rows: rows, byName: map[schema.GroupVersionResource]kinds.Row{}, versions: map[string][]string{}}
	add := func(group, version string) {
		if _, ok := t.versions[group]; !ok && group != "" {
			t.groups = append(t.groups, group)
		}
		if !slices.Contains(t.versions[group], version) {
			t.versions[group] = append(t.versions[group], version)
		}
	}
	for _, row := range rows {
		i := row.Describe()
		t.byName[i.GVR()] = row
		add(i.Resource.Group, i.Version)
	}
	for gvr := range virtuals {
		add(gvr.Group, gvr.Version)
	}
	slices.Sort(t.groups)
	return t
}

func (t *routes) row(group, version, resource string) (kinds.Row, bool) {
	row, ok := t.byName[schema.GroupVersionResource{Group: group, Version: version, Resource: resource}]
	return row, ok
}
