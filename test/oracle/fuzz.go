package oracle

import (
	"math/rand/v2"
	"reflect"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// fuzzer changes objects here and there. Strings come mostly from where the
// corpus has strings in a field of the same name, so that most changes leave
// an object that is nearly right.
type fuzzer struct {
	rand  *rand.Rand
	names map[string][]string // values that the corpus has, by field name
}

func newFuzzer(seed uint64, corpus []any) *fuzzer {
	f := &fuzzer{rand: rand.New(rand.NewPCG(seed, 1337)), names: map[string][]string{}}
	for _, o := range corpus {
		f.learn("", reflect.ValueOf(o))
	}
	return f
}

// alphabet is what strings are made of that the corpus does not have: names
// that are right and wrong in the ways that names can be.
var alphabet = []string{
	"", "a", "web", "web-1", "Web", "-web", "web-", "web_1", "web.example.com", "http", "a b", "1", "0", "-1", "1a", "é",
	"example.com/web", "example.com/", "/web", "kubernetes.io/web", "a/b/c", "example.com/Web_1", "system:node", "..", ".", "%",
	"10.0.0.1", "10.0.0.01", "127.0.0.1", "0.0.0.0", "169.254.1.1", "224.0.0.1", "300.1.1.1", "fd00::1", "::1", "fe80::1", "FD00::1", "::ffff:10.0.0.1",
	"10.0.0.0/8", "10.0.0.1/8", "fd00::/64", "10.0.0.0/33", "*", "*.example.com", "*example.com", "example.com.", "None",
	"TCP", "UDP", "SCTP", "tcp", "True", "False", "Unknown", "25%", "0%", "100%", "101%", "10", "1.5%",
	"/", "/a", "a", "/a//b", "/a/../b", "/a/.", "/..", "v1", "default", "kube-system", "Never", "Always", "Local", "Cluster",
	strings.Repeat("x", 63), strings.Repeat("x", 64), strings.Repeat("x", 254),
}

var numbers = []int64{-1, 0, 1, 2, 3, 5, 10, 80, 100, 443, 600, 8080, 30080, 65535, 65536, 86400, 86401, 1000000000, 2000000000, 2000001000}

var quantities = []string{"0", "1", "100m", "1500m", "1.5", "128Mi", "2Gi", "-1", "1n", "250m", "4", "1Ki"}

// learn collects the strings of v by the names of their fields.
func (f *fuzzer) learn(name string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			f.learn(name, v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				f.learn(v.Type().Field(i).Name, v.Field(i))
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			f.learn(name, v.Index(i))
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			f.learn(name+" key", it.Key())
			f.learn(name, it.Value())
		}
		sortStrings(f.names, name, name+" key")
	case reflect.String:
		if len(v.String()) < 300 {
			f.names[name] = append(f.names[name], v.String())
		}
	}
}

// change makes one change somewhere in the struct that v points to, and tells
// whether it found a place for it.
func (f *fuzzer) change(v reflect.Value) bool {
	var places []func()
	f.places("", v.Elem(), 1, &places)
	if len(places) == 0 {
		return false
	}
	places[f.rand.IntN(len(places))]()
	return true
}

// whole fills the object's own part, all but its type and metadata.
func (f *fuzzer) whole(v reflect.Value) {
	for i := range v.NumField() {
		switch name := v.Type().Field(i).Name; name {
		case "TypeMeta", "ObjectMeta":
		default:
			v.Field(i).SetZero()
			f.fill(name, v.Field(i), 0)
		}
	}
}

// maxDepth bounds how deep a new value is filled, in levels of pointers,
// slices and structs.
const maxDepth = 5

// places collects what can be changed in v: each leaf once, and adding to,
// taking from and doubling in whatever holds several.
func (f *fuzzer) places(name string, v reflect.Value, weight int, out *[]func()) {
	add := func(change func()) {
		for range weight {
			*out = append(*out, change)
		}
	}
	if f.leaf(name, v, nil) {
		add(func() { f.leaf(name, v, f.rand) })
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			add(func() { v.Set(reflect.New(v.Type().Elem())); f.fill(name, v.Elem(), 0) })
			return
		}
		add(func() { v.SetZero() })
		f.places(name, v.Elem(), weight, out)
	case reflect.Struct:
		for i := range v.NumField() {
			t := v.Type().Field(i)
			switch t.Name {
			case "TypeMeta", "ManagedFields", "SelfLink", "ResourceVersion", "UID", "Generation", "CreationTimestamp",
				"DeletionTimestamp", "DeletionGracePeriodSeconds":
				continue // the server's
			}
			f.places(t.Name, v.Field(i), weight, out)
		}
	case reflect.Slice:
		add(func() {
			e := reflect.New(v.Type().Elem()).Elem()
			f.fill(name, e, 0)
			v.Set(reflect.Append(v, e))
		})
		if n := v.Len(); n > 0 {
			add(func() { v.Set(reflect.Append(v, v.Index(f.rand.IntN(n)))) })
			add(func() { i := f.rand.IntN(n); v.Set(reflect.AppendSlice(v.Slice(0, i), v.Slice(i+1, n))) })
			add(func() { v.SetZero() })
		}
		for i := range v.Len() {
			f.places(name, v.Index(i), 2, out)
		}
	case reflect.Map:
		add(func() { f.put(name, v, 0) })
		if v.Len() > 0 {
			add(func() { v.SetMapIndex(f.key(v), reflect.Value{}) })
			add(func() {
				k := f.key(v)
				e := reflect.New(v.Type().Elem()).Elem()
				f.fill(name, e, 0)
				v.SetMapIndex(k, e)
			})
		}
	}
}

// key is one of the keys of the map, by its order: the map's own is random.
func (f *fuzzer) key(v reflect.Value) reflect.Value {
	keys := v.MapKeys()
	sortKeys(keys)
	return keys[f.rand.IntN(len(keys))]
}

func (f *fuzzer) put(name string, v reflect.Value, depth int) {
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	k := reflect.New(v.Type().Key()).Elem()
	f.fill(name+" key", k, depth)
	e := reflect.New(v.Type().Elem()).Elem()
	f.fill(name, e, depth)
	v.SetMapIndex(k, e)
}

// fill gives v a value all through.
func (f *fuzzer) fill(name string, v reflect.Value, depth int) {
	if f.leaf(name, v, f.rand) || depth > maxDepth {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if f.rand.IntN(2) == 0 {
			v.Set(reflect.New(v.Type().Elem()))
			f.fill(name, v.Elem(), depth+1)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if t := v.Type().Field(i); t.IsExported() && f.rand.IntN(3) > 0 {
				f.fill(t.Name, v.Field(i), depth+1)
			}
		}
	case reflect.Slice:
		for range f.rand.IntN(3) {
			e := reflect.New(v.Type().Elem()).Elem()
			f.fill(name, e, depth+1)
			v.Set(reflect.Append(v, e))
		}
	case reflect.Map:
		for range f.rand.IntN(3) {
			f.put(name, v, depth+1)
		}
	}
}

// leaf gives v a value if it is of a type that has no parts, and tells whether
// it is. Without r it only tells.
func (f *fuzzer) leaf(name string, v reflect.Value, r *rand.Rand) bool {
	set := func(x any) {
		if r != nil {
			v.Set(reflect.ValueOf(x).Convert(v.Type()))
		}
	}
	number := func() int64 {
		if r == nil {
			return 0
		}
		return numbers[r.IntN(len(numbers))]
	}
	switch v.Interface().(type) {
	case metav1.Time:
		set(metav1.Unix(1_790_000_000+number()%1000, 0))
		return true
	case metav1.MicroTime:
		set(metav1.NewMicroTime(time.Unix(1_790_000_000+number()%1000, 0)))
		return true
	case metav1.Duration:
		set(metav1.Duration{Duration: time.Duration(number())})
		return true
	case resource.Quantity:
		if r != nil {
			set(resource.MustParse(quantities[r.IntN(len(quantities))]))
		}
		return true
	case intstr.IntOrString:
		if r != nil && r.IntN(2) == 0 {
			set(intstr.FromString(f.text(name, r)))
		} else {
			set(intstr.FromInt32(int32(number())))
		}
		return true
	case runtime.RawExtension, metav1.FieldsV1:
		return true
	case []byte:
		if r != nil {
			set([]byte(f.text(name, r)))
		}
		return true
	}
	switch v.Kind() {
	case reflect.String:
		if r != nil {
			set(f.text(name, r))
		}
	case reflect.Bool:
		if r != nil {
			set(!v.Bool())
		}
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint32:
		set(number())
	case reflect.Float64:
	default:
		return false
	}
	return true
}

// text is mostly a string that the corpus has in such a field.
func (f *fuzzer) text(name string, r *rand.Rand) string {
	if known := f.names[name]; len(known) > 0 && r.IntN(10) < 6 {
		return known[r.IntN(len(known))]
	}
	return alphabet[r.IntN(len(alphabet))]
}
