package kinds

import (
	"bytes"
	"errors"
	"fmt"
	"mime"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/rutterhq/rutter/kernel"
)

// The content types that bodies come in.
const (
	ContentJSON     = runtime.ContentTypeJSON
	ContentYAML     = runtime.ContentTypeYAML
	ContentProtobuf = runtime.ContentTypeProtobuf
)

// ErrContentType: the body is in a form that is not known.
var ErrContentType = errors.New("the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf")

// protobufMark begins every protobuf body of Kubernetes.
var protobufMark = []byte{'k', '8', 's', 0}

// strictDecoding is decoding that takes nothing it does not know.
var strictDecoding = json.JoinOptions(json.RejectUnknownMembers(true), jsontext.AllowInvalidUTF8(true))

// DecodeStrict reads an object of the row from a body in JSON, YAML or protobuf.
// strict are its unknown and duplicate fields, in Kubernetes' words; the object
// is complete without them. What they mean is the caller's to decide, by
// StrictRefusal and StrictWarnings. err is a *kernel.Refusal that names what
// does not fit (a wrong type, another kind), or ErrContentType.
func DecodeStrict(row Row, body []byte, contentType string) (o kernel.Object, strict []error, err error) {
	o = row.NewObject()
	want := row.Describe().GVK()
	have, strict, err := DecodeInto(body, contentType, o)
	if errors.Is(err, ErrContentType) {
		return nil, nil, err
	}
	if have.Kind == "" {
		have.Kind = want.Kind
	}
	if have.Version == "" {
		have.Group, have.Version = want.Group, want.Version
	}
	switch {
	case err != nil:
		return nil, nil, cannotHandle(have, want.Kind, err)
	case have.Kind != want.Kind:
		return nil, nil, cannotHandle(have, want.Kind, fmt.Errorf("no kind %q is registered for version %q here", have.Kind, have.GroupVersion()))
	case have != want:
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf(
			"the API version in the data (%s) does not match the expected API version (%s)", have.GroupVersion(), want.GroupVersion()))
	}
	o.GetObjectKind().SetGroupVersionKind(want)
	return o, strict, nil
}

func cannotHandle(have schema.GroupVersionKind, want string, err error) *kernel.Refusal {
	return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", have.Kind, have.Version, want, err))
}

// StrictRefusal is the answer to a body with unknown or duplicate fields where
// fieldValidation is Strict.
func StrictRefusal(row Row, strict []error) *kernel.Refusal {
	gvk := row.Describe().GVK()
	return cannotHandle(gvk, gvk.Kind, runtime.NewStrictDecodingError(strict))
}

// StrictWarnings are the warnings for it where fieldValidation is Warn.
func StrictWarnings(strict []error) []string {
	var warnings []string
	for _, e := range strict {
		for _, line := range strings.Split(e.Error(), "\n") {
			// YAML says all at once, in a list with a heading.
			if line = strings.TrimSpace(line); !strings.HasSuffix(line, ":") && line != "" {
				warnings = append(warnings, line)
			}
		}
	}
	return warnings
}

// DecodeInto reads any API object, such as DeleteOptions, from a body. have is
// the kind that the body says it is; its parts may be empty.
func DecodeInto(body []byte, contentType string, into runtime.Object) (have schema.GroupVersionKind, strict []error, err error) {
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil && contentType != "" {
		return have, nil, ErrContentType
	}
	switch media {
	case "", "*/*", ContentJSON:
		strict, err = unmarshalStrict(body, into)
	case ContentYAML, "text/yaml", "application/x-yaml", "text/x-yaml":
		strict, err = unmarshalYAML(body, into)
	case ContentProtobuf:
		return unmarshalProto(body, into)
	default:
		return have, nil, ErrContentType
	}
	return into.GetObjectKind().GroupVersionKind(), strict, err
}

// unmarshalStrict reads JSON. The fast decoder takes only what has no fault;
// whatever it does not take is read again by the one that words the errors.
func unmarshalStrict(body []byte, into runtime.Object) (strict []error, err error) {
	if json.Unmarshal(body, into, strictDecoding) == nil {
		return nil, nil
	}
	reset(into)
	return kjson.UnmarshalStrict(body, into)
}

// reset clears what a decoder has left of an object.
func reset(o runtime.Object) {
	if r, ok := o.(interface{ Reset() }); ok {
		r.Reset()
	}
}

// unmarshalYAML reads YAML as Kubernetes does: as JSON in another notation.
func unmarshalYAML(body []byte, into runtime.Object) (strict []error, err error) {
	doc, err := yaml.YAMLToJSON(body)
	if err != nil {
		return nil, fmt.Errorf("error converting YAML to JSON: %w", err)
	}
	strict, err = unmarshalStrict(doc, into)
	if err != nil {
		return nil, err
	}
	// Keys that stand twice are lost in the conversion, so they are looked for
	// in the original.
	if _, twice := yaml.YAMLToJSONStrict(body); twice != nil {
		strict = append([]error{twice}, strict...)
	}
	return strict, nil
}

// protoMessage is what the API types are in protobuf.
type protoMessage interface {
	Unmarshal([]byte) error
	Reset()
}

func unmarshalProto(body []byte, into runtime.Object) (have schema.GroupVersionKind, strict []error, err error) {
	raw, ok := bytes.CutPrefix(body, protobufMark)
	if !ok {
		return have, nil, fmt.Errorf("provided data does not appear to be a protobuf message, expected prefix %v", protobufMark)
	}
	var envelope runtime.Unknown
	if err := envelope.Unmarshal(raw); err != nil {
		return have, nil, fmt.Errorf("unmarshal the protobuf envelope: %w", err)
	}
	message, ok := into.(protoMessage)
	if !ok {
		return have, nil, fmt.Errorf("object %T has no protobuf form", into)
	}
	message.Reset()
	if err := message.Unmarshal(envelope.Raw); err != nil {
		return have, nil, fmt.Errorf("unmarshal protobuf: %w", err)
	}
	return envelope.GroupVersionKind(), nil, nil
}

// EncodeProto gives any API object (an object, a list, a Status, ...) in
// Kubernetes' protobuf form. The object's kind and apiVersion must be set.
func EncodeProto(o runtime.Object) ([]byte, error) {
	var out bytes.Buffer
	if err := protobuf.NewSerializer(nil, nil).Encode(o, &out); err != nil {
		return nil, fmt.Errorf("encode %T as protobuf: %w", o, err)
	}
	return out.Bytes(), nil
}

// ValidDirective tells whether s is a fieldValidation that requests may name;
// "" means Warn.
func ValidDirective(s string) bool {
	switch s {
	case "", metav1.FieldValidationStrict, metav1.FieldValidationWarn, metav1.FieldValidationIgnore:
		return true
	}
	return false
}
