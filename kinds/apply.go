package kinds

import (
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/rutterhq/rutter/kernel"
)

// Apply is server-side apply (KEP-555): it merges patch, an object in YAML or
// JSON that says only what manager wants, into live, which stays as it is. live
// is nil if there is no such object yet. The object that comes back is
// defaulted and has its managedFields; it is written with Write.Apply.
//
// A field that another manager set to another value is a conflict, unless force
// is true: the *kernel.Refusal that is returned then names each of them in its
// causes. now is the time that managedFields are given.
func Apply(row Row, live kernel.Object, patch []byte, manager string, force bool, now time.Time) (kernel.Object, error) {
	return ApplySubresource(row, live, patch, "", manager, force, now)
}

// ApplySubresource is Apply through a subresource, such as status.
func ApplySubresource(row Row, live kernel.Object, patch []byte, subresource, manager string, force bool, now time.Time) (kernel.Object, error) {
	applied := &unstructured.Unstructured{Object: map[string]any{}}
	if err := ReadApplied(patch, &applied.Object); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	if applied.Object == nil {
		return nil, apierrors.NewBadRequest("error decoding patch: the patch is empty")
	}
	if live == nil {
		live = emptyObject(row)
	}
	m, err := newFieldManager(row, subresource)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	merged, err := m.Apply(live, applied, manager, force)
	if err != nil {
		if r := (*kernel.Refusal)(nil); errors.As(err, &r) {
			return nil, r
		}
		return nil, notMergeable(err)
	}
	o, ok := merged.(kernel.Object)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("an apply to %s gave a %T", row.Describe().Kind, merged))
	}
	o.GetObjectKind().SetGroupVersionKind(row.Describe().GVK())
	settleTimes(o, live.GetManagedFields(), now)
	return o, nil
}

// notMergeable words an apply whose object does not fit the schema as Kubernetes
// does: with the merge's own words and HTTP status 500.
func notMergeable(err error) *kernel.Refusal {
	return &kernel.Refusal{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: 500, Message: err.Error(),
	}}
}

// ReadApplied reads an apply's body. It is YAML, of which clients nearly always
// send the subset that is JSON: that is read at a tenth of the cost.
func ReadApplied(patch []byte, into any) error {
	if kjson.UnmarshalCaseSensitivePreserveInts(patch, into) == nil {
		return nil
	}
	return yaml.Unmarshal(patch, into)
}

// ApplyStrict names what stands twice in an apply's body, for fieldValidation;
// unknown fields are errors of Apply itself.
func ApplyStrict(patch []byte) error {
	if twice, err := kjson.UnmarshalStrict(patch, &map[string]any{}); err == nil && len(twice) == 0 {
		return nil
	}
	if err := yaml.UnmarshalStrict(patch, &map[string]any{}); err != nil {
		return fmt.Errorf("error strict decoding patch: %w", err)
	}
	return nil
}
