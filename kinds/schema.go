package kinds

import (
	"bytes"
	"fmt"
	"reflect"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	jsonv1 "github.com/go-json-experiment/json/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
)

// Schema is what the kernel must know about Kubernetes objects: their Keys,
// their bodies in the log, and the rules of a write (Finish). It is a value
// without state, safe for concurrent use, and needs no pointer: both Schema and
// *Schema are a kernel.Schema.
type Schema struct {
	// Cluster is the uid of the cluster; uids of made objects derive from it.
	Cluster string
	// Seal is the 32-byte key of the cluster that Secrets without a key of their
	// own are encrypted with in the log (see seal.go), or nil in a process that
	// must not read them.
	Seal []byte
	// Keys holds the keys of Secrets that have their own, or is nil in a process
	// that must not read them.
	Keys events.Keys
}

var _ kernel.Schema = Schema{}

// rowOfType finds the row of an object by its Go type. It is filled at start
// rather than in its declaration, because rows have functions that use it.
var rowOfType map[reflect.Type]Row

func init() {
	rowOfType = make(map[reflect.Type]Row, len(All))
	for _, r := range All {
		rowOfType[reflect.TypeOf(r.NewObject())] = r
	}
}

// RowOf returns the row of an object by its Go type.
func RowOf(o kernel.Object) (Row, bool) {
	r, ok := rowOfType[reflect.TypeOf(o)]
	return r, ok
}

// mustRowOf is RowOf for objects that this process made or decoded itself.
func mustRowOf(o kernel.Object) Row {
	r, ok := RowOf(o)
	if !ok {
		panic(fmt.Sprintf("%T has no row in kinds.All, yet it is handled as an object", o))
	}
	return r
}

// KeyOf implements kernel.Schema. It panics for an object of a type that has no
// row: such an object cannot be in the log.
func (Schema) KeyOf(o kernel.Object) kernel.Key {
	info := mustRowOf(o).Describe()
	if info.Cluster {
		return info.Key("", o.GetName())
	}
	return info.Key(o.GetNamespace(), o.GetName())
}

// SetTypeMeta fills in kind and apiVersion from the object's row.
func SetTypeMeta(o kernel.Object) {
	gvk := mustRowOf(o).Describe().GVK()
	if k := o.GetObjectKind(); k.GroupVersionKind() != gvk {
		k.SetGroupVersionKind(gvk)
	}
}

// encoding makes the bytes of encoding/json, which is what Kubernetes' clients
// know, with the encoder that is several times faster.
var encoding = json.JoinOptions(jsonv1.DefaultOptionsV1(), json.Deterministic(true))

// decoding reads as Kubernetes' own decoder does: names match exactly, unknown
// ones are ignored, the last of two equal ones wins.
var decoding = json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

// EncodeJSON gives an object as the API's clients see it: JSON that begins with
// kind and apiVersion, from the row where the object leaves them out.
func EncodeJSON(o kernel.Object) ([]byte, error) {
	body, err := json.Marshal(o, encoding)
	if err != nil {
		return nil, fmt.Errorf("encode %T %s/%s: %w", o, o.GetNamespace(), o.GetName(), err)
	}
	if have := o.GetObjectKind().GroupVersionKind(); have.Kind == "" || have.Version == "" {
		body = withTypeMeta(body, o)
	}
	return body, nil
}

// withTypeMeta puts kind and apiVersion in front of a body that lacks one of
// them. The object itself may be shared and stays as it is.
func withTypeMeta(body []byte, o kernel.Object) []byte {
	for _, member := range []string{`"kind":`, `"apiVersion":`} {
		if bytes.HasPrefix(body[1:], []byte(member)) {
			_, after, _ := bytes.Cut(body, []byte(","))
			body = append([]byte("{"), after...)
		}
	}
	gvk := mustRowOf(o).Describe().GVK()
	head := fmt.Sprintf(`{"kind":%q,"apiVersion":%q,`, gvk.Kind, gvk.GroupVersion().String())
	return append([]byte(head), body[1:]...)
}

// Encode gives the body of a Record: EncodeJSON without resourceVersion and with
// what is secret sealed.
func (s Schema) Encode(o kernel.Object) ([]byte, error) {
	o, err := s.sealed(o)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", s.KeyOf(o), err)
	}
	body, err := EncodeJSON(o)
	if err != nil {
		return nil, err
	}
	return withoutVersion(body, o.GetResourceVersion()), nil
}

// withoutVersion cuts metadata.resourceVersion out of a body. Only strings of
// metadata come before it in the order of encoding, and a string cannot hold an
// unescaped quotation mark, so the first match is the member itself.
func withoutVersion(body []byte, version string) []byte {
	if version == "" {
		return body
	}
	member := []byte(`"resourceVersion":` + strconv.Quote(version))
	at := bytes.Index(body, member)
	if at < 0 {
		return body
	}
	end := at + len(member)
	switch {
	case body[end] == ',':
		end++
	case body[at-1] == ',':
		at--
	}
	return append(body[:at], body[end:]...)
}

// Decode implements kernel.Schema.
func (s Schema) Decode(k kernel.Key, body []byte) (kernel.Object, error) {
	row, ok := RowFor(k.Resource)
	if !ok {
		return nil, fmt.Errorf("decode %s: no such resource is known", k)
	}
	o := row.NewObject()
	if err := json.Unmarshal(body, o, decoding); err != nil {
		return nil, fmt.Errorf("decode %s: %w", k, err)
	}
	SetTypeMeta(o)
	if err := s.opened(o); err != nil {
		return nil, fmt.Errorf("decode %s: %w", k, err)
	}
	return o, nil
}
