package apiserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// media is how an answer is written down.
type media uint8

const (
	mediaJSON media = iota
	mediaYAML
	mediaProto
)

const (
	typeJSON  = "application/json"
	typeYAML  = "application/yaml"
	typeProto = "application/vnd.kubernetes.protobuf"
)

func (m media) String() string { return [...]string{typeJSON, typeYAML, typeProto}[m] }

// shape is what of an object an answer shows.
type shape uint8

const (
	shapeWhole   shape = iota
	shapeTable         // meta.k8s.io Table, for people
	shapePartial       // meta.k8s.io PartialObjectMetadata
)

// form is what a client accepts.
type form struct {
	media   media
	shape   shape
	version string // of meta.k8s.io, for tables and partial objects
	group   string // g and v as they were asked for, for discovery
	as      string
	pretty  bool
}

var form0 form // plain JSON

// negotiate picks the first of the accepted media types that is served, by
// their weights and then by their order. transforms: tables and partial
// objects are served here.
func negotiate(r *http.Request, transforms bool) (form, error) {
	accept := strings.Join(r.Header.Values("Accept"), ",")
	f, ok := form0, accept == ""
	best := -1.0
	for clause := range strings.SplitSeq(accept, ",") {
		if ok && accept == "" {
			break
		}
		if strings.TrimSpace(clause) == "" {
			continue
		}
		candidate, q, served := parseAccept(clause, transforms)
		if served && q > best {
			f, best, ok = candidate, q, true
		}
	}
	if !ok {
		return form0, notAcceptable()
	}
	if f.media == mediaJSON {
		f.pretty = wantsPretty(r)
	}
	return f, nil
}

// negotiate is negotiate for objects of the request's resource: a kind without a
// protobuf form is given as JSON, if the client takes that too.
func (r *request) negotiate(transforms bool) (form, error) {
	f, err := negotiate(r.Request, transforms)
	if err != nil || f.media != mediaProto || f.shape != shapeWhole || r.row == nil {
		return f, err
	}
	if _, ok := r.row.NewObject().(protoMarshaler); ok {
		return f, nil
	}
	if accept := strings.Join(r.Header.Values("Accept"), ","); !strings.Contains(accept, typeJSON) && !strings.Contains(accept, "*/*") {
		return f, notAcceptable()
	}
	f.media = mediaJSON
	return f, nil
}

func parseAccept(clause string, transforms bool) (f form, q float64, ok bool) {
	t, params, err := mime.ParseMediaType(clause)
	if err != nil {
		return f, 0, false
	}
	q = 1
	if s, has := params["q"]; has {
		if q, err = strconv.ParseFloat(s, 64); err != nil || q <= 0 {
			return f, 0, false
		}
	}
	switch t {
	case typeJSON, "*/*", "application/*":
		f.media = mediaJSON
	case typeYAML, "application/x-yaml", "text/yaml":
		f.media = mediaYAML
	case typeProto:
		f.media = mediaProto
	default:
		return f, 0, false
	}
	f.as, f.group, f.version = params["as"], params["g"], params["v"]
	if f.as == "" {
		return f, q, true
	}
	if !transforms || f.group != "meta.k8s.io" || f.version != "v1" && f.version != "v1beta1" {
		return f, q, false
	}
	switch f.as {
	case "Table":
		f.shape = shapeTable
		return f, q, f.media != mediaProto
	case "PartialObjectMetadata", "PartialObjectMetadataList":
		f.shape = shapePartial
		return f, q, true
	}
	return f, q, false
}

// wantsPretty tells whether a person reads the answer.
func wantsPretty(r *http.Request) bool {
	if strings.Contains(r.URL.RawQuery, "pretty=") {
		v := r.URL.Query().Get("pretty")
		return v != "" && v != "0" && v != "false"
	}
	agent := r.UserAgent()
	return strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
}

// encode writes any API type that is not kept in the log.
func (f form) encode(o runtime.Object, gvk schema.GroupVersionKind) ([]byte, error) {
	if f.media == mediaProto {
		return encodeProto(o, gvk)
	}
	if o.GetObjectKind().GroupVersionKind() != gvk {
		o = o.DeepCopyObject()
		o.GetObjectKind().SetGroupVersionKind(gvk)
	}
	body, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", gvk.Kind, err)
	}
	return f.finish(body)
}

// finish turns JSON into the text form that was asked for.
func (f form) finish(body []byte) ([]byte, error) {
	switch {
	case f.media == mediaYAML:
		out, err := yaml.JSONToYAML(body)
		if err != nil {
			return nil, fmt.Errorf("encode as yaml: %w", err)
		}
		return out, nil
	case f.pretty:
		var out bytes.Buffer
		if err := json.Indent(&out, body, "", "  "); err != nil {
			return nil, fmt.Errorf("indent: %w", err)
		}
		out.WriteByte('\n')
		return out.Bytes(), nil
	}
	return body, nil
}

// writeBody answers with bytes that are encoded already.
func (r *request) writeBody(code int, f form, body []byte) {
	h := r.w.Header()
	h.Set("Content-Type", f.media.String())
	h.Set("Cache-Control", "no-cache, private")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	r.w.WriteHeader(code)
	if r.Method != http.MethodHead {
		_, _ = r.w.Write(body) // the client has left: nobody to tell
	}
}

// The head of every body in the log, but for the names in it, is
//
//	{"kind":"Pod","apiVersion":"v1","metadata":{
//
// and the object's resourceVersion goes after it.
var metadataMember = []byte(`"metadata":{`)

// splice is where a body is cut open for the resourceVersion.
func splice(body []byte) int {
	at := bytes.Index(body[:min(len(body), 256)], metadataMember)
	if at < 0 {
		panic(fmt.Sprintf("a body in the log has no metadata near its beginning: %.80q", body))
	}
	return at + len(metadataMember)
}

// appendVersioned appends a body with its resourceVersion put in. In a list
// items carry neither kind nor apiVersion.
func appendVersioned(out, body []byte, seq kernel.Seq, item bool) []byte {
	cut := splice(body)
	if item {
		out = append(out, `{"metadata":{`...)
	} else {
		out = append(out, body[:cut]...)
	}
	out = append(out, `"resourceVersion":"`...)
	out = strconv.AppendUint(out, uint64(seq), 10)
	out = append(out, '"')
	if body[cut] != '}' {
		out = append(out, ',')
	}
	return append(out, body[cut:]...)
}

// appendEntry appends an entry of the View as whole JSON at the given
// resourceVersion: its own, but for a watcher who sees it leave a selection.
func (s *Server) appendEntry(out []byte, row kinds.Row, e *kernel.Entry, seq kernel.Seq, item bool) ([]byte, error) {
	if !row.Describe().Sealed {
		return appendVersioned(out, e.Body, seq, item), nil
	}
	// Its data is encrypted in the log.
	body, err := kinds.EncodeJSON(s.at(e, seq))
	if err != nil {
		return out, err
	}
	if item {
		return append(append(out, `{"metadata":{`...), body[splice(body):]...), nil
	}
	return append(out, body...), nil
}

// at is an entry's object at a resourceVersion that may be another than its own.
// One with sealed values is opened for everybody anew: once its key is
// destroyed, nobody gets what was opened before.
func (s *Server) at(e *kernel.Entry, seq kernel.Seq) kernel.Object {
	var o kernel.Object
	if sealed(e) {
		o, _ = s.cfg.Schema.Decode(e.Key, e.Body) // e.Object tells what is wrong with it
	}
	if o == nil {
		if o = e.Object(); seq == e.Seq {
			return o
		}
		o = o.DeepCopyObject().(kernel.Object)
	}
	o.SetResourceVersion(strconv.FormatUint(uint64(seq), 10))
	return o
}

// encodeEntry writes one entry in the form that was asked for.
func (r *request) encodeEntry(f form, e *kernel.Entry) ([]byte, error) {
	return r.encodeObjectIn(f, e, nil)
}

// encodeObjectIn writes an entry, or an object that is not in the View yet.
func (r *request) encodeObjectIn(f form, e *kernel.Entry, o kernel.Object) ([]byte, error) {
	object := func() kernel.Object {
		if o == nil {
			return r.s.at(e, e.Seq)
		}
		return o
	}
	switch {
	case f.shape == shapeTable:
		table, err := r.table(f, []kernel.Object{object()})
		if err != nil {
			return nil, err
		}
		return f.finish(table)
	case f.shape == shapePartial:
		return f.partial(object())
	case f.media == mediaProto && e != nil:
		return r.s.protoEntry(r.row, e)
	case f.media == mediaProto:
		return encodeProto(o, r.kind.GVK())
	case e != nil:
		body, err := r.s.appendEntry(make([]byte, 0, len(e.Body)+40), r.row, e, e.Seq, false)
		if err != nil {
			return nil, err
		}
		return f.finish(body)
	}
	body, err := kinds.EncodeJSON(o)
	if err != nil {
		return nil, err
	}
	return f.finish(body)
}

// writeWritten answers with an object that was just written, or would be. What
// went to the log is what the client gets, with its version put in.
func (r *request) writeWritten(code int, res written) error {
	f, err := r.negotiate(true)
	if err != nil {
		return err
	}
	var body []byte
	if res.body != nil && !r.kind.Sealed && f.shape == shapeWhole && f.media != mediaProto {
		body, err = f.finish(appendVersioned(make([]byte, 0, len(res.body)+40), res.body, res.seq, false))
	} else {
		body, err = r.encodeObjectIn(f, nil, res.object)
	}
	if err != nil {
		return err
	}
	r.writeBody(code, f, body)
	return nil
}

// writeAPI answers with an API type that is not kept in the log.
func (r *request) writeAPI(code int, o runtime.Object, gvk schema.GroupVersionKind) error {
	f, err := negotiate(r.Request, false)
	if err != nil {
		return err
	}
	body, err := f.encode(o, gvk)
	if err != nil {
		return err
	}
	r.writeBody(code, f, body)
	return nil
}

// known tells whether a query parameter has one of the values.
func known(value string, values ...string) bool { return slices.Contains(values, value) }
