package kinds

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	"github.com/rutterhq/rutter/kernel"
)

// A patch makes a new object of a live one, which stays as it is. What it does
// with fields that are unknown or stand twice is said by directive, one of
// metav1.FieldValidationStrict, FieldValidationWarn and FieldValidationIgnore:
// they are an error, are returned as warnings, or are passed over. The object
// that comes back has not been defaulted or checked: that is Finish's.

// maxPatchOperations bounds a JSON patch: what Kubernetes allows.
const maxPatchOperations = 10000

// maxPatchCopies bounds in bytes what the copy operations of one JSON patch may
// make: a few of them can double a document again and again. It is Kubernetes'
// bound of a request's body.
const maxPatchCopies = 3 << 20

func init() { jsonpatch.AccumulatedCopySizeLimit = maxPatchCopies }

// unprocessable is the HTTP status of a patch that is well formed but does not
// fit the object.
const unprocessable = 422

// jsonPatchOperation is what may stand in a JSON patch (RFC 6902).
type jsonPatchOperation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	From  string `json:"from"`
	Value any    `json:"value"`
}

// PatchJSON applies a JSON patch (RFC 6902).
func PatchJSON(row Row, live kernel.Object, patch []byte, directive string) (kernel.Object, []string, *kernel.Refusal) {
	var strict []error
	if heeds(directive) {
		var operations []jsonPatchOperation
		var err error
		if strict, err = kjson.UnmarshalStrict(patch, &operations); err != nil {
			return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
		}
		for i, e := range strict {
			strict[i] = fmt.Errorf("json patch %v", e)
		}
	}
	operations, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	if len(operations) > maxPatchOperations {
		return nil, nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf(
			"The allowed maximum operations in a JSON patch is %d, got %d", maxPatchOperations, len(operations)))
	}
	doc, err := EncodeJSON(live)
	if err != nil {
		return nil, nil, apierrors.NewInternalError(err)
	}
	patched, err := operations.Apply(doc)
	if err != nil {
		return nil, nil, apierrors.NewGenericServerResponse(unprocessable, "", schema.GroupResource{}, "", err.Error(), 0, false)
	}
	return decodePatched(row, patched, strict, directive)
}

// PatchMerge applies a JSON merge patch (RFC 7386).
func PatchMerge(row Row, live kernel.Object, patch []byte, directive string) (kernel.Object, []string, *kernel.Refusal) {
	var strict []error
	if heeds(directive) {
		var err error
		if strict, err = kjson.UnmarshalStrict(patch, &map[string]any{}); err != nil {
			return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
		}
	}
	doc, err := EncodeJSON(live)
	if err != nil {
		return nil, nil, apierrors.NewInternalError(err)
	}
	patched, err := jsonpatch.MergePatch(doc, patch)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	return decodePatched(row, patched, strict, directive)
}

// decodePatched reads the document that a patch made.
func decodePatched(row Row, doc []byte, strict []error, directive string) (kernel.Object, []string, *kernel.Refusal) {
	o := row.NewObject()
	more, err := unmarshalStrict(doc, o)
	if err != nil {
		return nil, nil, badPatch(string(doc), err)
	}
	warnings, r := judgePatch(append(strict, more...), string(doc), directive)
	if r != nil {
		return nil, nil, r
	}
	return o, warnings, nil
}

// PatchStrategic applies a strategic merge patch: lists are merged by the keys
// that the Go type's patchMergeKey tags name.
func PatchStrategic(row Row, live kernel.Object, patch []byte, directive string) (kernel.Object, []string, *kernel.Refusal) {
	patchMap := map[string]any{}
	var strict []error
	var err error
	if heeds(directive) {
		strict, err = kjson.UnmarshalStrict(patch, &patchMap)
	} else {
		err = kjson.UnmarshalCaseSensitivePreserveInts(patch, &patchMap)
	}
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	kept := live.GetManagedFields()
	if leavesManaged(patchMap) {
		// They are most of many an object, and the dearest to convert.
		live = shallow(live)
		live.SetManagedFields(nil)
	} else {
		kept = nil
	}
	liveMap, err := runtime.DefaultUnstructuredConverter.ToUnstructured(live)
	if err != nil {
		return nil, nil, apierrors.NewInternalError(err)
	}
	patched, err := strategicpatch.StrategicMergeMapPatch(liveMap, patchMap, row.NewObject())
	if err != nil {
		return nil, nil, strategicError(err)
	}
	o := row.NewObject()
	err = runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(patched, o, heeds(directive))
	if unknown, ok := runtime.AsStrictDecodingError(err); ok {
		strict = append(strict, unknown.Errors()...)
	} else if err != nil {
		return nil, nil, badPatch(fmt.Sprintf("%+v", patchMap), err)
	}
	if kept != nil {
		o.SetManagedFields(slices.Clone(kept))
	}
	warnings, r := judgePatch(strict, fmt.Sprintf("%+v", patchMap), directive)
	if r != nil {
		return nil, nil, r
	}
	return o, warnings, nil
}

// leavesManaged tells whether a strategic merge patch says nothing about
// metadata.managedFields, not even by a directive ("$patch") for all around it.
func leavesManaged(patch map[string]any) bool {
	for key := range patch {
		if strings.HasPrefix(key, "$") {
			return false
		}
	}
	metadata, isObject := patch["metadata"].(map[string]any)
	for key := range metadata {
		if key == "managedFields" || strings.HasPrefix(key, "$") {
			return false
		}
	}
	_, has := patch["metadata"]
	return isObject || !has // null takes all metadata away
}

// shallow copies an object but for what it points to.
func shallow(o kernel.Object) kernel.Object {
	c := reflect.New(reflect.TypeOf(o).Elem())
	c.Elem().Set(reflect.ValueOf(o).Elem())
	return c.Interface().(kernel.Object)
}

// strategicError tells patches that are malformed from those that do not fit.
func strategicError(err error) *kernel.Refusal {
	switch {
	case errors.Is(err, mergepatch.ErrBadJSONDoc), errors.Is(err, mergepatch.ErrBadPatchFormatForPrimitiveList),
		errors.Is(err, mergepatch.ErrBadPatchFormatForRetainKeys), errors.Is(err, mergepatch.ErrBadPatchFormatForSetElementOrderList),
		errors.Is(err, mergepatch.ErrUnsupportedStrategicMergePatchFormat):
		return apierrors.NewBadRequest(err.Error())
	case errors.Is(err, mergepatch.ErrNoListOfLists), errors.Is(err, mergepatch.ErrPatchContentNotMatchRetainKeys):
		return apierrors.NewGenericServerResponse(unprocessable, "", schema.GroupResource{}, "", err.Error(), 0, false)
	}
	return apierrors.NewBadRequest(err.Error())
}

// heeds tells whether unknown and duplicate fields matter.
func heeds(directive string) bool { return directive != metav1.FieldValidationIgnore }

func badPatch(patched string, err error) *kernel.Refusal {
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{
		field.Invalid(field.NewPath("patch"), patched, err.Error()),
	})
}

// judgePatch decides what becomes of strict errors of a patch.
func judgePatch(strict []error, patched, directive string) (warnings []string, r *kernel.Refusal) {
	switch {
	case len(strict) == 0 || !heeds(directive):
		return nil, nil
	case directive == metav1.FieldValidationStrict:
		return nil, badPatch(patched, runtime.NewStrictDecodingError(strict))
	}
	return StrictWarnings(strict), nil
}
