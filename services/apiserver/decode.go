package apiserver

import (
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

const readableTypes = "application/json, application/yaml, application/vnd.kubernetes.protobuf"

// fieldValidation reads what shall happen with unknown and duplicate fields
// (KEP-2885).
func (r *request) fieldValidation() (string, error) {
	v := r.query.Get("fieldValidation")
	if !kinds.ValidDirective(v) {
		return "", apierrors.NewInvalid(schema.GroupKind{Group: metaGroup, Kind: "Options"}, "", field.ErrorList{
			field.NotSupported(field.NewPath("fieldValidation"), v, []string{
				metav1.FieldValidationIgnore, metav1.FieldValidationStrict, metav1.FieldValidationWarn})})
	}
	if v == "" {
		v = metav1.FieldValidationWarn
	}
	return v, nil
}

// decodeObject reads the object of a create or update, and judges fields that
// are unknown or stand twice as the client asked for.
func (r *request) decodeObject() (kernel.Object, error) {
	directive, err := r.fieldValidation()
	if err != nil {
		return nil, err
	}
	data, err := r.body()
	if err != nil {
		return nil, err
	}
	r.raw = data
	o, strict, err := kinds.DecodeStrict(r.row, data, r.Header.Get("Content-Type"))
	if errors.Is(err, kinds.ErrContentType) {
		return nil, unsupportedMedia(readableTypes)
	}
	if err != nil {
		return nil, err
	}
	r.place(o)
	if len(strict) == 0 {
		return o, nil
	}
	switch directive {
	case metav1.FieldValidationStrict:
		return nil, kinds.StrictRefusal(r.row, strict)
	case metav1.FieldValidationWarn:
		r.warn(kinds.StrictWarnings(strict)...)
	}
	return o, nil
}

// place puts an object that names no namespace into the one of the path.
func (r *request) place(o kernel.Object) {
	if o.GetNamespace() == "" {
		o.SetNamespace(r.info.Namespace)
	}
}

// decodeAPI reads an API type that is not kept in the log. Its group and
// version may be any of those under which it is served.
func (r *request) decodeAPI(into runtime.Object, kind string) error {
	data, err := r.body()
	if err != nil {
		return err
	}
	return r.decodeData(data, into, kind)
}

func (r *request) decodeData(data []byte, into runtime.Object, kind string) error {
	have, _, err := kinds.DecodeInto(data, r.Header.Get("Content-Type"), into)
	switch {
	case errors.Is(err, kinds.ErrContentType):
		return unsupportedMedia(readableTypes)
	case err != nil:
		return badRequest("the body cannot be handled as a %s: %v", kind, err)
	case have.Kind != "" && have.Kind != kind:
		return badRequest("the object provided is unrecognized (must be of type %s): it is a %s", kind, have.Kind)
	}
	return nil
}
