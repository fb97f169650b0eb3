package apiserver

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/rutterhq/rutter/kernel"
)

const (
	// continueLife is how long a list can be gone on with at its own version after
	// a page of it was given: what Kubernetes' clients count on.
	continueLife = 5 * time.Minute
	// flushAt is how many bytes of a list are collected before they are sent.
	flushAt = 256 << 10
)

// list answers with the objects of a resource.
func (r *request) list() error {
	f, err := r.negotiate(true)
	if err != nil {
		return err
	}
	o, err := r.parseListOptions(false)
	if err != nil {
		return err
	}
	p, err := r.page(&o)
	if err != nil {
		return err
	}
	return r.writeList(f, p)
}

// page is a part of a list, or all of it.
type page struct {
	meta    metav1.ListMeta
	entries []*kernel.Entry
}

// page collects the part of the list that was asked for.
func (r *request) page(o *listOptions) (page, error) {
	view, after, consistent, err := r.listView(o)
	if err != nil {
		return page{}, err
	}
	sel := r.selection(o)
	p := page{meta: metav1.ListMeta{ResourceVersion: fmt.Sprint(view.Seq())}}
	var more int64
	collect := func(e *kernel.Entry) {
		switch {
		case !sel.matches(e):
		case o.limit > 0 && int64(len(p.entries)) == o.limit:
			more++
		default:
			p.entries = append(p.entries, e)
		}
	}
	if sel.name != "" && (sel.namespace != "" || r.kind.Cluster) {
		if e := view.Entry(r.kind.Key(sel.namespace, sel.name)); e != nil && !e.Delete {
			collect(e)
		}
	} else {
		for e := range view.EntriesFrom(sel.resource, sel.namespace, after) {
			collect(e)
			// Counting what is left decodes it when there is a selector: then
			// the API leaves the count out, so one more is enough.
			if more > 0 && (!sel.labels.Empty() || !sel.fields.Empty()) {
				break
			}
		}
	}
	r.s.project.list(r.Context(), view, &sel, after, func(e *kernel.Entry) {
		if e.Seq <= view.Seq() || !o.past(r) {
			collect(e)
		}
	})
	if more > 0 {
		last := p.entries[len(p.entries)-1].Key.String()
		p.meta.Continue = continueToken{Seq: view.Seq(), After: last, Given: time.Now().Unix(), Fresh: !consistent}.encode()
		if sel.labels.Empty() && sel.fields.Empty() {
			p.meta.RemainingItemCount = &more
		}
		r.s.past.hold(view)
	}
	return p, nil
}

// listView picks the View that a list shows and the Key that it goes on after.
// consistent is false for a list that goes on at another version than it began.
func (r *request) listView(o *listOptions) (v *kernel.View, after string, consistent bool, err error) {
	if o.token != "" {
		if o.version != "" && o.version != "0" {
			return nil, "", false, badRequest("specifying resource version is not allowed when using continue")
		}
		t, err := decodeContinue(o.token)
		if err != nil {
			return nil, "", false, err
		}
		if t.Fresh {
			v, err := r.s.index.view(r.Context())
			return v, t.After, true, err
		}
		if time.Since(time.Unix(t.Given, 0)) > continueLife {
			return nil, "", false, continueExpired(t)
		}
		v, err := r.s.viewAt(r.Context(), t.Seq)
		if apierrors.IsResourceExpired(err) {
			err = continueExpired(t)
		}
		return v, t.After, true, err
	}
	if r.past != nil {
		return r.past, "", true, nil
	}
	if o.exact() {
		seq, err := parseVersion(o.version)
		if err != nil {
			return nil, "", false, err
		}
		v, err := r.s.viewAt(r.Context(), seq)
		return v, "", true, err
	}
	v, err = r.viewFor(o.version)
	return v, "", true, err
}

// exact tells whether a list is to be as it was at its version.
func (o *listOptions) exact() bool {
	return o.match == metav1.ResourceVersionMatchExact || o.match == "" && o.limit > 0 && o.version != "" && o.version != "0"
}

// past tells whether a list may not show what came after its version.
func (o *listOptions) past(r *request) bool { return r.past != nil || o.exact() || o.token != "" }

// continueToken says where a list goes on. It is opaque to clients.
type continueToken struct {
	Seq   kernel.Seq `json:"rv"`
	After string     `json:"start"` // the last Key that was shown
	Given int64      `json:"given"` // when, in seconds of Unix time
	Fresh bool       `json:"fresh,omitempty"`
}

func (t continueToken) encode() string {
	data, err := json.Marshal(t)
	if err != nil {
		panic("a continue token of two strings and a number did not encode: " + err.Error())
	}
	return base64.RawURLEncoding.EncodeToString(data)
}

func decodeContinue(s string) (t continueToken, err error) {
	data, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(data, &t)
	}
	if err != nil {
		return t, badRequest("continue key is not valid: %v", err)
	}
	return t, nil
}

// continueExpired is 410 with a token that goes on without the version.
func continueExpired(t continueToken) error {
	s := statusError(http.StatusGone, metav1.StatusReasonExpired,
		"The provided continue parameter is too old to display a consistent list result. You can start a new list without "+
			"the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "+
			"Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "+
			"deleted between the time the first chunk was returned and now may show up in the list.")
	t.Fresh = true
	s.Continue = t.encode()
	return &statusErr{*s}
}

// statusErr is a Status as an error, its ListMeta included.
type statusErr struct{ status metav1.Status }

// Error implements error.
func (e *statusErr) Error() string { return e.status.Message }

// Status implements apierrors.APIStatus.
func (e *statusErr) Status() metav1.Status { return e.status }

// writeList answers with a list, whole lists of JSON piece by piece.
func (r *request) writeList(f form, p page) error {
	gvk := r.kind.GVK()
	gvk.Kind += "List"
	switch {
	case f.shape != shapeWhole:
		objects := make([]kernel.Object, len(p.entries))
		for i, e := range p.entries {
			objects[i] = r.s.at(e, e.Seq)
		}
		body, err := r.shapedList(f, p.meta, objects)
		if err != nil {
			return err
		}
		r.writeBody(http.StatusOK, f, body)
		return nil
	case f.media == mediaProto:
		items := make([][]byte, len(p.entries))
		for i, e := range p.entries {
			raw, err := r.s.protoRaw(e)
			if err != nil {
				return err
			}
			items[i] = raw
		}
		body, err := protoList(p.meta, items, gvk)
		if err != nil {
			return err
		}
		r.writeBody(http.StatusOK, f, body)
		return nil
	}
	return r.writeJSONList(f, p, gvk)
}

func (r *request) shapedList(f form, meta metav1.ListMeta, objects []kernel.Object) ([]byte, error) {
	if f.shape == shapePartial {
		return f.partialList(meta, objects)
	}
	t, err := r.tableOf(f, objects)
	if err != nil {
		return nil, err
	}
	t.ListMeta = meta
	body, err := json.Marshal(t)
	if err != nil {
		return nil, fmt.Errorf("encode table: %w", err)
	}
	return f.finish(body)
}

// writeJSONList copies the bodies of a list into the answer.
func (r *request) writeJSONList(f form, p page, gvk schema.GroupVersionKind) error {
	meta, err := json.Marshal(p.meta)
	if err != nil {
		return fmt.Errorf("encode list metadata: %w", err)
	}
	stream := f.media == mediaJSON && !f.pretty
	out := make([]byte, 0, r.listSize(&p, stream))
	out = append(out, `{"kind":`...)
	out = strconv.AppendQuote(out, gvk.Kind)
	out = append(out, `,"apiVersion":`...)
	out = strconv.AppendQuote(out, gvk.GroupVersion().String())
	out = append(out, `,"metadata":`...)
	out = append(out, meta...)
	out = append(out, `,"items":[`...)
	if stream {
		h := r.w.Header()
		h.Set("Content-Type", f.media.String())
		h.Set("Cache-Control", "no-cache, private")
	}
	for i, e := range p.entries {
		if i > 0 {
			out = append(out, ',')
		}
		if out, err = r.s.appendEntry(out, r.row, e, e.Seq, true); err != nil {
			return err
		}
		if stream && len(out) > flushAt {
			if _, err := r.w.Write(out); err != nil {
				return nil // the client has left
			}
			out = out[:0]
		}
	}
	out = append(out, "]}"...)
	if stream {
		_, _ = r.w.Write(out) // the client may have left
		return nil
	}
	if out, err = f.finish(out); err != nil {
		return err
	}
	r.writeBody(http.StatusOK, f, out)
	return nil
}

// listSize is about how many bytes of a list are held at once.
func (r *request) listSize(p *page, stream bool) int {
	size := 256
	limit := math.MaxInt
	if stream {
		limit = flushAt + flushAt/4
	}
	for _, e := range p.entries {
		if size += len(e.Body) + 40; size > limit {
			return limit
		}
	}
	return size
}
