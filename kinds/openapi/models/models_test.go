package models

import (
	"os"
	"regexp"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// TestGeneratorVersions holds the generator's module to the versions of the
// API types that the program is built with.
func TestGeneratorVersions(t *testing.T) {
	version := regexp.MustCompile(`(?m)^\s*(k8s\.io/(?:api|apimachinery|kube-openapi)) (\S+)`)
	versions := func(path string) map[string]string {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]string{}
		for _, m := range version.FindAllStringSubmatch(string(raw), -1) {
			found[m[1]] = m[2]
		}
		return found
	}
	ours, its := versions("../../../go.mod"), versions("../../../internal/openapigen/go.mod")
	if len(its) != 3 {
		t.Fatalf("the generator's go.mod names %v", its)
	}
	for module, v := range its {
		if ours[module] != v {
			t.Errorf("%s: %s here, %s in internal/openapigen: raise it there and run make generate", module, ours[module], v)
		}
	}
}

func TestClosureIsClosed(t *testing.T) {
	files, err := data.ReadDir("data")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		p := f.Name()[:len(f.Name())-len(".json.gz")]
		schemas, err := Closure(p)
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		for name, s := range schemas {
			for _, ref := range References(s) {
				if schemas[ref] == nil {
					t.Errorf("%s refers to %s", name, ref)
				}
			}
		}
	}
}

func TestConverterIsKept(t *testing.T) {
	gv := schema.GroupVersion{Version: "v1"}
	a, err := Converter(gv)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := Converter(gv); a != b {
		t.Error("the converter was made twice")
	}
	if name := NameOf(&corev1.Pod{}); name != "io.k8s.api.core.v1.Pod" {
		t.Errorf("Pod is named %s", name)
	}
	if _, err := Converter(schema.GroupVersion{Group: "none", Version: "v1"}); err == nil {
		t.Error("a converter of nothing")
	}
}
