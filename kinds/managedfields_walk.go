package kinds

import (
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds/openapi/fieldset"
)

// walked records the manager of a new object by the kind's Walker, which gives
// what the library's field manager would, at a tenth of its cost. It tells
// whether it could: updates, and objects with something unusual, are left to the
// library.
func walked(row Row, subresource string, o, old kernel.Object, manager string, now time.Time) bool {
	if old != nil || subresource != "" || len(o.GetManagedFields()) > 0 {
		return false
	}
	info := row.Describe()
	w, err := fieldset.For(info.GVK().GroupVersion(), o)
	if err != nil {
		return false
	}
	// Field sets of the usual objects fit; it grows for others.
	raw, ok := w.Append(make([]byte, 0, 1024), o, notWritten(info, "").Top)
	if !ok {
		return false
	}
	if string(raw) == "{}" {
		o.SetManagedFields(nil)
		return true
	}
	at := metav1.NewTime(now.UTC().Truncate(time.Second))
	o.SetManagedFields([]metav1.ManagedFieldsEntry{{
		Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: info.GVK().GroupVersion().String(),
		Time: &at, FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(string(raw)),
	}})
	return true
}

// maxUpdaters bounds the managers of an object that did not apply; the library
// merges the oldest of more.
const maxUpdaters = 10

// walkedUpdate records the manager of an update like walked that of a create:
// who changes a field takes it from all others. Objects that were applied to
// are left to the library.
func walkedUpdate(row Row, subresource string, o, old kernel.Object, manager string, now time.Time) bool {
	info := row.Describe()
	entries, ok := plainEntries(o, old, subresource, info.GVK().GroupVersion().String())
	if !ok {
		return false
	}
	if len(entries) == 0 && old.GetUID() != "" {
		o.SetManagedFields(nil) // it has never been tracked
		return true
	}
	w, err := fieldset.For(info.GVK().GroupVersion(), o)
	if err != nil {
		return false
	}
	changed, removed, ok := w.Compare(old, o, notWritten(info, subresource))
	if !ok {
		return false
	}
	out, ok := transfer(entries, changed, removed, metav1.ManagedFieldsEntry{
		Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: info.GVK().GroupVersion().String(),
		FieldsType: "FieldsV1", Subresource: subresource, Time: &metav1.Time{Time: now.UTC().Truncate(time.Second)},
	})
	if ok {
		o.SetManagedFields(out)
	}
	return ok
}

// plainEntries gives the entries to begin with, if they are all of updates in
// one version: those of the object itself, unless it leaves them out.
func plainEntries(o, old kernel.Object, subresource, version string) ([]metav1.ManagedFieldsEntry, bool) {
	entries, given := old.GetManagedFields(), o.GetManagedFields()
	if subresource == "" && given != nil && !same(given, entries) || given != nil && len(given) == 0 {
		return nil, false // the writer changes them by hand, or resets them
	}
	for _, e := range entries {
		if e.Operation != metav1.ManagedFieldsOperationUpdate || e.APIVersion != version || e.FieldsType != "FieldsV1" || e.FieldsV1 == nil {
			return nil, false
		}
	}
	return entries, len(entries) < maxUpdaters
}

// transfer gives what changed to the manager and takes it, and what is gone,
// from everybody. Entries that it does not touch keep their bytes.
func transfer(entries []metav1.ManagedFieldsEntry, changed, removed *fieldpath.Set, own metav1.ManagedFieldsEntry) ([]metav1.ManagedFieldsEntry, bool) {
	if changed.Empty() && removed.Empty() {
		return entries, true
	}
	out := make([]metav1.ManagedFieldsEntry, 0, len(entries)+1)
	lost := changed.Union(removed)
	for _, e := range entries {
		has := &fieldpath.Set{}
		if err := has.FromJSON(e.FieldsV1.GetRawReader()); err != nil {
			return nil, false
		}
		left := has.Difference(lost)
		if !changed.Empty() && sameManager(e, own) {
			left = left.Union(changed)
			changed, e.Time = fieldpath.NewSet(), own.Time
		}
		switch {
		case left.Empty():
			continue
		case !left.Equals(has):
			raw, err := left.ToJSON()
			if err != nil {
				return nil, false
			}
			e.FieldsV1 = metav1.NewFieldsV1(string(raw))
		}
		out = append(out, e)
	}
	if !changed.Empty() {
		raw, err := changed.ToJSON()
		if err != nil {
			return nil, false
		}
		own.FieldsV1 = metav1.NewFieldsV1(string(raw))
		out = append(out, own)
	}
	sortManaged(out)
	return slices.Clip(out), true
}
