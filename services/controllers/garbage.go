package controllers

import (
	"bytes"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// garbageActor is the decider's name in the log.
const garbageActor = "controllers/garbage"

// garbage deletes objects whose owners are all gone, and does what a deletion
// asked to be done with the dependents: delete them first (foreground) or let
// them live (orphan).
var garbage = kernel.Decider{
	Name:   garbageActor,
	Reads:  everything,
	Writes: everything,
	Wakes:  wakeGarbage,
	Decide: decideGarbage,
}

// everything is every resource, in the order of kinds.All.
var everything = func() []kernel.Resource {
	var rs []kernel.Resource
	for _, row := range kinds.All {
		rs = append(rs, row.Describe().Resource)
	}
	return rs
}()

// ownerRows finds the row of an owner by what a reference names.
var ownerRows = func() map[schema.GroupKind]*kinds.Info {
	m := map[schema.GroupKind]*kinds.Info{}
	for _, row := range kinds.All {
		info := row.Describe()
		m[schema.GroupKind{Group: info.Resource.Group, Kind: info.Kind}] = info
	}
	return m
}()

// ownNothing are resources whose objects are many, come and go often, and that
// nothing can sensibly be owned by.
var ownNothing = []kernel.Resource{
	kinds.Events.Resource, kinds.Leases.Resource, kinds.Endpoints.Resource, kinds.EndpointSlices.Resource, kinds.IPAddresses.Resource,
}

func wakeGarbage(v *kernel.View, e kernel.Event) []kernel.Key {
	if slices.Contains(ownNothing[:1], e.Key.Resource) { // Events are not owned either
		return nil
	}
	var keys []kernel.Key
	if e.Before != nil && !e.Before.Delete && e.Before.Owned && (e.Delete || refsChanged(e)) {
		keys = append(keys, waitingOwners(v, e.Before.Object())...)
	}
	if e.Delete {
		if slices.Contains(ownNothing, e.Key.Resource) {
			return keys
		}
		return append(keys, dependents(v, e.Key.Namespace, e.Object().GetUID())...)
	}
	if !e.Owned && !finalized(e.Entry) {
		return keys
	}
	o, old := e.Object(), e.Old()
	deleting := o.GetDeletionTimestamp() != nil
	switch {
	case old == nil, refsChanged(e), !slices.Equal(o.GetFinalizers(), old.GetFinalizers()), deleting != (old.GetDeletionTimestamp() != nil):
	default:
		return keys
	}
	keys = append(keys, e.Key)
	if deleting && slices.Contains(o.GetFinalizers(), metav1.FinalizerDeleteDependents) {
		keys = append(keys, dependents(v, e.Key.Namespace, o.GetUID())...)
	}
	return keys
}

// finalized is false if the object has no finalizers, so that it need not be
// decoded to see that.
func finalized(e *kernel.Entry) bool {
	return e.Body == nil || bytes.Contains(e.Body, []byte(`"finalizers"`))
}

// refsChanged tells whether an update changed who owns the object.
func refsChanged(e kernel.Event) bool {
	old := e.Old()
	return old == nil || !same(old.GetOwnerReferences(), e.Object().GetOwnerReferences())
}

// refTo returns the object's reference to the owner with the uid, or nil.
func refTo(o kernel.Object, uid types.UID) *metav1.OwnerReference {
	refs := o.GetOwnerReferences()
	for i := range refs {
		if refs[i].UID == uid {
			return &refs[i]
		}
	}
	return nil
}

// dependents are the keys of what the owner owns: in its own namespace or, if
// it is in none, everywhere.
func dependents(v *kernel.View, ownerNamespace string, uid types.UID) []kernel.Key {
	resources := everything
	if ownerNamespace != "" {
		resources = namespaced
	}
	var keys []kernel.Key
	for _, r := range resources {
		if r == kinds.Events.Resource {
			continue
		}
		for e := range v.Entries(r, ownerNamespace) {
			if e.Owned && refTo(e.Object(), uid) != nil {
				keys = append(keys, e.Key)
			}
		}
	}
	return keys
}

// waitingOwners are the object's owners that wait for it to go.
func waitingOwners(v *kernel.View, o kernel.Object) []kernel.Key {
	var keys []kernel.Key
	for _, ref := range o.GetOwnerReferences() {
		if owner := ownerOf(v, o, ref); owner.object != nil && owner.object.GetDeletionTimestamp() != nil && len(owner.object.GetFinalizers()) > 0 {
			keys = append(keys, owner.key)
		}
	}
	return keys
}

// owner is what a reference leads to.
type owner struct {
	key    kernel.Key
	known  bool          // whether its kind is; another's objects cannot be told to be absent
	object kernel.Object // nil if there is none with that uid
}

func ownerOf(v *kernel.View, o kernel.Object, ref metav1.OwnerReference) owner {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	info := ownerRows[schema.GroupKind{Group: gv.Group, Kind: ref.Kind}]
	if err != nil || info == nil || !info.Cluster && o.GetNamespace() == "" {
		return owner{}
	}
	one := owner{key: info.Key(o.GetNamespace(), ref.Name), known: true}
	if info.Cluster {
		one.key.Namespace = ""
	}
	if found, ok := v.Get(one.key); ok && found.GetUID() == ref.UID {
		one.object = found
	}
	return one
}

func decideGarbage(v *kernel.View, k kernel.Key, _ time.Time) kernel.Decision {
	o, ok := v.Get(k)
	if !ok {
		return kernel.Decision{}
	}
	if o.GetDeletionTimestamp() != nil {
		switch finalizers := o.GetFinalizers(); {
		case slices.Contains(finalizers, metav1.FinalizerOrphanDependents):
			return orphan(v, k, o)
		case slices.Contains(finalizers, metav1.FinalizerDeleteDependents):
			return awaitDependents(v, k, o)
		}
		return kernel.Decision{}
	}
	return collect(v, k, o)
}

// orphan takes the owner out of its dependents, and then lets it go.
func orphan(v *kernel.View, k kernel.Key, o kernel.Object) kernel.Decision {
	var d kernel.Decision
	for _, key := range dependents(v, k.Namespace, o.GetUID()) {
		dependent, ok := v.Get(key)
		if !ok || len(d.Changes) == maxDeletes {
			break
		}
		d.Changes = append(d.Changes, withoutRefs(key, dependent, "its owner was deleted with propagation policy Orphan",
			func(ref metav1.OwnerReference) bool { return ref.UID == o.GetUID() }))
	}
	if len(d.Changes) == 0 {
		d.Changes = append(d.Changes, withoutFinalizer(k, o, metav1.FinalizerOrphanDependents))
	}
	return d
}

// awaitDependents lets an owner go once nothing that blocks it is left.
func awaitDependents(v *kernel.View, k kernel.Key, o kernel.Object) kernel.Decision {
	for _, key := range dependents(v, k.Namespace, o.GetUID()) {
		dependent, ok := v.Get(key)
		if !ok {
			continue
		}
		if ref := refTo(dependent, o.GetUID()); ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion {
			return kernel.Decision{}
		}
	}
	return kernel.Decision{Changes: []kernel.Change{withoutFinalizer(k, o, metav1.FinalizerDeleteDependents)}}
}

// collect deletes an object if it had owners and none is left.
func collect(v *kernel.View, k kernel.Key, o kernel.Object) kernel.Decision {
	refs := o.GetOwnerReferences()
	if len(refs) == 0 {
		return kernel.Decision{}
	}
	var solid, waiting int
	gone := map[types.UID]bool{} // absent, or only waiting for this object to go
	for _, ref := range refs {
		one := ownerOf(v, o, ref)
		switch {
		case one.known && one.object == nil:
			gone[ref.UID] = true
		case one.known && one.object.GetDeletionTimestamp() != nil &&
			slices.Contains(one.object.GetFinalizers(), metav1.FinalizerDeleteDependents):
			gone[ref.UID] = true
			waiting++
		default:
			solid++
		}
	}
	change := kernel.Change{Key: k, Note: "its owner " + refs[0].Kind + " " + refs[0].Name + " is gone"}
	switch {
	case solid > 0 && len(gone) == 0:
		return kernel.Decision{}
	case solid > 0:
		change = withoutRefs(k, o, "other owners are left", func(ref metav1.OwnerReference) bool { return gone[ref.UID] })
	case waiting > 0 && !slices.Contains(o.GetFinalizers(), metav1.FinalizerDeleteDependents) &&
		len(dependents(v, k.Namespace, o.GetUID())) > 0:
		// The owner waits for this object, so it has to wait for its own
		// dependents: the finalizer makes the delete that follows do so.
		marked := o.DeepCopyObject().(kernel.Object)
		marked.SetFinalizers(append(marked.GetFinalizers(), metav1.FinalizerDeleteDependents))
		change = kernel.Change{Key: k, Object: marked, Note: "its owner " + refs[0].Kind + " " + refs[0].Name + " waits for all it owns to go"}
	case waiting > 0:
		change.Note = "its owner " + refs[0].Kind + " " + refs[0].Name + " is deleted and waits for it to go"
	}
	return kernel.Decision{Changes: []kernel.Change{change}}
}

func withoutRefs(k kernel.Key, o kernel.Object, note string, drop func(metav1.OwnerReference) bool) kernel.Change {
	o = o.DeepCopyObject().(kernel.Object)
	o.SetOwnerReferences(slices.DeleteFunc(o.GetOwnerReferences(), drop))
	return kernel.Change{Key: k, Object: o, Note: note}
}

func withoutFinalizer(k kernel.Key, o kernel.Object, name string) kernel.Change {
	o = o.DeepCopyObject().(kernel.Object)
	o.SetFinalizers(slices.DeleteFunc(o.GetFinalizers(), func(f string) bool { return f == name }))
	return kernel.Change{Key: k, Object: o}
}
