package apiserver

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/rutterhq/rutter/kinds"
)

// allVerbs are those of a resource that restricts nothing, as discovery lists them.
var allVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

// offered is one resource or subresource as discovery shows it.
type offered struct {
	group, version string
	resource       string // "pods"
	sub            string // "status"
	singular       string
	kind           schema.GroupVersionKind // of what is sent and answered
	namespaced     bool
	verbs          []string
	shortNames     []string
	categories     []string
}

// offers lists all that is served, in the order of the rows.
func (t *routes) offers() []offered {
	var out []offered
	for _, row := range t.rows {
		out = append(out, offersOf(row)...)
	}
	for gvr, v := range virtuals {
		out = append(out, offered{group: gvr.Group, version: gvr.Version, resource: gvr.Resource, kind: v.gvk,
			singular: strings.ToLower(v.gvk.Kind), namespaced: v.namespaced, verbs: []string{"create"}})
	}
	slices.SortStableFunc(out, func(a, b offered) int {
		return strings.Compare(a.group+"\x00"+a.resource+"\x00"+a.sub, b.group+"\x00"+b.resource+"\x00"+b.sub)
	})
	return out
}

func offersOf(row kinds.Row) []offered {
	i := row.Describe()
	o := offered{group: i.Resource.Group, version: i.Version, resource: i.Resource.Plural, singular: i.Singular,
		kind: i.GVK(), namespaced: !i.Cluster, verbs: allVerbs, shortNames: i.ShortNames, categories: i.Categories}
	if i.Verbs != nil {
		o.verbs = slices.Sorted(slices.Values(i.Verbs))
	}
	out := []offered{o}
	add := func(sub string, kind schema.GroupVersionKind, verbs ...string) {
		out = append(out, offered{group: o.group, version: o.version, resource: o.resource, sub: sub, kind: kind, namespaced: o.namespaced, verbs: verbs})
	}
	if i.Status {
		add("status", i.GVK(), "get", "patch", "update")
	}
	if row.HasScale() {
		add("scale", autoscalingv1.SchemeGroupVersion.WithKind("Scale"), "get", "patch", "update")
	}
	for _, sub := range i.Streams {
		if s, ok := subresources[subresource{i.Resource, sub}]; ok {
			kind := s.gvk
			if kind.Kind == "" {
				kind = i.GVK()
			}
			add(sub, kind, s.verbs...)
		}
	}
	return out
}

// serveDiscovery answers /api, /apis and the lists of a group and version.
func (r *request) serveDiscovery(path string) error {
	t := &r.s.routes
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	switch {
	case path == "/":
		return r.writePlain(map[string]any{"paths": r.s.paths()})
	case path == "/api" || path == "/apis":
		if f, ok := aggregated(r.Request); ok {
			return r.writeAggregated(f, path == "/api")
		}
		if path == "/api" {
			return r.writeAPI(http.StatusOK, &metav1.APIVersions{Versions: t.versions[""],
				ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: r.s.cfg.Advertise.String()}}},
				schema.GroupVersionKind{Version: "v1", Kind: "APIVersions"})
		}
		return r.writeAPI(http.StatusOK, t.groupList(), schema.GroupVersionKind{Version: "v1", Kind: "APIGroupList"})
	case parts[0] == "api" && len(parts) == 2:
		return r.writeResources("", parts[1])
	case parts[0] == "apis" && len(parts) == 2 && slices.Contains(t.groups, parts[1]):
		g := t.group(parts[1])
		return r.writeAPI(http.StatusOK, &g, schema.GroupVersionKind{Version: "v1", Kind: "APIGroup"})
	case parts[0] == "apis" && len(parts) == 3:
		return r.writeResources(parts[1], parts[2])
	case parts[0] == "openapi":
		return r.serveOpenAPI(path)
	}
	return errNotFoundPath
}

func (t *routes) group(name string) metav1.APIGroup {
	g := metav1.APIGroup{Name: name}
	for _, v := range t.versions[name] {
		g.Versions = append(g.Versions, metav1.GroupVersionForDiscovery{GroupVersion: name + "/" + v, Version: v})
	}
	g.PreferredVersion = g.Versions[0]
	return g
}

func (t *routes) groupList() *metav1.APIGroupList {
	l := &metav1.APIGroupList{}
	for _, name := range t.groups {
		l.Groups = append(l.Groups, t.group(name))
	}
	return l
}

// writeResources answers with the resources of one group and version.
func (r *request) writeResources(group, version string) error {
	if !slices.Contains(r.s.routes.versions[group], version) {
		return errNotFoundPath
	}
	gv := schema.GroupVersion{Group: group, Version: version}
	l := &metav1.APIResourceList{GroupVersion: gv.String(), APIResources: []metav1.APIResource{}}
	for _, o := range r.s.routes.offers() {
		if o.group != group || o.version != version {
			continue
		}
		res := metav1.APIResource{Name: o.resource, SingularName: o.singular, Namespaced: o.namespaced, Kind: o.kind.Kind,
			Verbs: o.verbs, ShortNames: o.shortNames, Categories: o.categories}
		if o.sub != "" {
			res.Name += "/" + o.sub
		} else if slices.Contains(o.verbs, "list") {
			res.StorageVersionHash = storageHash(o.kind)
		}
		if o.kind.GroupVersion() != gv {
			res.Group, res.Version = o.kind.Group, o.kind.Version
		}
		l.APIResources = append(l.APIResources, res)
	}
	return r.writeAPI(http.StatusOK, l, schema.GroupVersionKind{Version: "v1", Kind: "APIResourceList"})
}

// storageHash says in what version a resource is stored: clients only compare it.
func storageHash(gvk schema.GroupVersionKind) string {
	sum := sha256.Sum256([]byte(gvk.Group + "/" + gvk.Version + "/" + gvk.Kind))
	return hex.EncodeToString(sum[:])[:12]
}

// aggregatedVersions of the aggregated discovery document that are served
// (KEP-3352). They have the same form.
var aggregatedVersions = []string{"v2", "v2beta1"}

// aggregated tells whether the client prefers the one document that has all.
func aggregated(r *http.Request) (form, bool) {
	accept := strings.Join(r.Header.Values("Accept"), ",")
	for clause := range strings.SplitSeq(accept, ",") {
		f, _, plain := parseAccept(clause, false)
		if f.as == "APIGroupDiscoveryList" && f.group == "apidiscovery.k8s.io" && slices.Contains(aggregatedVersions, f.version) && f.media != mediaYAML {
			return f, true
		}
		if plain {
			return form{}, false
		}
	}
	return form{}, false
}

// writeAggregated answers with the document of all groups, or of the core
// group alone.
func (r *request) writeAggregated(f form, core bool) error {
	t := &r.s.routes
	names := t.groups
	if core {
		names = []string{""}
	}
	l := &apidiscoveryv2.APIGroupDiscoveryList{Items: []apidiscoveryv2.APIGroupDiscovery{}}
	offers := t.offers()
	for _, name := range names {
		g := apidiscoveryv2.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: name}}
		for _, v := range t.versions[name] {
			g.Versions = append(g.Versions, apidiscoveryv2.APIVersionDiscovery{
				Version: v, Resources: aggregate(offers, name, v), Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent})
		}
		l.Items = append(l.Items, g)
	}
	gvk := schema.GroupVersionKind{Group: "apidiscovery.k8s.io", Version: f.version, Kind: "APIGroupDiscoveryList"}
	body, err := f.encode(l, gvk)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	etag := `"` + strings.ToUpper(hex.EncodeToString(sum[:])) + `"`
	h := r.w.Header()
	h.Set("Vary", "Accept")
	h.Set("Etag", etag)
	if r.Header.Get("If-None-Match") == etag {
		r.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", f.media.String()+";g="+gvk.Group+";v="+gvk.Version+";as="+gvk.Kind)
	h.Set("Cache-Control", "public")
	r.w.WriteHeader(http.StatusOK)
	_, _ = r.w.Write(body) // the client may have left
	return nil
}

func aggregate(offers []offered, group, version string) []apidiscoveryv2.APIResourceDiscovery {
	out := []apidiscoveryv2.APIResourceDiscovery{}
	for _, o := range offers {
		if o.group != group || o.version != version {
			continue
		}
		kind := &metav1.GroupVersionKind{Group: o.kind.Group, Version: o.kind.Version, Kind: o.kind.Kind}
		if o.sub != "" {
			last := &out[len(out)-1]
			last.Subresources = append(last.Subresources, apidiscoveryv2.APISubresourceDiscovery{
				Subresource: o.sub, ResponseKind: kind, Verbs: o.verbs})
			continue
		}
		scope := apidiscoveryv2.ScopeCluster
		if o.namespaced {
			scope = apidiscoveryv2.ScopeNamespace
		}
		out = append(out, apidiscoveryv2.APIResourceDiscovery{Resource: o.resource, ResponseKind: kind, Scope: scope,
			SingularResource: o.singular, Verbs: o.verbs, ShortNames: o.shortNames, Categories: o.categories})
	}
	return out
}
