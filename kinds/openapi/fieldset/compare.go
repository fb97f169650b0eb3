package fieldset

import (
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// Skip names fields that do not count in a comparison.
type Skip struct {
	Top  string   // of the object, such as status; "" for none
	Meta []string // of its metadata
}

// Compare finds what differs between two objects of the Walker's kind, both
// pointers to structs: what the new one adds or changes, and what it lacks. ok
// is false if there is something that a Walker cannot compare.
func (w *Walker) Compare(old, new any, skip Skip) (changed, removed *fieldpath.Set, ok bool) {
	l, r := reflect.ValueOf(old), reflect.ValueOf(new)
	if l.Kind() != reflect.Pointer || r.Type() != l.Type() || l.IsNil() || r.IsNil() || w.root.kind != record {
		return nil, nil, false
	}
	c := comparer{changed: fieldpath.NewSet(), removed: fieldpath.NewSet()}
	l, r = l.Elem(), r.Elem()
	for i := range w.root.fields {
		f := &w.root.fields[i]
		switch f.name {
		case "apiVersion", "kind", skip.Top:
		case "metadata":
			lm, rm := f.entry.GetFrom(l), f.entry.GetFrom(r)
			c.path = append(c.path, fieldpath.PathElement{FieldName: &f.name})
			for j := range f.node.fields {
				g := &f.node.fields[j]
				if !slices.Contains(notOwned, g.name) && !slices.Contains(skip.Meta, g.name) {
					c.field(g, lm, rm)
				}
			}
			c.path = c.path[:0]
		default:
			c.field(f, l, r)
		}
	}
	return c.changed, c.removed, !c.failed
}

// comparer walks two objects at once.
type comparer struct {
	path             fieldpath.Path
	changed, removed *fieldpath.Set
	failed           bool
}

// absent stands for a value that is not there, as against one that is null.
var absent reflect.Value

func (c *comparer) field(f *fieldNode, l, r reflect.Value) {
	c.below(fieldpath.PathElement{FieldName: &f.name}, f.node, present(f, l), present(f, r))
}

// present gives the field of a struct, or absent if JSON omits it.
func present(f *fieldNode, in reflect.Value) reflect.Value {
	if !in.IsValid() {
		return absent
	}
	v := f.entry.GetFrom(in)
	if f.entry.CanOmit(v) {
		return absent
	}
	return v
}

func (c *comparer) below(e fieldpath.PathElement, n *node, l, r reflect.Value) {
	if !l.IsValid() && !r.IsValid() {
		return
	}
	c.path = append(c.path, e)
	c.compare(n, l, r)
	c.path = c.path[:len(c.path)-1]
}

// content follows a pointer. isNull tells whether JSON has null there.
func (n *node) content(v reflect.Value) (at reflect.Value, isNull bool) {
	if !v.IsValid() {
		return absent, false
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return absent, true
		}
		v = v.Elem()
	case reflect.Map, reflect.Slice:
		if v.IsNil() {
			return absent, true
		}
	}
	if n.null != nil && n.null(v) {
		return absent, true
	}
	return v, false
}

func (c *comparer) compare(n *node, l, r reflect.Value) {
	lv, lnull := n.content(l)
	rv, rnull := n.content(r)
	if n.kind == refused {
		c.failed = c.failed || !l.IsValid() || !r.IsValid() || !reflect.DeepEqual(l.Interface(), r.Interface())
		return
	}
	if n.kind == leaf || n.empty(lv) && n.empty(rv) {
		same := lnull && rnull || lv.IsValid() && rv.IsValid() && (n.kind != leaf || equal(lv, rv))
		c.mark(l, r, same)
		return
	}
	switch n.kind {
	case record:
		for i := range n.fields {
			c.field(&n.fields[i], lv, rv)
		}
	case dict:
		c.dict(n, lv, rv)
	case keyed:
		c.keyed(n, lv, rv)
	case set:
		c.set(lv, rv)
	}
	c.mark(l, r, true)
}

// mark notes a path itself that is new, gone or, if it is not the same, changed.
func (c *comparer) mark(l, r reflect.Value, same bool) {
	switch {
	case !l.IsValid():
		c.changed.Insert(c.path)
	case !r.IsValid():
		c.removed.Insert(c.path)
	case !same:
		c.changed.Insert(c.path)
	}
}

// empty tells whether a record, map or list has nothing in it.
func (n *node) empty(v reflect.Value) bool {
	if !v.IsValid() {
		return true
	}
	if n.kind != record {
		return v.Len() == 0
	}
	for i := range n.fields {
		if present(&n.fields[i], v).IsValid() {
			return false
		}
	}
	return true
}

func (c *comparer) dict(n *node, l, r reflect.Value) {
	visit := func(in, other reflect.Value, both bool) {
		if !in.IsValid() {
			return
		}
		for it := in.MapRange(); it.Next(); {
			o := absent
			if other.IsValid() {
				o = other.MapIndex(it.Key())
			}
			name := it.Key().String()
			switch e := (fieldpath.PathElement{FieldName: &name}); {
			case both:
				c.below(e, n.elem, it.Value(), o)
			case !o.IsValid():
				c.below(e, n.elem, absent, it.Value())
			}
		}
	}
	visit(l, r, true)
	visit(r, l, false)
}

func (c *comparer) set(l, r reflect.Value) {
	lhs, rhs := c.texts(l), c.texts(r)
	for _, s := range lhs {
		if !slices.Contains(rhs, s) {
			c.removed.Insert(append(c.path, fieldpath.ValueElement(value.NewValueInterface(s))))
		}
	}
	for _, s := range rhs {
		if !slices.Contains(lhs, s) {
			c.changed.Insert(append(c.path, fieldpath.ValueElement(value.NewValueInterface(s))))
		}
	}
}

// texts lists the items of a set. One that stands twice is the library's matter.
func (c *comparer) texts(v reflect.Value) []string {
	if !v.IsValid() {
		return nil
	}
	out := make([]string, v.Len())
	for i := range out {
		out[i] = v.Index(i).String()
		c.failed = c.failed || slices.Contains(out[:i], out[i])
	}
	return out
}

func (c *comparer) keyed(n *node, l, r reflect.Value) {
	lhs, rhs := c.items(n, l), c.items(n, r)
	find := func(items []item, keys []key) int {
		return slices.IndexFunc(items, func(i item) bool { return compareKeys(i.keys, keys) == 0 })
	}
	for _, li := range lhs {
		other := absent
		if at := find(rhs, li.keys); at >= 0 {
			other = r.Index(rhs[at].at)
		}
		c.below(keyElement(li.keys), n.elem, l.Index(li.at), other)
	}
	for _, ri := range rhs {
		if find(lhs, ri.keys) < 0 {
			c.below(keyElement(ri.keys), n.elem, absent, r.Index(ri.at))
		}
	}
}

// items lists the items of a list with their keys.
func (c *comparer) items(n *node, v reflect.Value) []item {
	if !v.IsValid() {
		return nil
	}
	out := make([]item, v.Len())
	for i := range out {
		out[i] = item{at: i, keys: keysOf(n.keys, v.Index(i))}
		c.failed = c.failed || len(out[i].keys) == 0
		for _, before := range out[:i] {
			c.failed = c.failed || compareKeys(before.keys, out[i].keys) == 0
		}
	}
	return out
}

func keyElement(keys []key) fieldpath.PathElement {
	var list value.FieldList
	for _, k := range keys {
		v := value.NewValueInterface(k.number)
		if k.isText {
			v = value.NewValueInterface(k.text)
		}
		list = append(list, value.Field{Name: k.name, Value: v})
	}
	return fieldpath.PathElement{Key: &list}
}

// equal compares leaves as their JSON would compare.
func equal(l, r reflect.Value) bool {
	switch l.Kind() {
	case reflect.String:
		return l.String() == r.String()
	case reflect.Bool:
		return l.Bool() == r.Bool()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return l.Int() == r.Int()
	}
	switch a := l.Interface().(type) {
	case metav1.Time:
		b := r.Interface().(metav1.Time)
		return a.Unix() == b.Unix()
	case metav1.MicroTime:
		b := r.Interface().(metav1.MicroTime)
		return a.UnixMicro() == b.UnixMicro()
	case metav1.Duration:
		return a == r.Interface().(metav1.Duration)
	case intstr.IntOrString:
		b := r.Interface().(intstr.IntOrString)
		return a.Type == b.Type && (a.Type == intstr.Int && a.IntVal == b.IntVal || a.Type == intstr.String && a.StrVal == b.StrVal)
	case resource.Quantity:
		b := r.Interface().(resource.Quantity)
		return a.String() == b.String()
	}
	if reflect.DeepEqual(l.Interface(), r.Interface()) {
		return true
	}
	lv, lerr := value.NewValueReflect(pointerTo(l))
	rv, rerr := value.NewValueReflect(pointerTo(r))
	return lerr == nil && rerr == nil && value.Equals(lv, rv)
}

func pointerTo(v reflect.Value) any {
	if v.CanAddr() {
		return v.Addr().Interface()
	}
	p := reflect.New(v.Type())
	p.Elem().Set(v)
	return p.Interface()
}
