package kinds

import (
	"math/rand"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/randfill"

	"github.com/rutterhq/rutter/kernel"
)

// randomObjects fills objects of the API types, deterministically by seed. Lists
// have at most two items, so that some are empty and few have a key twice.
func randomObjects(seed int64) *randfill.Filler {
	return randfill.New().RandSource(rand.NewSource(seed)).NilChance(0.4).NumElements(0, 2).MaxDepth(12).Funcs(
		func(q *resource.Quantity, c randfill.Continue) {
			*q = *resource.NewQuantity(c.Int63n(1000), resource.DecimalSI)
		},
		func(i *intstr.IntOrString, c randfill.Continue) {
			*i = intstr.FromInt32(c.Int31n(100))
			if c.Bool() {
				*i = intstr.FromString("port")
			}
		},
		func(t *metav1.Time, c randfill.Continue) {
			if c.Bool() {
				*t = metav1.Unix(c.Int63n(1<<31), 0)
			}
		},
		func(t *metav1.MicroTime, c randfill.Continue) {
			if c.Bool() {
				t.Time = time.Unix(c.Int63n(1<<31), 0)
			}
		},
		func(m *[]metav1.ManagedFieldsEntry, _ randfill.Continue) { *m = nil },
		func(r *runtime.RawExtension, _ randfill.Continue) {},
	)
}

// plainStrings makes every text of an object short, seldom empty, and very
// seldom such as JSON must escape.
func plainStrings(v reflect.Value, r *rand.Rand) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			plainStrings(v.Elem(), r)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				plainStrings(v.Field(i), r)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			plainStrings(v.Index(i), r)
		}
	case reflect.Map:
		filled := reflect.MakeMap(v.Type())
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, k := range keys {
			key, item := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			plainStrings(key, r)
			item.Set(v.MapIndex(k))
			plainStrings(item, r)
			filled.SetMapIndex(key, item)
		}
		if !v.IsNil() {
			v.Set(filled)
		}
	case reflect.String:
		switch n := r.Intn(5000); {
		case n == 0:
			v.SetString(`<"é\`)
		case n < 100:
			v.SetString("")
		default:
			v.SetString(strconv.Itoa(n))
		}
	}
}

// byLibrary is what the library's field manager makes of a create.
func byLibrary(t *testing.T, row Row, o kernel.Object, manager string) []metav1.ManagedFieldsEntry {
	t.Helper()
	m, err := newFieldManager(row, "")
	if err != nil {
		t.Fatal(err)
	}
	out, err := m.Update(emptyObject(row), o, manager)
	if err != nil {
		return nil
	}
	settleTimes(out.(kernel.Object), nil, testNow)
	return out.(kernel.Object).GetManagedFields()
}

func TestWalkerEqualsFieldManager(t *testing.T) {
	// Enough to notice a mistake; 4,000 per kind agreed when it was written.
	const objects = 100
	for _, row := range All {
		t.Run(row.Describe().Resource.String(), func(t *testing.T) {
			fill, r := randomObjects(1), rand.New(rand.NewSource(1))
			wrote := 0
			for range objects {
				o := row.NewObject()
				fill.Fill(o)
				plainStrings(reflect.ValueOf(o), r)
				o.SetManagedFields(nil)
				SetTypeMeta(o)
				theirs := byLibrary(t, row, o.DeepCopyObject().(kernel.Object), "m")
				ours := o.DeepCopyObject().(kernel.Object)
				if !walked(row, "", ours, nil, "m", testNow) {
					continue
				}
				wrote++
				if diff := cmp.Diff(managedText(theirs), managedText(ours.GetManagedFields())); diff != "" {
					body, _ := EncodeJSON(o)
					t.Fatalf("(-library +walker):\n%s\n%s", diff, body)
				}
			}
			if wrote < objects/8 {
				t.Errorf("the walker wrote %d of %d objects", wrote, objects)
			}
		})
	}
}

// mix makes an object between two of one type: at every place it is like the one
// or the other.
func mix(into, from reflect.Value, r *rand.Rand) {
	switch {
	case r.Intn(3) == 0:
		into.Set(from)
	case into.Kind() == reflect.Struct:
		for i := range into.NumField() {
			if into.Field(i).CanSet() && r.Intn(2) == 0 {
				mix(into.Field(i), from.Field(i), r)
			}
		}
	case into.Kind() == reflect.Pointer && !into.IsNil() && !from.IsNil():
		mix(into.Elem(), from.Elem(), r)
	case into.Kind() == reflect.Slice && into.Len() > 0 && from.Len() > 0:
		mix(into.Index(r.Intn(into.Len())), from.Index(r.Intn(from.Len())), r)
	case into.Kind() == reflect.Map && into.Len() > 0:
		for _, k := range from.MapKeys() {
			into.SetMapIndex(k, from.MapIndex(k))
		}
	}
}

func TestWalkedUpdateEqualsFieldManager(t *testing.T) {
	// As above: 1,500 per kind agreed, with up to four updates each.
	const objects = 40
	for _, row := range All {
		t.Run(row.Describe().Resource.String(), func(t *testing.T) {
			fill, r := randomObjects(2), rand.New(rand.NewSource(2))
			random := func() kernel.Object {
				o := row.NewObject()
				fill.Fill(o)
				plainStrings(reflect.ValueOf(o), r)
				o.SetManagedFields(nil)
				SetTypeMeta(o)
				return o
			}
			wrote := 0
			for range objects {
				old := random()
				if !walked(row, "", old, nil, "one", testNow) {
					continue
				}
				old.SetUID("u")
				for i, manager := range []string{"two", "one", "two", "three"} {
					sub := ""
					if i == 2 && row.Describe().Status {
						sub = "status"
					}
					o, by := old.DeepCopyObject().(kernel.Object), random()
					mix(reflect.ValueOf(o).Elem(), reflect.ValueOf(by.DeepCopyObject()).Elem(), r)
					o.SetUID("u")
					o.SetManagedFields(old.GetManagedFields())
					SetTypeMeta(o)
					if !checkUpdate(t, row, sub, o, old, manager, testNow.Add(time.Duration(i)*time.Minute)) {
						break
					}
					wrote++
					old = o
				}
			}
			if wrote < objects/8 {
				t.Errorf("the walker wrote %d updates of %d objects", wrote, objects)
			}
		})
	}
}

// checkUpdate records the manager of an update in o and compares with the
// library. It tells whether the walker could.
func checkUpdate(t *testing.T, row Row, sub string, o, old kernel.Object, manager string, now time.Time) bool {
	t.Helper()
	m, err := newFieldManager(row, sub)
	if err != nil {
		t.Fatal(err)
	}
	theirs := o.DeepCopyObject().(kernel.Object)
	before := old.DeepCopyObject().(kernel.Object)
	if _, err := m.Update(before, theirs, manager); err != nil {
		return false
	}
	settleTimes(theirs, old.GetManagedFields(), now)
	given := o.DeepCopyObject().(kernel.Object)
	if !walkedUpdate(row, sub, o, old, manager, now) {
		return false
	}
	if diff := cmp.Diff(managedText(theirs.GetManagedFields()), managedText(o.GetManagedFields())); diff != "" {
		from, _ := EncodeJSON(old)
		to, _ := EncodeJSON(given)
		t.Fatalf("%s (-library +walker):\n%s\n%s\n%s", manager, diff, from, to)
	}
	return true
}

// managedText makes entries readable in a diff.
func managedText(entries []metav1.ManagedFieldsEntry) []string {
	var out []string
	for _, e := range entries {
		out = append(out, e.Manager, string(e.Operation), e.APIVersion, e.Time.UTC().String(), e.Subresource, e.FieldsType, e.FieldsV1.GetRawString())
	}
	return out
}

func TestManagedFieldsOfUpdates(t *testing.T) {
	w := newWorld(t)
	made, err := w.finish(kernel.Write{Verb: Create, New: testConfigMap("c"), Manager: "one"})
	if err != nil {
		t.Fatal(err)
	}
	old := w.put(made)
	update := func(change func(*corev1.ConfigMap)) kernel.Object {
		t.Helper()
		o := old.DeepCopyObject().(*corev1.ConfigMap)
		change(o)
		later := testNow.Add(time.Minute)
		got, r := w.s.Finish(w.view, kernel.Write{Verb: Update, Key: w.s.KeyOf(o), Old: old, New: o, Manager: "two"}, later)
		if r != nil {
			t.Fatal(r)
		}
		return got
	}
	if o := update(func(*corev1.ConfigMap) {}); o != nil {
		t.Errorf("an update that changes nothing gives %v", o)
	}
	o := update(func(c *corev1.ConfigMap) { c.Data = map[string]string{"a": "x", "n": "y"} })
	want := []string{
		"one", "Update", "v1", testNow.Truncate(time.Second).String(), "", "FieldsV1", `{"f:data":{}}`,
		"two", "Update", "v1", testNow.Truncate(time.Second).Add(time.Minute).String(), "", "FieldsV1", `{"f:data":{"f:a":{},"f:n":{}}}`,
	}
	if diff := cmp.Diff(want, managedText(o.GetManagedFields())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if o := update(func(c *corev1.ConfigMap) { c.ManagedFields = nil }); o != nil {
		t.Errorf("an update without managedFields changes %+v", o)
	}
}
