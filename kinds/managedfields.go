package kinds

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds/openapi/fieldset"
	"github.com/rutterhq/rutter/kinds/openapi/models"
)

// metadata.managedFields says which manager set which fields (KEP-555). A write
// with a manager takes the fields that it changes; what a decider writes has no
// manager and leaves ownership as it is. Objects that were made without a
// manager are not tracked until they are applied to.

// manageFields records in o what the write's manager set. old is nil for a
// create. What an apply has merged stays as it is.
func (f *finisher) manageFields(o, old kernel.Object) *kernel.Refusal {
	if f.Apply {
		return nil
	}
	if f.Manager == "" {
		if old != nil && (f.Subresource != kernel.Whole || o.GetManagedFields() == nil) {
			o.SetManagedFields(old.GetManagedFields())
		}
		return nil
	}
	sub := f.Subresource
	if sub == kernel.Whole {
		sub = ""
	}
	fast := walked
	if old != nil {
		fast = walkedUpdate
	}
	if fast(f.row, sub, o, old, f.Manager, f.now) {
		return nil
	}
	m, err := newFieldManager(f.row, sub)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if old == nil {
		old = emptyObject(f.row)
	}
	before := old.GetManagedFields()
	if _, err := m.Update(old, o, f.Manager); err != nil {
		// As in Kubernetes: a write is not refused for what only describes it.
		o.SetManagedFields(before)
		return nil
	}
	settleTimes(o, before, f.now)
	return nil
}

func emptyObject(row Row) kernel.Object {
	o := row.NewObject()
	o.GetObjectKind().SetGroupVersionKind(row.Describe().GVK())
	return o
}

// newFieldManager gives the library's manager for a kind and a subresource.
func newFieldManager(row Row, subresource string) (*managedfields.FieldManager, error) {
	gvk := row.Describe().GVK()
	converter, err := models.Converter(gvk.GroupVersion())
	if err != nil {
		return nil, fmt.Errorf("field manager of %s: %w", gvk.Kind, err)
	}
	one := singleVersion{row}
	m, err := managedfields.NewDefaultFieldManager(converter, one, one, one, gvk, gvk.GroupVersion(), subresource, resetFields(row, subresource))
	if err != nil {
		return nil, fmt.Errorf("field manager of %s: %w", gvk.Kind, err)
	}
	return m, nil
}

// notWritten are the fields that a write through the subresource cannot set, and
// so its manager cannot own.
func notWritten(info *Info, subresource string) fieldset.Skip {
	switch {
	case !info.Status:
		return fieldset.Skip{}
	case subresource != "status":
		return fieldset.Skip{Top: "status"}
	case info.Resource == Pods.Resource:
		return fieldset.Skip{Top: "spec", Meta: []string{"deletionTimestamp", "ownerReferences"}}
	case info.Resource == Deployments.Resource:
		return fieldset.Skip{Top: "spec", Meta: []string{"labels"}}
	}
	return fieldset.Skip{Top: "spec"}
}

// resetFields are notWritten as the library takes it.
func resetFields(row Row, subresource string) map[fieldpath.APIVersion]fieldpath.Filter {
	info := row.Describe()
	skip := notWritten(info, subresource)
	if skip.Top == "" {
		return nil
	}
	reset := []fieldpath.Path{fieldpath.MakePathOrDie(skip.Top)}
	for _, name := range skip.Meta {
		reset = append(reset, fieldpath.MakePathOrDie("metadata", name))
	}
	version := fieldpath.APIVersion(info.GVK().GroupVersion().String())
	return map[fieldpath.APIVersion]fieldpath.Filter{version: fieldpath.NewExcludeSetFilter(fieldpath.NewSet(reset...))}
}

// singleVersion is the scheme of a kind that has one version only.
type singleVersion struct{ row Row }

// ConvertToVersion turns the untyped result of a merge into the kind's Go type.
func (s singleVersion) ConvertToVersion(in runtime.Object, _ runtime.GroupVersioner) (runtime.Object, error) {
	u, ok := in.(*unstructured.Unstructured)
	if !ok {
		return in, nil
	}
	o := s.row.NewObject()
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, o); err != nil {
		return nil, fmt.Errorf("convert to %T: %w", o, err)
	}
	return o, nil
}

// Convert implements runtime.ObjectConvertor; there is nothing to convert to.
func (s singleVersion) Convert(in, out, _ any) error {
	return fmt.Errorf("convert %T to %T: there is one version only", in, out)
}

// ConvertFieldLabel implements runtime.ObjectConvertor.
func (s singleVersion) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

// Default implements runtime.ObjectDefaulter.
func (s singleVersion) Default(o runtime.Object) {
	if object, ok := o.(kernel.Object); ok {
		s.row.DefaultObject(object)
	}
}

// New implements runtime.ObjectCreater.
func (s singleVersion) New(schema.GroupVersionKind) (runtime.Object, error) {
	return emptyObject(s.row), nil
}

// settleTimes gives the entries that a write touched the write's own time: the
// library takes the time from the machine's clock. It then sorts as the library.
func settleTimes(o kernel.Object, before []metav1.ManagedFieldsEntry, now time.Time) {
	entries := o.GetManagedFields()
	at := metav1.NewTime(now.UTC().Truncate(time.Second))
	for i := range entries {
		e := &entries[i]
		same := slices.ContainsFunc(before, func(b metav1.ManagedFieldsEntry) bool {
			return sameManager(b, *e) && b.Time.Equal(e.Time)
		})
		if !same && e.Time != nil {
			e.Time = &at
		}
	}
	sortManaged(entries)
	o.SetManagedFields(entries)
}

// sameManager tells whether two entries are of one manager.
func sameManager(a, b metav1.ManagedFieldsEntry) bool {
	return a.Manager == b.Manager && a.Operation == b.Operation && a.Subresource == b.Subresource &&
		(a.APIVersion == b.APIVersion || a.Operation == metav1.ManagedFieldsOperationApply)
}

// sortManaged puts entries into the order that clients know: applies first, then
// by age.
func sortManaged(entries []metav1.ManagedFieldsEntry) {
	seconds := func(t *metav1.Time) int64 {
		if t == nil {
			return 0
		}
		return t.Unix()
	}
	slices.SortStableFunc(entries, func(a, b metav1.ManagedFieldsEntry) int {
		return cmp.Or(
			cmp.Compare(a.Operation, b.Operation),
			cmp.Compare(seconds(a.Time), seconds(b.Time)),
			cmp.Compare(a.Manager, b.Manager),
			cmp.Compare(a.APIVersion, b.APIVersion),
			cmp.Compare(a.Subresource, b.Subresource),
		)
	})
}
