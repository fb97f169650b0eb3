package kinds

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/kernel"
)

func TestDecodeStrict(t *testing.T) {
	for _, c := range []struct {
		name, content, body string
		strict              []string
		err                 string
	}{
		{name: "json", content: ContentJSON, body: `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p"},"spec":{"containers":[{"name":"c"}]}}`},
		{name: "no type", content: "application/json; charset=utf-8", body: `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c"}]}}`},
		{name: "yaml", content: ContentYAML, body: "kind: Pod\napiVersion: v1\nmetadata: {name: p}\nspec:\n  containers:\n  - name: c\n"},
		{name: "unknown", content: ContentJSON, body: `{"metadata":{"name":"p"},"spec":{"bogus":1,"containers":[{"name":"c","x":{}}]}}`,
			strict: []string{`unknown field "spec.bogus"`, `unknown field "spec.containers[0].x"`}},
		{name: "other case", content: ContentJSON, body: `{"metadata":{"name":"p"},"spec":{"NodeName":"n","containers":[{"name":"c"}]}}`,
			strict: []string{`unknown field "spec.NodeName"`}},
		{name: "duplicate", content: ContentJSON, body: `{"metadata":{"name":"q","name":"p"},"spec":{"containers":[{"name":"c"}]}}`,
			strict: []string{`duplicate field "metadata.name"`}},
		{name: "yaml duplicate", content: ContentYAML, body: "metadata:\n  name: q\n  name: p\nspec:\n  containers:\n  - name: c\n  bogus: 1\n",
			strict: []string{`line 3: key "name" already set in map`, `unknown field "spec.bogus"`}},
		{name: "wrong type", content: ContentJSON, body: `{"kind":"Pod","apiVersion":"v1","spec":{"containers":{}}}`,
			err: `Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container`},
		{name: "wrong quantity", content: ContentJSON, body: `{"kind":"Pod","apiVersion":"v1","spec":{"overhead":{"cpu":"x"}}}`,
			err: `Pod in version "v1" cannot be handled as a Pod: quantities must match the regular expression`},
		{name: "other kind", content: ContentJSON, body: `{"kind":"Service","apiVersion":"v1"}`, err: `Service in version "v1" cannot be handled as a Pod: `},
		{name: "other version", content: ContentJSON, body: `{"kind":"Pod","apiVersion":"apps/v1"}`,
			err: `the API version in the data (apps/v1) does not match the expected API version (v1)`},
		{name: "broken", content: ContentJSON, body: `{"kind":`, err: `cannot be handled as a Pod: unexpected end of JSON input`},
		{name: "not protobuf", content: ContentProtobuf, body: `{}`, err: `provided data does not appear to be a protobuf message`},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, strict, err := DecodeStrict(Pods, []byte(c.body), c.content)
			if c.err != "" {
				if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v\nwant %s", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := &corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: "p"},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
			if diff := cmp.Diff(want, o); diff != "" {
				t.Errorf("decoded (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.strict, StrictWarnings(strict)); diff != "" {
				t.Errorf("strict errors (-want +got):\n%s", diff)
			}
		})
	}
	if _, _, err := DecodeStrict(Pods, nil, "text/plain"); !errors.Is(err, ErrContentType) {
		t.Errorf("plain text: %v", err)
	}
}

func TestProtobufRoundTrip(t *testing.T) {
	pod := testPod("p")
	SetTypeMeta(pod)
	body, err := EncodeProto(pod)
	if err != nil {
		t.Fatal(err)
	}
	o, strict, err := DecodeStrict(Pods, body, ContentProtobuf)
	if err != nil || strict != nil {
		t.Fatal(err, strict)
	}
	if diff := cmp.Diff(pod, o); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	options := &metav1.DeleteOptions{TypeMeta: metav1.TypeMeta{Kind: "DeleteOptions", APIVersion: "v1"}, DryRun: []string{"All"}}
	body, err = EncodeProto(options)
	if err != nil {
		t.Fatal(err)
	}
	got := &metav1.DeleteOptions{}
	if gvk, _, err := DecodeInto(body, ContentProtobuf, got); err != nil || gvk.Kind != "DeleteOptions" || got.DryRun[0] != "All" {
		t.Errorf("%v, %v, %+v", gvk, err, got)
	}
}

func testDeployment() *appsv1.Deployment {
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "default", ResourceVersion: "7"},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}, {Name: "d", Image: "j"}}},
			},
		},
	}
	SetTypeMeta(d)
	return d
}

// TestPatchBomb: a patch of a few hundred bytes cannot make gigabytes.
func TestPatchBomb(t *testing.T) {
	bomb := `[{"op":"add","path":"/metadata/annotations","value":{"a":"0123456789"}}`
	for range 40 {
		bomb += `,{"op":"copy","from":"/metadata/annotations","path":"/metadata/annotations/b"}`
	}
	if _, _, r := PatchJSON(Deployments, testDeployment(), []byte(bomb+"]"), metav1.FieldValidationIgnore); r == nil {
		t.Error("the bomb was applied")
	}
}

func TestPatches(t *testing.T) {
	type patcher func(Row, kernel.Object, []byte, string) (kernel.Object, []string, *kernel.Refusal)
	images := func(d *appsv1.Deployment) string {
		var out []string
		for _, c := range d.Spec.Template.Spec.Containers {
			out = append(out, c.Name+"="+c.Image)
		}
		return strings.Join(out, ",")
	}
	for _, c := range []struct {
		name      string
		patch     patcher
		body      string
		directive string
		images    string
		warnings  []string
		err       string
	}{
		{name: "json", patch: PatchJSON, body: `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"k"}]`, images: "c=k,d=j"},
		{name: "json test fails", patch: PatchJSON, body: `[{"op":"test","path":"/metadata/name","value":"k"}]`, err: "the server rejected our request due to an error in our request"},
		{name: "json extra", patch: PatchJSON, body: `[{"op":"remove","path":"/spec/template/spec/containers/1","x":1}]`, images: "c=i", warnings: []string{`json patch unknown field "[0].x"`}},
		{name: "merge", patch: PatchMerge, body: `{"spec":{"template":{"spec":{"containers":[{"name":"z","image":"y"}]}}}}`, images: "z=y"},
		{name: "merge unknown", patch: PatchMerge, body: `{"spec":{"bogus":1}}`, images: "c=i,d=j", warnings: []string{`unknown field "spec.bogus"`}},
		{name: "merge unknown ignored", patch: PatchMerge, directive: "Ignore", body: `{"spec":{"bogus":1}}`, images: "c=i,d=j"},
		{name: "merge unknown strict", patch: PatchMerge, directive: "Strict", body: `{"spec":{"bogus":1}}`, err: `strict decoding error: unknown field "spec.bogus"`},
		{name: "merge wrong type", patch: PatchMerge, body: `{"spec":{"replicas":"x"}}`, err: "cannot unmarshal string"},
		{name: "strategic", patch: PatchStrategic, body: `{"spec":{"template":{"spec":{"containers":[{"name":"d","image":"k"}]}}}}`, images: "c=i,d=k"},
		{name: "strategic delete", patch: PatchStrategic, body: `{"spec":{"template":{"spec":{"containers":[{"name":"c","$patch":"delete"}]}}}}`, images: "d=j"},
		{name: "strategic unknown", patch: PatchStrategic, body: `{"spec":{"bogus":1},"spec2":1}`, images: "c=i,d=j", warnings: []string{`unknown field "spec.bogus"`, `unknown field "spec2"`}},
		{name: "strategic duplicate strict", patch: PatchStrategic, directive: "Strict", body: `{"metadata":{"name":"d","name":"d"}}`, err: `duplicate field "metadata.name"`},
		{name: "strategic wrong type", patch: PatchStrategic, body: `{"spec":{"replicas":"x"}}`, err: "patch: Invalid value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.directive == "" {
				c.directive = metav1.FieldValidationWarn
			}
			live := testDeployment()
			o, warnings, r := c.patch(Deployments, live, []byte(c.body), c.directive)
			if diff := cmp.Diff(testDeployment(), live); diff != "" {
				t.Errorf("the live object changed:\n%s", diff)
			}
			if c.err != "" {
				if r == nil || !strings.Contains(r.Error(), c.err) {
					t.Errorf("got %v\nwant %s", r, c.err)
				}
				return
			}
			if r != nil {
				t.Fatal(r)
			}
			if diff := cmp.Diff(c.warnings, warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			if got := images(o.(*appsv1.Deployment)); got != c.images || o.GetResourceVersion() != "7" {
				t.Errorf("patched to %s at %s, want %s", got, o.GetResourceVersion(), c.images)
			}
		})
	}
}

// Patches that leave managedFields alone keep them; others may change them.
func TestPatchStrategicManagedFields(t *testing.T) {
	live := testConfigMap("c")
	live.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m", Operation: "Update", APIVersion: "v1", FieldsType: "FieldsV1",
		FieldsV1: metav1.NewFieldsV1(`{"f:data":{".":{},"f:a":{}}}`)}}
	before := live.DeepCopy()
	for _, c := range []struct {
		patch string
		keeps bool
	}{
		{`{"data":{"a":"2"}}`, true},
		{`{"metadata":{"labels":{"x":"y"}}}`, true},
		{`{"metadata":{"managedFields":[]}}`, false},
		{`{"metadata":{"managedFields":null}}`, false},
		{`{"metadata":{"$patch":"replace","name":"c"}}`, false},
		{`{"metadata":null,"data":{"a":"2"}}`, false},
		{`{"$patch":"replace","data":{"a":"2"}}`, false},
	} {
		o, _, r := PatchStrategic(ConfigMaps, live, []byte(c.patch), metav1.FieldValidationStrict)
		if r != nil {
			t.Fatal(c.patch, r)
		}
		if keeps := cmp.Equal(o.GetManagedFields(), before.ManagedFields); keeps != c.keeps {
			t.Errorf("%s: managedFields are %v", c.patch, o.GetManagedFields())
		}
		if diff := cmp.Diff(before, live); diff != "" {
			t.Errorf("%s changed the live object (-before +after):\n%s", c.patch, diff)
		}
	}
}

func BenchmarkPatchStrategic(b *testing.B) {
	p := fullPod()
	walked(Pods, "", p, nil, "m", testNow)
	for b.Loop() {
		if _, _, r := PatchStrategic(Pods, p, []byte(`{"metadata":{"labels":{"x":"y"}}}`), metav1.FieldValidationStrict); r != nil {
			b.Fatal(r)
		}
	}
}
