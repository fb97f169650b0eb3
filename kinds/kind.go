package kinds

import (
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

// Info is the part of a row that does not depend on the Go type.
type Info struct {
	Resource   kernel.Resource // plural and group
	Version    string          // of the group, such as "v1"
	Kind       string
	Singular   string
	ShortNames []string
	Categories []string
	Cluster    bool     // cluster-scoped; else namespaced
	Status     bool     // has a status subresource: what comes without it leaves status as it is
	Streams    []string // further subresources, served by hand: "log", "exec", "binding", ...
	Sealed     bool     // its data is encrypted in the log
	// Delete says that objects may go at once although a grace period was
	// asked for, unless Grace says otherwise.
	Verbs []string // what discovery lists; nil: all
}

// GVK is the kind as discovery and objects name it.
func (i *Info) GVK() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: i.Resource.Group, Version: i.Version, Kind: i.Kind}
}

// GVR is the resource as URLs name it.
func (i *Info) GVR() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: i.Resource.Group, Version: i.Version, Resource: i.Resource.Plural}
}

// Key names an object of the kind. namespace is "" for a cluster-scoped kind.
func (i *Info) Key(namespace, name string) kernel.Key {
	return kernel.Key{Resource: i.Resource, Namespace: namespace, Name: name}
}

// Kind is a row: everything that Rutter knows about one resource. The row is
// also the typed way to its objects in a View: Pods.Get(v, "default", "web").
type Kind[T kernel.Object] struct {
	Info
	New     func() T
	NewList func() runtime.Object
	// Default fills in what the user left out, as Kubernetes' defaulting does.
	Default func(T)
	// Prepare takes away what a writer may not set and keeps what it may not
	// change, before validation: Kubernetes' PrepareForCreate (old is the zero
	// T) and PrepareForUpdate. Generation, status and metadata are kept by
	// Finish; here goes what is the kind's own.
	Prepare func(now, old T)
	// Admit is admission that needs the View: it may change the object.
	Admit func(v *kernel.View, w kernel.Write, now, old T) field.ErrorList
	// Validate checks a create (old is the zero T) or an update.
	Validate func(now, old T) field.ErrorList
	// ValidateStatus checks a write of the status subresource; nil: Validate.
	ValidateStatus func(now, old T) field.ErrorList
	// Grace returns for how long, in seconds, the object stays after a delete
	// was asked for with the given grace (nil: none given); nil: it goes at once.
	Grace func(o T, asked *int64) int64
	// Columns are what kubectl get shows.
	Columns []Column[T]
	// Fields are what field selectors may name, beside metadata.name and
	// metadata.namespace.
	Fields func(T) fields.Set
	// Type names a change for ce-type, such as "pod.bound"; "" or nil: by the
	// general rule (pod.created, pod.updated, ...). old is the zero T for a create.
	Type func(now, old T) string
	// Scale gives access to the replicas, for the scale subresource; nil: none.
	Scale *Scale[T]
}

// Scale reads and writes what the scale subresource shows.
type Scale[T any] struct {
	Get func(T) (spec, status int32, selector string)
	Set func(o T, replicas int32)
}

// Column is one column of kubectl get.
type Column[T any] struct {
	Name        string
	Type        string // OpenAPI: "string", "integer", "date", ...; "" is "string"
	Format      string // "name" for the name
	Description string
	Wide        bool // shown with -o wide only (priority 1)
	Value       func(o T, now time.Time) any
}

// Get returns the live object, shared: DeepCopy before changing it.
func (k *Kind[T]) Get(v *kernel.View, namespace, name string) (T, bool) {
	o, ok := v.Get(k.Key(namespace, name))
	if !ok {
		var none T
		return none, false
	}
	return o.(T), true
}

// List returns the live objects of a namespace, or for "" of all, in the order
// of their Keys, shared.
func (k *Kind[T]) List(v *kernel.View, namespace string) []T {
	var out []T
	for e := range v.Entries(k.Resource, namespace) {
		out = append(out, e.Object().(T))
	}
	return out
}

// Of returns the object an event is about and the one it replaced, each the
// zero T where there is none: o for a delete, old for a create. ok is false if
// the event is about another kind.
func (k *Kind[T]) Of(e kernel.Event) (o, old T, ok bool) {
	if e.Key.Resource != k.Resource {
		return o, old, false
	}
	if !e.Delete {
		o = e.Object().(T)
	}
	if before := e.Old(); before != nil {
		old = before.(T)
	}
	return o, old, true
}

// Put is the Change that makes the object stand as given: a create if there is
// none, else an update of spec and status.
func (k *Kind[T]) Put(o T, ceType, note string) kernel.Change {
	return kernel.Change{Key: k.Key(o.GetNamespace(), o.GetName()), Type: ceType, Object: o, Note: note}
}

// Remove is the Change that deletes the object.
func (k *Kind[T]) Remove(o T, ceType, note string) kernel.Change {
	return kernel.Change{Key: k.Key(o.GetNamespace(), o.GetName()), Type: ceType, Note: note}
}

// Row is a Kind whose Go type is forgotten: what generic code sees.
type Row interface {
	Describe() *Info
	NewObject() kernel.Object
	NewObjectList() runtime.Object
	DefaultObject(kernel.Object)
	// PrepareObject, AdmitObject and ValidateObject take nil for old on a create.
	PrepareObject(now, old kernel.Object)
	AdmitObject(v *kernel.View, w kernel.Write, now, old kernel.Object) field.ErrorList
	ValidateObject(now, old kernel.Object, subresource string) field.ErrorList
	GraceOf(o kernel.Object, asked *int64) int64
	FieldsOf(kernel.Object) fields.Set
	TypeOfChange(now, old kernel.Object) string
	ColumnDefinitions() []metav1.TableColumnDefinition
	Cells(o kernel.Object, now time.Time) []any
	HasScale() bool
	ScaleOf(kernel.Object) (spec, status int32, selector string)
	SetScale(o kernel.Object, replicas int32)
}

// Describe implements Row.
func (k *Kind[T]) Describe() *Info { return &k.Info }

// NewObject implements Row.
func (k *Kind[T]) NewObject() kernel.Object { return k.New() }

// NewObjectList implements Row.
func (k *Kind[T]) NewObjectList() runtime.Object { return k.NewList() }

// DefaultObject implements Row.
func (k *Kind[T]) DefaultObject(o kernel.Object) {
	if k.Default != nil {
		k.Default(o.(T))
	}
}

func (k *Kind[T]) typed(o kernel.Object) T {
	if o == nil {
		var none T
		return none
	}
	return o.(T)
}

// PrepareObject implements Row.
func (k *Kind[T]) PrepareObject(now, old kernel.Object) {
	if k.Prepare != nil {
		k.Prepare(now.(T), k.typed(old))
	}
}

// AdmitObject implements Row.
func (k *Kind[T]) AdmitObject(v *kernel.View, w kernel.Write, now, old kernel.Object) field.ErrorList {
	if k.Admit == nil {
		return nil
	}
	return k.Admit(v, w, now.(T), k.typed(old))
}

// ValidateObject implements Row.
func (k *Kind[T]) ValidateObject(now, old kernel.Object, subresource string) field.ErrorList {
	if subresource == "status" && k.ValidateStatus != nil {
		return k.ValidateStatus(now.(T), k.typed(old))
	}
	if k.Validate == nil {
		return nil
	}
	return k.Validate(now.(T), k.typed(old))
}

// GraceOf implements Row.
func (k *Kind[T]) GraceOf(o kernel.Object, asked *int64) int64 {
	if k.Grace == nil {
		return 0
	}
	return k.Grace(o.(T), asked)
}

// FieldsOf implements Row.
func (k *Kind[T]) FieldsOf(o kernel.Object) fields.Set {
	set := fields.Set{}
	if k.Fields != nil {
		set = k.Fields(o.(T))
	}
	set["metadata.name"] = o.GetName()
	if !k.Cluster {
		set["metadata.namespace"] = o.GetNamespace()
	}
	return set
}

// TypeOfChange implements Row.
func (k *Kind[T]) TypeOfChange(now, old kernel.Object) string {
	if k.Type != nil {
		if t := k.Type(now.(T), k.typed(old)); t != "" {
			return t
		}
	}
	switch {
	case Gone(now):
		return k.Singular + ".deleted"
	case old == nil:
		return k.Singular + ".created"
	case now.GetDeletionTimestamp() != nil && old.GetDeletionTimestamp() == nil:
		return k.Singular + ".deleting"
	}
	return k.Singular + ".updated"
}

// ColumnDefinitions implements Row.
func (k *Kind[T]) ColumnDefinitions() []metav1.TableColumnDefinition {
	var defs []metav1.TableColumnDefinition
	for _, c := range k.Columns {
		d := metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Description}
		if d.Type == "" {
			d.Type = "string"
		}
		if c.Wide {
			d.Priority = 1
		}
		defs = append(defs, d)
	}
	return defs
}

// Cells implements Row.
func (k *Kind[T]) Cells(o kernel.Object, now time.Time) []any {
	cells := make([]any, len(k.Columns))
	for i, c := range k.Columns {
		cells[i] = c.Value(o.(T), now)
	}
	return cells
}

// HasScale implements Row.
func (k *Kind[T]) HasScale() bool { return k.Scale != nil }

// ScaleOf implements Row.
func (k *Kind[T]) ScaleOf(o kernel.Object) (spec, status int32, selector string) {
	return k.Scale.Get(o.(T))
}

// SetScale implements Row.
func (k *Kind[T]) SetScale(o kernel.Object, replicas int32) { k.Scale.Set(o.(T), replicas) }

// Serves tells whether the resource has the verb.
func (i *Info) Serves(verb string) bool {
	return i.Verbs == nil || slices.Contains(i.Verbs, verb)
}
