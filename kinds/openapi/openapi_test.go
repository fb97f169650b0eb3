package openapi

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	openapi_v3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime/schema"
	protovalidation "k8s.io/kube-openapi/pkg/util/proto/validation"

	utilproto "k8s.io/kube-openapi/pkg/util/proto"

	"github.com/rutterhq/rutter/kinds"
)

type document struct {
	Paths      map[string]map[string]json.RawMessage
	Components struct {
		Schemas map[string]json.RawMessage
	}
}

// TestV3 looks at every document as kubectl does: each row's kind is found by
// its paths, and its patches say that they know fieldValidation.
func TestV3(t *testing.T) {
	var index struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	raw, err := Index()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		t.Fatal(err)
	}
	order, rows := groupVersions()
	if len(index.Paths) != len(order) {
		t.Errorf("the index has %d paths for %d group-versions", len(index.Paths), len(order))
	}
	for _, gv := range order {
		name := strings.TrimPrefix(prefix(gv), "/")
		if !strings.HasPrefix(index.Paths[name].ServerRelativeURL, "/openapi/v3/"+name+"?hash=") {
			t.Errorf("%s is indexed as %+v", name, index.Paths[name])
		}
		raw, err := V3(gv)
		if err != nil {
			t.Fatal(err)
		}
		again, _ := V3(gv)
		if !bytes.Equal(raw, again) {
			t.Errorf("%s differs from call to call", gv)
		}
		var doc document
		if err := json.Unmarshal(raw, &doc); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(raw), "#/definitions/") || strings.Contains(string(raw), "v2-schema") {
			t.Errorf("%s has v2 references", gv)
		}
		for _, r := range rows[gv] {
			checkPaths(t, doc, r)
		}
		pb, err := V3Proto(gv)
		if err != nil {
			t.Fatal(err)
		}
		if err := proto.Unmarshal(pb, &openapi_v3.Document{}); err != nil {
			t.Errorf("%s as protobuf: %v", gv, err)
		}
	}
}

func checkPaths(t *testing.T, doc document, r kinds.Row) {
	t.Helper()
	info := r.Describe()
	path := prefix(info.GVK().GroupVersion())
	if !info.Cluster {
		path += "/namespaces/{namespace}"
	}
	path += "/" + info.Resource.Plural + "/{name}"
	var op struct {
		Parameters []struct{ Name string }
		GVK        schema.GroupVersionKind `json:"x-kubernetes-group-version-kind"`
	}
	method := "patch"
	if !info.Serves("patch") {
		method = "get"
	}
	if err := json.Unmarshal(doc.Paths[path][method], &op); err != nil {
		t.Errorf("%s %s: %v", method, path, err)
		return
	}
	if op.GVK != info.GVK() {
		t.Errorf("%s %s is of %v", method, path, op.GVK)
	}
	if method == "patch" && !strings.Contains(string(doc.Paths[path][method]), `"fieldValidation"`) {
		t.Errorf("%s %s does not know fieldValidation", method, path)
	}
}

func TestV2(t *testing.T) {
	pb, err := V2Proto()
	if err != nil {
		t.Fatal(err)
	}
	var doc openapi_v2.Document
	if err := proto.Unmarshal(pb, &doc); err != nil {
		t.Fatal(err)
	}
	models, err := utilproto.NewOpenAPIData(&doc)
	if err != nil {
		t.Fatal(err)
	}
	pod := models.LookupModel("io.k8s.api.core.v1.Pod")
	if pod == nil {
		t.Fatal("there is no model of Pod")
	}
	good := map[string]any{"apiVersion": "v1", "kind": "Pod", "spec": map[string]any{"containers": []any{map[string]any{"name": "c",
		"ports": []any{map[string]any{"containerPort": int64(1)}}, "resources": map[string]any{"limits": map[string]any{"cpu": "1"}}}}}}
	if errs := protovalidation.ValidateModel(good, pod, "Pod"); len(errs) > 0 {
		t.Errorf("a good pod: %v", errs)
	}
	good["spec"].(map[string]any)["bogus"] = "x"
	if errs := protovalidation.ValidateModel(good, pod, "Pod"); len(errs) != 1 {
		t.Errorf("a pod with an unknown field: %v", errs)
	}
}

func TestV3OfNothing(t *testing.T) {
	if _, err := V3(schema.GroupVersion{Group: "none", Version: "v1"}); err == nil {
		t.Error("a document of nothing")
	}
}
