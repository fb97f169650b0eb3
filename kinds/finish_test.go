package kinds

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/rutterhq/rutter/kernel"
)

var testNow = time.Date(2026, 3, 4, 5, 6, 7, 89, time.UTC)

// world is a View with objects in it, each at its own Seq.
type world struct {
	t    *testing.T
	s    Schema
	view *kernel.View
}

func newWorld(t *testing.T, objects ...kernel.Object) *world {
	w := &world{t: t, s: keyed()}
	w.view = kernel.NewView(w.s)
	w.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", UID: "ns"}})
	w.put(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "default", UID: "sa"}})
	for _, o := range objects {
		w.put(o)
	}
	return w
}

// put folds an object and returns it as the View has it.
func (w *world) put(o kernel.Object) kernel.Object {
	w.t.Helper()
	body, err := w.s.Encode(o)
	if err != nil {
		w.t.Fatal(err)
	}
	k := w.s.KeyOf(o)
	w.view, _ = w.view.Fold(kernel.Record{Key: k, Seq: w.view.Seq() + 1, Body: body, Delete: Gone(o)})
	return w.view.Entry(k).Object()
}

func (w *world) finish(write kernel.Write) (kernel.Object, error) {
	w.t.Helper()
	if write.Key.Name == "" && write.New != nil {
		write.Key = w.s.KeyOf(write.New)
	}
	var before []byte
	if write.Old != nil {
		before, _ = json.Marshal(write.Old)
	}
	o, r := w.s.Finish(w.view, write, testNow)
	if write.Old != nil {
		if after, _ := json.Marshal(write.Old); string(before) != string(after) {
			w.t.Errorf("Finish changed the old object, which is shared:\n%s\n%s", before, after)
		}
	}
	if r != nil {
		return nil, r
	}
	return o, nil
}

// create finishes and folds.
func (w *world) create(o kernel.Object) kernel.Object {
	w.t.Helper()
	got, err := w.finish(kernel.Write{Verb: Create, New: o, UID: "11111111-2222-3333-4444-555555555555"})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.put(got)
}

// update finishes what change makes of old; it folds nothing.
func (w *world) update(old kernel.Object, sub string, change func(kernel.Object)) (kernel.Object, error) {
	w.t.Helper()
	o := old.DeepCopyObject().(kernel.Object)
	change(o)
	return w.finish(kernel.Write{Verb: Update, Subresource: sub, Old: old, New: o})
}

func testConfigMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Data: map[string]string{"a": "b"}}
}

func testPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

func TestCreateSetsSystemMetadata(t *testing.T) {
	w := newWorld(t)
	in := testConfigMap("c")
	in.UID, in.Generation, in.ResourceVersion = "mine", 9, "4"
	in.DeletionTimestamp = &metav1.Time{Time: testNow}
	in.CreationTimestamp = metav1.NewTime(testNow.Add(time.Hour))
	o, err := w.finish(kernel.Write{Verb: Create, New: in, Seen: 3})
	if err != nil {
		t.Fatal(err)
	}
	if o.GetUID() == "mine" || o.GetUID() == "" || o.GetGeneration() != 0 || o.GetResourceVersion() != "" || o.GetDeletionTimestamp() != nil {
		t.Errorf("metadata is the writer's: %+v", o)
	}
	if !o.GetCreationTimestamp().Time.Equal(testNow.Truncate(time.Second)) {
		t.Errorf("created at %v", o.GetCreationTimestamp())
	}
	again, _ := w.finish(kernel.Write{Verb: Create, New: testConfigMap("c"), Seen: 3})
	other, _ := w.finish(kernel.Write{Verb: Create, New: testConfigMap("c"), Seen: 4})
	if again.GetUID() != o.GetUID() || other.GetUID() == o.GetUID() {
		t.Errorf("uids %s, %s, %s: want the first two equal, the third not", o.GetUID(), again.GetUID(), other.GetUID())
	}
	body, err := w.s.Encode(o)
	if err != nil || !strings.HasPrefix(string(body), `{"kind":"ConfigMap","apiVersion":"v1","metadata":{`) {
		t.Errorf("encoded to %s, %v", body, err)
	}
}

func TestCreateGeneratesNames(t *testing.T) {
	w := newWorld(t)
	make := func(uid string) (kernel.Object, error) {
		in := testConfigMap("")
		in.GenerateName = strings.Repeat("x", 60)
		return w.finish(kernel.Write{Key: ConfigMaps.Key("default", ""), Verb: Create, New: in, UID: uid})
	}
	a, err := make("1")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := make("2")
	if len(a.GetName()) != 63 || a.GetName() == b.GetName() {
		t.Errorf("generated %q and %q", a.GetName(), b.GetName())
	}
	w.put(a)
	if _, err := make("1"); !apierrors.IsAlreadyExists(err) || !strings.Contains(err.Error(), "not able to generate a unique name") {
		t.Errorf("a generated name that exists: %v", err)
	}
}

func TestCreateRefusals(t *testing.T) {
	w := newWorld(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "going", UID: "g", Finalizers: []string{"a/b"}, DeletionTimestamp: &metav1.Time{Time: testNow}}})
	w.create(testConfigMap("there"))
	for _, c := range []struct {
		name  string
		write kernel.Write
		want  string
	}{
		{"exists", kernel.Write{New: testConfigMap("there")}, `configmaps "there" already exists`},
		{"no namespace", kernel.Write{New: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "none"}}}, `namespaces "none" not found`},
		{"going", kernel.Write{New: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "going"}}}, `configmaps "c" is forbidden: unable to create new content in namespace going because it is being terminated`},
		{"other namespace", kernel.Write{Key: ConfigMaps.Key("other", "c"), New: testConfigMap("c")}, `the namespace of the provided object does not match the namespace sent on the request (default != other)`},
		{"bad name", kernel.Write{New: testConfigMap("a/b")}, `metadata.name: Invalid value: "a/b"`},
		{"bad label", kernel.Write{New: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "default", Labels: map[string]string{"a": "!"}}}}, `metadata.labels: Invalid value: "!"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.write.Verb = Create
			_, err := w.finish(c.write)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestUpdateKeepsIdentityAndCountsGenerations(t *testing.T) {
	w := newWorld(t)
	pod := w.create(testPod("p"))
	if pod.GetGeneration() != 1 || pod.(*corev1.Pod).Status.Phase == corev1.PodRunning {
		t.Fatalf("created as %+v", pod)
	}
	o, err := w.update(pod, "", func(o kernel.Object) {
		p := o.(*corev1.Pod)
		p.UID, p.CreationTimestamp, p.Generation, p.ResourceVersion = "", metav1.Time{}, 7, ""
		p.Labels = map[string]string{"a": "b"}
		p.Status.Phase = corev1.PodRunning
	})
	if err != nil {
		t.Fatal(err)
	}
	want := pod.DeepCopyObject().(*corev1.Pod)
	want.Labels = map[string]string{"a": "b"}
	if diff := cmp.Diff(want, o); diff != "" {
		t.Errorf("a plain update with a status (-want +got):\n%s", diff)
	}
	o, err = w.update(pod, "", func(o kernel.Object) { o.(*corev1.Pod).Spec.Containers[0].Image = "j" })
	if err != nil || o.GetGeneration() != 2 {
		t.Errorf("a new image: %v, generation %v", err, o)
	}
	o, err = w.update(pod, "status", func(o kernel.Object) {
		o.(*corev1.Pod).Spec.Containers[0].Image = "j"
		o.(*corev1.Pod).Status.Phase = corev1.PodRunning
	})
	if err != nil || o.GetGeneration() != 1 || o.(*corev1.Pod).Spec.Containers[0].Image != "i" || o.(*corev1.Pod).Status.Phase != corev1.PodRunning {
		t.Errorf("a status: %v, %+v", err, o)
	}
	if o, err := w.update(pod, "", func(kernel.Object) {}); o != nil || err != nil {
		t.Errorf("an update that changes nothing gives %v, %v", o, err)
	}
	_, err = w.update(pod, "", func(o kernel.Object) { o.SetUID("other") })
	if !apierrors.IsConflict(err) {
		t.Errorf("another uid: %v", err)
	}
	o, err = w.update(pod, kernel.Whole, func(o kernel.Object) {
		o.(*corev1.Pod).Spec.NodeName = "n1"
		o.(*corev1.Pod).Status.Message = "m"
	})
	if err != nil || o.(*corev1.Pod).Spec.NodeName != "n1" || o.(*corev1.Pod).Status.Message != "m" || o.GetGeneration() != 2 {
		t.Errorf("a whole update: %v, %+v", err, o)
	}
}

func TestDeleteWithGrace(t *testing.T) {
	w := newWorld(t)
	pod := w.create(testPod("p"))
	del := func(old kernel.Object, grace *int64) kernel.Object {
		t.Helper()
		o, err := w.finish(kernel.Write{Key: w.s.KeyOf(old), Verb: Delete, Old: old, Grace: grace})
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	if o := del(pod, nil); !Gone(o) {
		t.Errorf("an unbound pod stays: %+v", o)
	}
	bound, err := w.update(pod, kernel.Whole, func(o kernel.Object) { o.(*corev1.Pod).Spec.NodeName = "n1" })
	if err != nil {
		t.Fatal(err)
	}
	old := w.put(bound)
	o := del(old, nil)
	if Gone(o) || *o.GetDeletionGracePeriodSeconds() != 30 || o.GetGeneration() != 3 ||
		!o.GetDeletionTimestamp().Time.Equal(testNow.Truncate(time.Second).Add(30*time.Second)) {
		t.Fatalf("a bound pod: %+v", o.(*corev1.Pod).ObjectMeta)
	}
	old = w.put(o)
	if o := del(old, nil); o != nil {
		t.Errorf("a second delete changes %+v", o)
	}
	if o := del(old, ptr.To[int64](40)); o != nil {
		t.Errorf("a delete with more grace changes %+v", o)
	}
	o = del(old, ptr.To[int64](5))
	if *o.GetDeletionGracePeriodSeconds() != 5 || !o.GetDeletionTimestamp().Time.Equal(testNow.Truncate(time.Second).Add(5*time.Second)) || o.GetGeneration() != 3 {
		t.Errorf("a delete with less grace: %+v", o.(*corev1.Pod).ObjectMeta)
	}
	if o := del(old, ptr.To[int64](0)); !Gone(o) {
		t.Errorf("a delete without grace: %+v", o.(*corev1.Pod).ObjectMeta)
	}
}

func TestFinalizersAndPropagation(t *testing.T) {
	w := newWorld(t)
	in := testConfigMap("c")
	in.Finalizers = []string{"a/b"}
	old := w.create(in)
	o, err := w.finish(kernel.Write{Key: w.s.KeyOf(old), Verb: Delete, Old: old, Propagation: ptr.To(metav1.DeletePropagationForeground)})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a/b", "foregroundDeletion"}, o.GetFinalizers()); diff != "" || o.GetDeletionTimestamp() == nil {
		t.Errorf("finalizers (-want +got):\n%s", diff)
	}
	old = w.put(o)
	_, err = w.update(old, "", func(o kernel.Object) { o.SetFinalizers(append(o.GetFinalizers(), "c/d")) })
	if err == nil || !strings.Contains(err.Error(), "no new finalizers can be added if the object is being deleted") {
		t.Errorf("a new finalizer: %v", err)
	}
	o, err = w.update(old, "", func(o kernel.Object) { o.SetFinalizers(nil); o.SetDeletionTimestamp(nil) })
	if err != nil || !Gone(o) {
		t.Errorf("without finalizers: %v, %+v", err, o)
	}
	o, err = w.finish(kernel.Write{Key: w.s.KeyOf(old), Verb: Delete, Old: old, Propagation: ptr.To(metav1.DeletePropagationOrphan)})
	if err != nil || cmp.Diff([]string{"a/b", "orphan"}, o.GetFinalizers()) != "" {
		t.Errorf("orphan: %v, %v", err, o)
	}
}

func TestDeletePreconditions(t *testing.T) {
	w := newWorld(t)
	old := w.create(testConfigMap("c"))
	for _, p := range []metav1.Preconditions{{UID: ptr.To(types.UID("other"))}, {ResourceVersion: ptr.To("999")}} {
		_, err := w.finish(kernel.Write{Key: w.s.KeyOf(old), Verb: Delete, Old: old, Preconditions: &p})
		if !apierrors.IsConflict(err) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	p := metav1.Preconditions{UID: ptr.To(old.GetUID()), ResourceVersion: ptr.To(old.GetResourceVersion())}
	o, err := w.finish(kernel.Write{Key: w.s.KeyOf(old), Verb: Delete, Old: old, Preconditions: &p})
	if err != nil || !Gone(o) {
		t.Errorf("%v, %+v", err, o)
	}
	_, err = w.finish(kernel.Write{Key: ConfigMaps.Key("default", "none"), Verb: Delete})
	if !apierrors.IsNotFound(err) {
		t.Errorf("of nothing: %v", err)
	}
}

func TestNamespaceLife(t *testing.T) {
	w := newWorld(t)
	old := w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	write := func(old kernel.Object, sub string) (kernel.Object, error) {
		return w.finish(kernel.Write{Key: w.s.KeyOf(old), Verb: Delete, Old: old, Subresource: sub})
	}
	o, err := write(old, "")
	if err != nil || Gone(o) || o.(*corev1.Namespace).Status.Phase != corev1.NamespaceTerminating {
		t.Fatalf("first delete: %v, %+v", err, o)
	}
	old = w.put(o)
	if o, err := write(old, ""); o != nil || err != nil {
		t.Errorf("second delete: %v, %v", o, err)
	}
	if o, err := write(old, kernel.Whole); err != nil || !Gone(o) {
		t.Errorf("its controller's delete: %v, %+v", err, o)
	}
	for _, sub := range []string{"finalize", kernel.Whole} {
		o, err := w.update(old, sub, func(o kernel.Object) { o.(*corev1.Namespace).Spec.Finalizers = nil })
		if err != nil || !Gone(o) {
			t.Errorf("%q without finalizers: %v, %+v", sub, err, o)
		}
	}
	if o, err := w.update(old, "", func(o kernel.Object) { o.(*corev1.Namespace).Spec.Finalizers = nil }); err != nil || o != nil {
		t.Errorf("a plain update without spec.finalizers: %v, %+v", err, o)
	}
	def, _ := w.view.Get(Namespaces.Key("", "default"))
	if _, err := write(def, ""); !apierrors.IsForbidden(err) {
		t.Errorf("delete of default: %v", err)
	}
}

func TestWithoutVersion(t *testing.T) {
	for _, o := range []*corev1.Event{
		{ObjectMeta: metav1.ObjectMeta{Name: "e", ResourceVersion: "7"}, InvolvedObject: corev1.ObjectReference{ResourceVersion: "7"}},
		{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "7"}, InvolvedObject: corev1.ObjectReference{ResourceVersion: "7"}},
		{ObjectMeta: metav1.ObjectMeta{Name: `"resourceVersion":"7"`, ResourceVersion: "7"}},
		{InvolvedObject: corev1.ObjectReference{ResourceVersion: "7"}},
	} {
		with, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		bare := o.DeepCopy()
		bare.ResourceVersion = ""
		want, _ := json.Marshal(bare)
		if got := withoutVersion(with, o.ResourceVersion); string(got) != string(want) {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestFinishIsPure(t *testing.T) {
	w := newWorld(t)
	var first []byte
	for i := range 3 {
		o, err := w.finish(kernel.Write{Verb: Create, New: testPod("p"), Seen: 5, Manager: "m"})
		if err != nil {
			t.Fatal(err)
		}
		body, _ := w.s.Encode(o)
		if i > 0 && string(body) != string(first) {
			t.Errorf("finished again:\n%s\n%s", first, body)
		}
		first = body
	}
}
