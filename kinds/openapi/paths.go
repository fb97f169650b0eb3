package openapi

import (
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/kinds/openapi/models"
)

// Names of models that no row has but many paths refer to.
const (
	deleteOptionsModel = models.Meta + ".DeleteOptions"
	patchModel         = models.Meta + ".Patch"
	statusModel        = models.Meta + ".Status"
	scaleModel         = "io.k8s.api.autoscaling.v1.Scale"
)

var (
	media      = []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf"}
	watchMedia = []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf",
		"application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"}
	patchMedia = []string{"application/json-patch+json", "application/merge-patch+json",
		"application/strategic-merge-patch+json", "application/apply-patch+yaml"}
)

// query makes a parameter of the query.
func query(name, typ, description string) spec.Parameter {
	return spec.Parameter{
		ParamProps:        spec.ParamProps{Name: name, In: "query", Description: description},
		SimpleSchema:      spec.SimpleSchema{Type: typ},
		CommonValidations: spec.CommonValidations{UniqueItems: true},
	}
}

func inPath(name, description string) spec.Parameter {
	p := query(name, "string", description)
	p.In, p.Required = "path", true
	return p
}

var (
	pretty     = query("pretty", "string", "If 'true', the answer is indented.")
	dryRun     = query("dryRun", "string", "'All': go through every step, and store nothing.")
	manager    = query("fieldManager", "string", "Who makes the change, for metadata.managedFields; at most 128 printable characters. An apply needs it.")
	validation = query("fieldValidation", "string", "What to do about fields that are unknown or stand twice: Ignore, Warn (the default) or Strict.")
	force      = query("force", "boolean", "Take fields over from other managers; for apply only.")

	listQuery = []spec.Parameter{
		query("allowWatchBookmarks", "boolean", "Send BOOKMARK events in a watch."),
		query("continue", "string", "Where the list before this one ended, as it said itself."),
		query("fieldSelector", "string", "Only objects with such fields."),
		query("labelSelector", "string", "Only objects with such labels."),
		query("limit", "integer", "At most so many objects."),
		query("resourceVersion", "string", "How new the answer has to be."),
		query("resourceVersionMatch", "string", "How resourceVersion is meant: Exact or NotOlderThan."),
		query("sendInitialEvents", "boolean", "Begin a watch with what exists."),
		query("timeoutSeconds", "integer", "End after so many seconds."),
		query("watch", "boolean", "Send changes as they happen, in place of a list."),
	}
	deleteQuery = []spec.Parameter{
		dryRun,
		query("gracePeriodSeconds", "integer", "How long the object may take to end; 0 ends it at once. Default: what the kind says."),
		query("orphanDependents", "boolean", "Superseded by propagationPolicy."),
		query("propagationPolicy", "string", "What becomes of objects owned by this one: Orphan, Background or Foreground."),
	}
	writeQuery = []spec.Parameter{dryRun, manager, validation}
	patchQuery = []spec.Parameter{dryRun, manager, validation, force}
)

// writer makes the paths of one row.
type writer struct {
	info  *kinds.Info
	row   kinds.Row
	model string
	list  string
	tag   string
	group string // in operation ids: "CoreV1"
}

func newWriter(row kinds.Row) *writer {
	info := row.Describe()
	short := strings.TrimSuffix(info.Resource.Group, ".k8s.io")
	if short == "" {
		short = "core"
	}
	words := strings.Split(short, ".")
	var title string
	for _, w := range words {
		title += upper(w)
	}
	return &writer{
		info: info, row: row,
		model: models.NameOf(row.NewObject()), list: models.NameOf(row.NewObjectList()),
		tag:   strings.ToLower(title[:1]) + title[1:] + "_" + info.Version,
		group: title + upper(info.Version),
	}
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// prefix is "/api/v1" or "/apis/apps/v1".
func prefix(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "/api/" + gv.Version
	}
	return "/apis/" + gv.Group + "/" + gv.Version
}

// paths adds the row's paths.
func (w *writer) paths(to map[string]spec.PathItem) {
	root := prefix(w.info.GVK().GroupVersion())
	scope := ""
	params := []spec.Parameter{pretty}
	if !w.info.Cluster {
		scope = "Namespaced"
		params = append(params, inPath("namespace", "The namespace of the objects."))
		all := w.collection(scope, nil)
		all.Post, all.Delete = nil, nil
		all.Parameters = append([]spec.Parameter{pretty}, listQuery...)
		all.Get.ID = "list" + w.group + w.info.Kind + "ForAllNamespaces"
		all.Get.Parameters = nil
		to[root+"/"+w.info.Resource.Plural] = all
		root += "/namespaces/{namespace}"
	}
	collection := root + "/" + w.info.Resource.Plural
	to[collection] = w.collection(scope, params)
	item := collection + "/{name}"
	params = append(slices.Clone(params), inPath("name", "name of the "+w.info.Kind))
	to[item] = w.item(scope, params)
	if w.info.Status {
		to[item+"/status"] = w.subresource(scope, "Status", w.model, w.info.GVK(), params)
	}
	if w.row.HasScale() {
		gvk := schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}
		to[item+"/scale"] = w.subresource(scope, "Scale", scaleModel, gvk, params)
	}
}

func (w *writer) collection(scope string, params []spec.Parameter) spec.PathItem {
	p := spec.PathItem{PathItemProps: spec.PathItemProps{Parameters: params}}
	name := scope + w.info.Kind
	if w.info.Serves("list") {
		p.Get = w.operation("list", "list or watch objects of kind "+w.info.Kind, "list"+w.group+name, listQuery, nil, "", 200, w.list)
		p.Get.Produces = watchMedia
	}
	if w.info.Serves("create") {
		p.Post = w.operation("post", "create a "+w.info.Kind, "create"+w.group+name, writeQuery, media, w.model, 201, w.model)
	}
	if w.info.Serves("deletecollection") {
		p.Delete = w.operation("deletecollection", "delete collection of "+w.info.Kind, "delete"+w.group+"Collection"+name,
			append(slices.Clone(deleteQuery), listQuery...), media, deleteOptionsModel, 200, statusModel)
	}
	return p
}

func (w *writer) item(scope string, params []spec.Parameter) spec.PathItem {
	p := spec.PathItem{PathItemProps: spec.PathItemProps{Parameters: params}}
	name, kind := w.group+scope+w.info.Kind, w.info.Kind
	if w.info.Serves("get") {
		p.Get = w.operation("get", "read the specified "+kind, "read"+name, nil, nil, "", 200, w.model)
	}
	if w.info.Serves("update") {
		p.Put = w.operation("put", "replace the specified "+kind, "replace"+name, writeQuery, media, w.model, 200, w.model)
	}
	if w.info.Serves("patch") {
		p.Patch = w.operation("patch", "partially update the specified "+kind, "patch"+name, patchQuery, patchMedia, patchModel, 200, w.model)
	}
	if w.info.Serves("delete") {
		p.Delete = w.operation("delete", "delete a "+kind, "delete"+name, deleteQuery, media, deleteOptionsModel, 200, statusModel)
	}
	return p
}

func (w *writer) subresource(scope, sub, model string, gvk schema.GroupVersionKind, params []spec.Parameter) spec.PathItem {
	p := spec.PathItem{PathItemProps: spec.PathItemProps{Parameters: params}}
	name := w.group + scope + w.info.Kind + sub
	of := strings.ToLower(sub) + " of the specified " + w.info.Kind
	p.Get = w.operation("get", "read "+of, "read"+name, nil, nil, "", 200, model)
	p.Put = w.operation("put", "replace "+of, "replace"+name, writeQuery, media, model, 200, model)
	p.Patch = w.operation("patch", "partially update "+of, "patch"+name, patchQuery, patchMedia, patchModel, 200, model)
	for _, o := range []*spec.Operation{p.Get, p.Put, p.Patch} {
		o.Extensions = kindExtensions(o.Extensions["x-kubernetes-action"], gvk)
	}
	return p
}

func kindExtensions(action any, gvk schema.GroupVersionKind) spec.Extensions {
	return spec.Extensions{
		"x-kubernetes-action":             action,
		"x-kubernetes-group-version-kind": map[string]any{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind},
	}
}

func (w *writer) operation(action, description, id string, params []spec.Parameter, consumes []string, body string, code int, answer string) *spec.Operation {
	o := &spec.Operation{}
	o.ID, o.Description, o.Tags = id, description, []string{w.tag}
	o.Schemes, o.Produces, o.Consumes = []string{"https"}, media, consumes
	o.Extensions = kindExtensions(action, w.info.GVK())
	if body != "" {
		p := spec.Parameter{ParamProps: spec.ParamProps{Name: "body", In: "body", Required: action != "delete" && action != "deletecollection", Schema: refTo(body)}}
		o.Parameters = append(o.Parameters, p)
	}
	o.Parameters = append(o.Parameters, params...)
	responses := map[int]spec.Response{code: answerOf(code, answer), 401: {ResponseProps: spec.ResponseProps{Description: "Unauthorized"}}}
	switch action {
	case "post", "delete":
		responses[202] = answerOf(202, answer)
		responses[200] = answerOf(200, answer)
	case "put", "patch":
		responses[201] = answerOf(201, answer)
	}
	o.Responses = &spec.Responses{ResponsesProps: spec.ResponsesProps{StatusCodeResponses: responses}}
	return o
}

func refTo(model string) *spec.Schema {
	return &spec.Schema{SchemaProps: spec.SchemaProps{Ref: spec.MustCreateRef(models.RefPrefix + model)}}
}

func answerOf(code int, model string) spec.Response {
	says := map[int]string{200: "OK", 201: "Created", 202: "Accepted"}[code]
	return spec.Response{ResponseProps: spec.ResponseProps{Description: says, Schema: refTo(model)}}
}

// groupVersions lists what the rows are in, in order, and the rows of each.
func groupVersions() ([]schema.GroupVersion, map[schema.GroupVersion][]kinds.Row) {
	rows := map[schema.GroupVersion][]kinds.Row{}
	for _, r := range kinds.All {
		gv := r.Describe().GVK().GroupVersion()
		rows[gv] = append(rows[gv], r)
	}
	order := slices.SortedFunc(maps.Keys(rows), func(a, b schema.GroupVersion) int { return strings.Compare(a.String(), b.String()) })
	return order, rows
}
