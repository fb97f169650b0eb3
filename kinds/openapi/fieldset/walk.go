package fieldset

import (
	"cmp"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Walker writes the fields of the objects of one kind. It is safe for
// concurrent use.
type Walker struct{ root *node }

// before is what an empty object has where the new one has a value.
type before uint8

const (
	nothing before = iota // the empty object has no such field
	null                  // it has null there
	zero                  // it has the type's zero value there
)

// notOwned are fields of metadata that no manager owns.
var notOwned = []string{"clusterName", "creationTimestamp", "generation", "managedFields", "name", "namespace",
	"resourceVersion", "selfLink", "uid"}

// Append writes FieldsV1 of the object, a pointer to a struct, to buf. skip is a
// field of the object that does not count, such as status, or "". ok is false if
// the object has something that a Walker cannot write; buf is then to be thrown
// away. An object that sets nothing gives {}.
func (w *Walker) Append(buf []byte, object any, skip string) (out []byte, ok bool) {
	v := reflect.ValueOf(object)
	if v.Kind() != reflect.Pointer || v.IsNil() || w.root.kind != record {
		return buf, false
	}
	p := printer{buf: append(buf, '{')}
	v = v.Elem()
	first := true
	for i := range w.root.fields {
		f := &w.root.fields[i]
		switch f.name {
		case "apiVersion", "kind", skip:
		case "metadata":
			p.metadata(f, v, &first)
		default:
			p.field(f, v, zero, &first)
		}
	}
	p.buf = append(p.buf, '}')
	return p.buf, !p.failed
}

// printer writes one object's fields.
type printer struct {
	buf    []byte
	failed bool
}

// metadata writes the object's own metadata, without what nobody owns.
func (p *printer) metadata(f *fieldNode, object reflect.Value, first *bool) {
	mark := p.open(`"f:metadata":{`, first)
	v := f.entry.GetFrom(object)
	inner := true
	for i := range f.node.fields {
		g := &f.node.fields[i]
		if !slices.Contains(notOwned, g.name) {
			p.field(g, v, zero, &inner)
		}
	}
	p.close(mark, !inner, first)
}

// open begins a member of a JSON object and returns where it began.
func (p *printer) open(text string, first *bool) (mark int) {
	mark = len(p.buf)
	if !*first {
		p.buf = append(p.buf, ',')
	}
	p.buf = append(p.buf, text...)
	return mark
}

// close ends the member, or takes it back if there is nothing in it to keep.
func (p *printer) close(mark int, keep bool, first *bool) {
	if !keep {
		p.buf = p.buf[:mark]
		return
	}
	p.buf = append(p.buf, '}')
	*first = false
}

// field writes a field of a record that itself stood over was.
func (p *printer) field(f *fieldNode, in reflect.Value, was before, first *bool) {
	v := f.entry.GetFrom(in)
	if f.entry.CanOmit(v) {
		return
	}
	b := nothing
	if was == zero && f.zero {
		b = zero
		switch v.Kind() {
		case reflect.Pointer, reflect.Map, reflect.Slice:
			b = null
		}
		if f.node.null != nil {
			b = null
		}
	}
	mark := p.open(`"f:`, first)
	p.buf = append(append(p.buf, f.name...), `":{`...)
	p.close(mark, p.value(f.node, v, b), first)
}

// value writes what is within the braces of one path. It tells whether the path
// belongs to the set: itself, or something below it.
func (p *printer) value(n *node, v reflect.Value, was before) bool {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return was == nothing
		}
		v = v.Elem()
	}
	switch n.kind {
	case record:
		return p.record(n, v, was)
	case dict:
		return p.dict(n, v, was)
	case keyed:
		return p.keyed(n, v, was)
	case set:
		return p.set(v, was)
	case refused:
		// An empty object has it too if it is not there at all.
		p.failed = p.failed || was == nothing || !v.IsZero()
		return false
	}
	switch was {
	case null:
		return !(n.null != nil && n.null(v)) && !isNil(v)
	case zero:
		return !v.IsZero()
	}
	return true
}

func isNil(v reflect.Value) bool {
	return (v.Kind() == reflect.Map || v.Kind() == reflect.Slice) && v.IsNil()
}

// self writes that a path belongs to the set, beside what is below it.
func (p *printer) self(was before) (first bool) {
	if was == nothing {
		p.buf = append(p.buf, `".":{}`...)
		return false
	}
	return true
}

func (p *printer) record(n *node, v reflect.Value, was before) bool {
	mark := len(p.buf)
	comma, present := p.self(was), false
	for i := range n.fields {
		f := &n.fields[i]
		if !present && !f.entry.CanOmit(f.entry.GetFrom(v)) {
			present = true
		}
		p.field(f, v, was, &comma)
	}
	if !present {
		// An empty struct is a leaf.
		p.buf = p.buf[:mark]
		return was != zero
	}
	return was == nothing || !comma
}

func (p *printer) dict(n *node, v reflect.Value, was before) bool {
	if v.Len() == 0 {
		return p.empty(v, was)
	}
	keys := make([]string, 0, v.Len())
	for _, k := range v.MapKeys() {
		keys = append(keys, k.String())
	}
	slices.Sort(keys)
	comma := p.self(was)
	for _, k := range keys {
		mark := p.open(`"f:`, &comma)
		p.plain(k)
		p.buf = append(p.buf, `":{`...)
		item := v.MapIndex(reflect.ValueOf(k).Convert(v.Type().Key()))
		p.close(mark, p.value(n.elem, item, nothing), &comma)
	}
	return true
}

// empty tells of an empty list or map whether it is a change: null is not [].
func (p *printer) empty(v reflect.Value, was before) bool {
	return was == nothing || !v.IsNil()
}

func (p *printer) set(v reflect.Value, was before) bool {
	if v.Len() == 0 {
		return p.empty(v, was)
	}
	items := make([]string, v.Len())
	for i := range items {
		items[i] = v.Index(i).String()
	}
	slices.Sort(items)
	comma := p.self(was)
	for i, item := range items {
		if i > 0 && items[i-1] == item {
			p.failed = true
		}
		p.open(`"v:\"`, &comma)
		p.plain(item)
		p.buf = append(p.buf, `\"":{}`...)
		comma = false
	}
	return true
}

// keyed writes the items of a list by their keys, in their order.
func (p *printer) keyed(n *node, v reflect.Value, was before) bool {
	if v.Len() == 0 {
		return p.empty(v, was)
	}
	items := make([]item, v.Len())
	for i := range items {
		items[i] = item{at: i, keys: keysOf(n.keys, v.Index(i))}
		if len(items[i].keys) == 0 {
			p.failed = true
			return false
		}
	}
	slices.SortFunc(items, func(a, b item) int { return compareKeys(a.keys, b.keys) })
	comma := p.self(was)
	for i, it := range items {
		if i > 0 && compareKeys(items[i-1].keys, it.keys) == 0 {
			p.failed = true
		}
		mark := p.open(`"k:{`, &comma)
		for j, k := range it.keys {
			if j > 0 {
				p.buf = append(p.buf, ',')
			}
			p.key(k)
		}
		p.buf = append(p.buf, `}":{`...)
		p.close(mark, p.value(n.elem, v.Index(it.at), nothing), &comma)
	}
	return true
}

// item is an item of a list and what tells it apart.
type item struct {
	at   int
	keys []key
}

// key is the value of one of an item's keys.
type key struct {
	name   string
	isText bool
	text   string
	number int64
}

func keysOf(nodes []keyNode, v reflect.Value) []key {
	keys := make([]key, 0, len(nodes))
	for _, n := range nodes {
		f := n.entry.GetFrom(v)
		if n.entry.CanOmit(f) {
			switch standard := n.standard.(type) {
			case string:
				keys = append(keys, key{name: n.name, isText: true, text: standard})
			case nil:
			default:
				return nil
			}
			continue
		}
		if f.Kind() == reflect.Pointer {
			f = f.Elem()
		}
		switch {
		case f.Kind() == reflect.String:
			keys = append(keys, key{name: n.name, isText: true, text: f.String()})
		case f.CanInt():
			keys = append(keys, key{name: n.name, number: f.Int()})
		default:
			return nil
		}
	}
	return keys
}

// compareKeys is the order of structured-merge-diff: by name, then by value, and
// numbers before text.
func compareKeys(a, b []key) int {
	return slices.CompareFunc(a, b, func(a, b key) int {
		if c := strings.Compare(a.name, b.name); c != 0 {
			return c
		}
		if a.isText != b.isText {
			if a.isText {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(a.number, b.number), strings.Compare(a.text, b.text))
	})
}

// key writes one key, as JSON within a JSON string.
func (p *printer) key(k key) {
	p.buf = append(p.buf, `\"`...)
	p.buf = append(p.buf, k.name...)
	p.buf = append(p.buf, `\":`...)
	if !k.isText {
		p.buf = strconv.AppendInt(p.buf, k.number, 10)
		return
	}
	p.buf = append(p.buf, `\"`...)
	p.plain(k.text)
	p.buf = append(p.buf, `\"`...)
}

// plain writes text that stands in JSON as it is; other text is refused.
func (p *printer) plain(s string) {
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ', c > '~', c == '"', c == '\\', c == '<', c == '>', c == '&':
			p.failed = true
			return
		}
	}
	p.buf = append(p.buf, s...)
}
