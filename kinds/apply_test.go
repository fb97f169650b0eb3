package kinds

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/rutterhq/rutter/kernel"
)

const appliedDeployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: d, namespace: default, labels: {x: z}}
spec:
  replicas: 2
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}}
    spec:
      containers:
      - {name: c, image: i}
`

// applied finishes an apply as the apiserver does.
func (w *world) applied(live kernel.Object, patch, manager string, force bool) (kernel.Object, error) {
	w.t.Helper()
	o, err := Apply(Deployments, live, []byte(patch), manager, force, testNow)
	if err != nil {
		return nil, err
	}
	write := kernel.Write{Verb: Create, New: o, Apply: true, Manager: manager}
	if live != nil {
		write.Verb, write.Old = Update, live
	}
	return w.finish(write)
}

func TestApply(t *testing.T) {
	w := newWorld(t)
	o, err := w.applied(nil, appliedDeployment, "one", false)
	if err != nil {
		t.Fatal(err)
	}
	live := w.put(o)
	want := []metav1.ManagedFieldsEntry{{
		Manager: "one", Operation: "Apply", APIVersion: "apps/v1", FieldsType: "FieldsV1",
		Time: &metav1.Time{Time: testNow.Truncate(time.Second)},
		FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:labels":{"f:x":{}}},"f:spec":{"f:replicas":{},"f:selector":{},"f:template":{"f:metadata":{"f:labels":{"f:a":{}}},` +
			`"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{},"f:name":{}}}}}}}`),
	}}
	if diff := cmp.Diff(want, live.GetManagedFields()); diff != "" {
		t.Errorf("managedFields (-want +got):\n%s", diff)
	}
	if o, err := w.applied(live, appliedDeployment, "one", false); o != nil || err != nil {
		t.Errorf("the same apply again gives %v, %v", o, err)
	}
	other := strings.Replace(appliedDeployment, "replicas: 2", "replicas: 3", 1)
	_, err = w.applied(live, other, "two", false)
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `Apply failed with 1 conflict: conflict with "one": .spec.replicas`) {
		t.Fatalf("an apply by another manager: %v", err)
	}
	causes := err.(*kernel.Refusal).ErrStatus.Details.Causes
	if len(causes) != 1 || causes[0].Type != metav1.CauseTypeFieldManagerConflict || causes[0].Field != ".spec.replicas" {
		t.Errorf("causes %+v", causes)
	}
	o, err = w.applied(live, other, "two", true)
	if err != nil || *o.(*appsv1.Deployment).Spec.Replicas != 3 || len(o.GetManagedFields()) != 2 {
		t.Fatalf("a forced apply: %v, %+v", err, o)
	}
	live = w.put(o)
	bare := strings.Replace(appliedDeployment, ", labels: {x: z}", "", 1)
	o, err = w.applied(live, strings.Replace(bare, "  replicas: 2\n", "", 1), "one", false)
	if err != nil || o.GetLabels()["x"] != "z" || *o.(*appsv1.Deployment).Spec.Replicas != 3 {
		t.Errorf("what one gives up stays while two has it: %v, %+v", err, o)
	}
	live = w.put(o)
	o, err = w.applied(live, strings.Replace(bare, "replicas: 2", "replicas: 3", 1), "two", false)
	if err != nil || o.GetLabels()["x"] != "" {
		t.Errorf("a label that nobody has any more stays: %v, %+v", err, o)
	}
}

func TestApplyRefusals(t *testing.T) {
	for name, c := range map[string]struct{ patch, want string }{
		"unknown field": {strings.Replace(appliedDeployment, "replicas", "bogus", 1), `.spec.bogus: field not declared in schema`},
		"other kind":    {"apiVersion: v1\nkind: Pod\nmetadata: {name: d}\n", `invalid object type: /v1, Kind=Pod`},
		"broken":        {"a: [", `error decoding patch`},
		"empty":         {"", `invalid object type`},
	} {
		if _, err := Apply(Deployments, nil, []byte(c.patch), "m", false, testNow); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}

// The same apply, once in YAML and once in JSON.
func TestApplyReadsJSONAsYAML(t *testing.T) {
	asJSON, err := yaml.YAMLToJSON([]byte(appliedDeployment))
	if err != nil {
		t.Fatal(err)
	}
	var made []kernel.Object
	for _, patch := range []string{appliedDeployment, string(asJSON)} {
		o, err := newWorld(t).applied(nil, patch, "one", false)
		if err != nil {
			t.Fatal(err)
		}
		o.SetUID("")
		made = append(made, o)
	}
	if diff := cmp.Diff(made[0], made[1]); diff != "" {
		t.Errorf("(-YAML +JSON):\n%s", diff)
	}
	for _, twice := range []string{`{"data":{"a":"1","a":"2"}}`, "data: {a: '1', a: '2'}"} {
		if err := ApplyStrict([]byte(twice)); err == nil || !strings.Contains(err.Error(), `key "a" already set in map`) {
			t.Errorf("%s: %v", twice, err)
		}
	}
	for _, bad := range []string{`{"data"`, "- a", "[1]", `"a"`} {
		if err := ReadApplied([]byte(bad), &map[string]any{}); err == nil {
			t.Errorf("%s is read as an object", bad)
		}
	}
}
