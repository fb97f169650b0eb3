package kinds

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// FuzzBodies gives arbitrary bytes to everything that reads a client's body:
// they are refused or taken, and nothing panics or changes the live object.
func FuzzBodies(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "[]", "null", appliedDeployment,
		`[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"k"}]`,
		`[{"op":"move","from":"/metadata/name","path":"/spec/replicas"}]`,
		`[{"op":"add","path":"/metadata","value":null}]`,
		`{"spec":{"template":{"spec":{"containers":[{"name":"d","image":"k","$patch":"replace"}]}}}}`,
		`{"spec":{"$retainKeys":["x"],"strategy":{"$retainKeys":["type"],"type":"Recreate"}}}`,
		`{"spec":{"template":{"spec":{"$setElementOrder/containers":[{"name":"d"},{"name":"c"}]}}}}`,
		`{"metadata":null,"spec":{"replicas":"x"}}`, `{"spec":{"selector":[]}}`,
		"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {template: {spec: {containers: [{image: i}]}}}\n",
		"apiVersion: apps/v1\nkind: Deployment\nmetadata: []\n",
		"k8s\x00\x0a\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		live := testDeployment()
		walked(Deployments, "", live, nil, "one", testNow)
		before, err := EncodeJSON(live)
		if err != nil {
			t.Fatal(err)
		}
		for _, content := range []string{ContentJSON, ContentYAML, ContentProtobuf} {
			if o, _, err := DecodeStrict(Deployments, body, content); err == nil {
				if _, err := EncodeJSON(o); err != nil {
					t.Errorf("decoded from %s, but does not encode: %v", content, err)
				}
			}
		}
		for _, directive := range []string{metav1.FieldValidationStrict, metav1.FieldValidationIgnore} {
			_, _, _ = PatchJSON(Deployments, live, body, directive)
			_, _, _ = PatchMerge(Deployments, live, body, directive)
			_, _, _ = PatchStrategic(Deployments, live, body, directive)
		}
		_, _ = Apply(Deployments, live, body, "m", true, testNow)
		_, _ = Apply(Deployments, nil, body, "m", false, testNow)
		RedactBody(Secrets.Key("default", "s"), body)
		_, _ = keyed().Decode(Secrets.Key("default", "s"), body)
		if after, _ := EncodeJSON(live); string(after) != string(before) {
			t.Errorf("the live object changed:\n%s\n%s", before, after)
		}
	})
}
