package fieldset

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apischema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kube-openapi/pkg/schemaconv"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"github.com/rutterhq/rutter/kinds/openapi/models"
)

// kind is what a node of a type is to managedFields.
type kind uint8

const (
	leaf    kind = iota // a scalar, or a list or map that is set as a whole
	record              // a struct whose fields are set one by one
	dict                // a map whose keys are set one by one
	keyed               // a list whose items are told apart by keys
	set                 // a list of scalars that are set one by one
	refused             // what a Walker does not know to write
)

// node is one type at one place of the schema.
type node struct {
	kind   kind
	fields []fieldNode // of a record, in the order of their names
	elem   *node       // of a dict, keyed or set
	keys   []keyNode   // of keyed, in the order of their names
	// null tells of a leaf's value whether JSON has null for it.
	null func(reflect.Value) bool
}

// fieldNode is a field of a record.
type fieldNode struct {
	name  string
	entry *value.FieldCacheEntry
	node  *node
	// zero says that an empty object has the field, for JSON does not omit it.
	zero bool
}

// keyNode is one of the fields that tell the items of a list apart.
type keyNode struct {
	name  string
	entry *value.FieldCacheEntry
	// standard is the value of a key that is left out, as JSON; "" if it has
	// none.
	standard any
}

// compiler builds the nodes of one group-version.
type compiler struct {
	schema *schema.Schema
	done   map[place]*node
}

// place is a type where it is used: the same Go type may be a leaf in one place
// and a record in another.
type place struct {
	t     reflect.Type
	named string
	as    schema.ElementRelationship
}

// Converters of a value to JSON that give null for nothing.
var timeType, microTimeType = reflect.TypeFor[metav1.Time](), reflect.TypeFor[metav1.MicroTime]()

func (c *compiler) compile(t reflect.Type, ref schema.TypeRef) *node {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	p := place{t: t}
	if ref.NamedType != nil {
		p.named = *ref.NamedType
	}
	if ref.ElementRelationship != nil {
		p.as = *ref.ElementRelationship
	}
	if n := c.done[p]; n != nil && p.named != "" {
		return n
	}
	n := &node{}
	c.done[p] = n
	c.fill(n, t, ref)
	return n
}

func (c *compiler) fill(n *node, t reflect.Type, ref schema.TypeRef) {
	switch t {
	case timeType, microTimeType:
		n.null = reflect.Value.IsZero
		return
	case reflect.TypeFor[resource.Quantity](), reflect.TypeFor[intstr.IntOrString](), reflect.TypeFor[metav1.Duration]():
		return
	case reflect.TypeFor[runtime.RawExtension](), reflect.TypeFor[metav1.FieldsV1]():
		n.kind = refused
		return
	}
	if value.TypeReflectEntryOf(t).CanConvertToUnstructured() {
		n.kind = refused
		return
	}
	atom, ok := c.schema.Resolve(ref)
	if !ok {
		n.kind = refused
		return
	}
	switch {
	case t.Kind() == reflect.Struct && atom.Map != nil:
		c.fillRecord(n, t, atom.Map)
	case t.Kind() == reflect.Map && atom.Map != nil:
		if atom.Map.ElementRelationship != schema.Atomic {
			n.kind, n.elem = dict, c.compile(t.Elem(), atom.Map.ElementType)
		}
	case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8 && atom.List != nil:
		c.fillList(n, t, atom.List)
	case t.Kind() == reflect.Interface, atom.Scalar == nil:
		n.kind = refused
	}
}

func (c *compiler) fillRecord(n *node, t reflect.Type, m *schema.Map) {
	if m.ElementRelationship == schema.Atomic {
		return
	}
	n.kind = record
	empty := reflect.New(t).Elem()
	for _, entry := range value.TypeReflectEntryOf(t).OrderedFields() {
		ref := m.ElementType
		if f, ok := m.FindField(entry.JsonName); ok {
			ref = f.Type
		}
		none := entry.GetFrom(empty)
		n.fields = append(n.fields, fieldNode{
			name: entry.JsonName, entry: entry,
			node: c.compile(none.Type(), ref),
			zero: !entry.CanOmit(none),
		})
	}
}

func (c *compiler) fillList(n *node, t reflect.Type, l *schema.List) {
	if l.ElementRelationship != schema.Associative {
		return
	}
	n.elem = c.compile(t.Elem(), l.ElementType)
	if len(l.Keys) == 0 {
		n.kind = set
		if t.Elem().Kind() != reflect.String || n.elem.kind != leaf {
			n.kind = refused
		}
		return
	}
	atom, ok := c.schema.Resolve(l.ElementType)
	if !ok || atom.Map == nil || n.elem.kind != record && n.elem.kind != leaf || t.Elem().Kind() != reflect.Struct {
		n.kind = refused
		return
	}
	n.kind = keyed
	entries := value.TypeReflectEntryOf(t.Elem()).Fields()
	for _, name := range slices.Sorted(slices.Values(l.Keys)) {
		k := keyNode{name: name, entry: entries[name]}
		if f, ok := atom.Map.FindField(name); ok {
			k.standard = f.Default
		}
		if k.entry == nil {
			n.kind = refused
			return
		}
		n.keys = append(n.keys, k)
	}
}

// made is what was compiled so far.
type made struct {
	walkers map[string]*Walker // by the names of their models
	schemas map[apischema.GroupVersion]*schema.Schema
}

// compiled is replaced, never changed. Two callers may compile the same thing at
// once: both results are good.
var compiled atomic.Pointer[made]

// For gives the Walker of a kind. o is any object of it. It is made at the first
// call and kept, a few KiB; the first of a group-version takes some 30 ms.
func For(gv apischema.GroupVersion, o any) (*Walker, error) {
	name := models.NameOf(o)
	have := compiled.Load()
	if have == nil {
		have = &made{}
		compiled.CompareAndSwap(nil, have)
		have = compiled.Load()
	}
	if w := have.walkers[name]; w != nil {
		return w, nil
	}
	s := have.schemas[gv]
	if s == nil {
		schemas, err := models.Closure(models.Package(gv))
		if err != nil {
			return nil, err
		}
		if s, err = schemaconv.ToSchemaFromOpenAPI(schemas, false); err != nil {
			return nil, fmt.Errorf("convert the schema of %s: %w", gv, err)
		}
	}
	c := compiler{schema: s, done: map[place]*node{}}
	w := &Walker{root: c.compile(reflect.TypeOf(o), schema.TypeRef{NamedType: &name})}
	for {
		next := &made{walkers: map[string]*Walker{}, schemas: map[apischema.GroupVersion]*schema.Schema{}}
		maps.Copy(next.walkers, have.walkers)
		maps.Copy(next.schemas, have.schemas)
		next.walkers[name], next.schemas[gv] = w, s
		if compiled.CompareAndSwap(have, next) {
			return w, nil
		}
		have = compiled.Load()
	}
}
