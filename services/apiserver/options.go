package apiserver

import (
	"net/url"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// listOptions are the query of a list or watch (meta/v1 ListOptions).
type listOptions struct {
	labels    labels.Selector
	fields    fields.Selector
	version   string
	match     metav1.ResourceVersionMatch
	limit     int64
	token     string        // of the list to go on with
	timeout   time.Duration // 0: none was given
	bookmarks bool
	initial   *bool // sendInitialEvents
}

// parseListOptions reads and checks the query of a list or watch.
func (r *request) parseListOptions(watch bool) (o listOptions, err error) {
	q := r.query
	if o.labels, err = labels.Parse(q.Get("labelSelector")); err != nil {
		return o, badRequest("unable to parse requirement: %v", err)
	}
	if o.fields, err = fields.ParseSelector(q.Get("fieldSelector")); err != nil {
		return o, badRequest("%v", err)
	}
	if err := r.checkFields(o.fields); err != nil {
		return o, err
	}
	o.version, o.token = q.Get("resourceVersion"), q.Get("continue")
	o.match = metav1.ResourceVersionMatch(q.Get("resourceVersionMatch"))
	if s := q.Get("limit"); s != "" {
		if o.limit, err = strconv.ParseInt(s, 10, 64); err != nil {
			return o, badRequest("limit: %v", err)
		}
	}
	if s := q.Get("timeoutSeconds"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return o, badRequest("timeoutSeconds: %v", err)
		}
		o.timeout = time.Duration(n) * time.Second
	}
	o.bookmarks = flag(q, "allowWatchBookmarks")
	if s := q.Get("sendInitialEvents"); s != "" {
		v := flag(q, "sendInitialEvents")
		o.initial = &v
	}
	if errs := o.validate(watch); len(errs) > 0 {
		return o, apierrors.NewInvalid(schema.GroupKind{Group: metaGroup, Kind: "ListOptions"}, "", errs)
	}
	return o, nil
}

// flag reads a boolean as the API's clients write it.
func flag(q url.Values, name string) bool {
	values, ok := q[name]
	return ok && len(values) > 0 && values[0] != "false" && values[0] != "0"
}

// validate checks the combinations that the API forbids (KEP-2523, KEP-3157).
func (o *listOptions) validate(watch bool) (errs field.ErrorList) {
	match := field.NewPath("resourceVersionMatch")
	if watch {
		if o.initial == nil {
			if o.match != "" {
				errs = append(errs, field.Forbidden(match, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"))
			}
			return errs
		}
		if o.match != metav1.ResourceVersionMatchNotOlderThan {
			errs = append(errs, field.Forbidden(match, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"))
		}
		return errs
	}
	if o.initial != nil {
		errs = append(errs, field.Forbidden(field.NewPath("sendInitialEvents"), "sendInitialEvents is forbidden for list"))
	}
	if o.match == "" {
		return errs
	}
	if o.version == "" {
		errs = append(errs, field.Forbidden(match, "resourceVersionMatch is forbidden unless resourceVersion is provided"))
	}
	if o.token != "" {
		errs = append(errs, field.Forbidden(match, "resourceVersionMatch is forbidden when continue is provided"))
	}
	if o.match != metav1.ResourceVersionMatchExact && o.match != metav1.ResourceVersionMatchNotOlderThan {
		errs = append(errs, field.NotSupported(match, o.match, []string{"Exact", "NotOlderThan", ""}))
	}
	if o.match == metav1.ResourceVersionMatchExact && o.version == "0" {
		errs = append(errs, field.Forbidden(match, `resourceVersionMatch "Exact" is forbidden for resourceVersion "0"`))
	}
	return errs
}

// checkFields refuses selectors for fields that the kind does not offer.
func (r *request) checkFields(s fields.Selector) error {
	if s.Empty() {
		return nil
	}
	have := r.row.FieldsOf(r.row.NewObject())
	for _, req := range s.Requirements() {
		if !have.Has(req.Field) {
			return badRequest("field label not supported: %s", req.Field)
		}
	}
	return nil
}

// selection decides which entries a list or watch shows. Decoding is avoided
// where the Key is enough.
type selection struct {
	row       kinds.Row
	resource  kernel.Resource
	namespace string // "" is all
	name      string // "" is all
	labels    labels.Selector
	fields    fields.Selector
}

func (r *request) selection(o *listOptions) selection {
	s := selection{row: r.row, resource: r.kind.Resource, namespace: r.info.Namespace, name: r.info.Name, labels: o.labels, fields: o.fields}
	if r.kind.Cluster {
		s.namespace = ""
	}
	if name, ok := s.fields.RequiresExactMatch("metadata.name"); ok && s.name == "" && len(s.fields.Requirements()) == 1 {
		s.name, s.fields = name, fields.Everything()
	}
	if ns, ok := s.fields.RequiresExactMatch("metadata.namespace"); ok && s.namespace == "" && len(s.fields.Requirements()) == 1 {
		s.namespace, s.fields = ns, fields.Everything()
	}
	return s
}

// keyed tells whether an event about the Key can matter.
func (s *selection) keyed(k kernel.Key) bool {
	return k.Resource == s.resource && (s.namespace == "" || k.Namespace == s.namespace) && (s.name == "" || k.Name == s.name)
}

// matches judges an entry, a tombstone by what it was last.
func (s *selection) matches(e *kernel.Entry) bool {
	if e == nil || !s.keyed(e.Key) {
		return false
	}
	if !s.labels.Empty() && !s.labels.Matches(labels.Set(e.Object().GetLabels())) {
		return false
	}
	return s.fields.Empty() || s.fields.Matches(s.row.FieldsOf(e.Object()))
}

// dryRun reads ?dryRun=All, which may come more than once.
func (r *request) dryRun(values []string) (bool, error) {
	for _, v := range values {
		if v != metav1.DryRunAll {
			return false, apierrors.NewInvalid(schema.GroupKind{Group: metaGroup, Kind: "Options"}, "", field.ErrorList{
				field.NotSupported(field.NewPath("dryRun"), values, []string{metav1.DryRunAll})})
		}
	}
	return len(values) > 0, nil
}

// warn adds Warning headers as RFC 7234 §5.5 writes them.
func (r *request) warn(texts ...string) {
	for _, text := range texts {
		r.w.Header().Add("Warning", "299 - "+strconv.Quote(text))
	}
}
