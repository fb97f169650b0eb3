package openapi

import (
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	openapi_v3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/openapiconv"
	"k8s.io/kube-openapi/pkg/schemamutation"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/kinds/openapi/models"
)

// Media types of the protobuf forms, which kubectl asks for.
const (
	ContentV2Proto = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
	ContentV3Proto = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf"
)

// form says which program's documents these are: raised when paths or documents
// change in a way that their data and rows do not show.
const form = "1"

// ErrNotServed: nothing is served in the group-version.
var ErrNotServed = errors.New("no such group-version is served")

// Index is /openapi/v3: where the document of each group-version is. The
// address has a hash of the document, so it may be cached for ever.
func Index() ([]byte, error) {
	type entry struct {
		URL string `json:"serverRelativeURL"`
	}
	order, _ := groupVersions()
	paths := map[string]entry{}
	for _, gv := range order {
		hash, err := Hash(gv)
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(prefix(gv), "/")
		paths[name] = entry{URL: "/openapi/v3/" + name + "?hash=" + hash}
	}
	out, err := json.Marshal(map[string]any{"paths": paths})
	if err != nil {
		return nil, fmt.Errorf("encode the index of OpenAPI v3: %w", err)
	}
	return out, nil
}

// Hash changes when the document of a group-version does. The zero
// GroupVersion stands for the v2 document.
func Hash(gv schema.GroupVersion) (string, error) {
	h := sha512.New()
	fmt.Fprintf(h, "%s\n%s\n", form, gv)
	order, rows := groupVersions()
	for _, each := range order {
		if gv != (schema.GroupVersion{}) && each != gv {
			continue
		}
		for _, r := range rows[each] {
			fmt.Fprintf(h, "%+v %v\n", *r.Describe(), r.HasScale())
		}
		z, err := models.Compressed(models.Package(each))
		if err != nil {
			return "", err
		}
		h.Write(z)
	}
	z, err := models.Compressed(models.Meta)
	if err != nil {
		return "", err
	}
	h.Write(z)
	return fmt.Sprintf("%X", h.Sum(nil)), nil
}

// V3 is the OpenAPI v3 document of one group-version as JSON. ErrNotServed if
// there is no row in it.
func V3(gv schema.GroupVersion) ([]byte, error) {
	_, rows := groupVersions()
	if len(rows[gv]) == 0 {
		return nil, fmt.Errorf("openapi of %s: %w", gv, ErrNotServed)
	}
	doc, err := swagger(rows[gv])
	if err != nil {
		return nil, err
	}
	for name, s := range doc.Definitions {
		delete(s.Extensions, common.ExtensionV2Schema)
		doc.Definitions[name] = s
	}
	out, err := json.Marshal(openapiconv.ConvertV2ToV3(doc))
	if err != nil {
		return nil, fmt.Errorf("encode the openapi of %s: %w", gv, err)
	}
	return out, nil
}

// V3Proto is V3 in protobuf (ContentV3Proto).
func V3Proto(gv schema.GroupVersion) ([]byte, error) {
	doc, err := V3(gv)
	if err != nil {
		return nil, err
	}
	parsed, err := openapi_v3.ParseDocument(doc)
	if err != nil {
		return nil, fmt.Errorf("parse the openapi of %s: %w", gv, err)
	}
	return marshalProto(parsed)
}

// V2 is the OpenAPI v2 document of everything as JSON.
func V2() ([]byte, error) {
	doc, err := swagger(kinds.All)
	if err != nil {
		return nil, err
	}
	for name, s := range doc.Definitions {
		doc.Definitions[name] = *asV2(&s)
	}
	out, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("encode the openapi v2: %w", err)
	}
	return out, nil
}

// V2Proto is V2 in protobuf (ContentV2Proto).
func V2Proto() ([]byte, error) {
	doc, err := V2()
	if err != nil {
		return nil, err
	}
	parsed, err := openapi_v2.ParseDocument(doc)
	if err != nil {
		return nil, fmt.Errorf("parse the openapi v2: %w", err)
	}
	return marshalProto(parsed)
}

func marshalProto(m proto.Message) ([]byte, error) {
	out, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode the openapi as protobuf: %w", err)
	}
	return out, nil
}

// asV2 gives the v2 form of a model: what v2 cannot say has a form of its own
// beside it, and defaults are left out, as Kubernetes does.
func asV2(s *spec.Schema) *spec.Schema {
	if v2, ok := s.Extensions[common.ExtensionV2Schema]; ok {
		out := &spec.Schema{}
		if raw, err := json.Marshal(v2); err == nil && json.Unmarshal(raw, out) == nil {
			return out
		}
	}
	w := schemamutation.Walker{
		SchemaCallback: func(s *spec.Schema) *spec.Schema {
			if s.Default == nil {
				return s
			}
			c := *s
			c.Default = nil
			return &c
		},
		RefCallback: schemamutation.RefCallbackNoop,
	}
	return w.WalkSchema(s)
}

// swagger puts the rows' paths and the models they need together.
func swagger(rows []kinds.Row) (*spec.Swagger, error) {
	paths := map[string]spec.PathItem{}
	need := []string{deleteOptionsModel, patchModel, statusModel}
	packages := map[string]bool{models.Meta: true}
	for _, r := range rows {
		w := newWriter(r)
		w.paths(paths)
		need = append(need, w.model, w.list)
		packages[models.Package(w.info.GVK().GroupVersion())] = true
		if r.HasScale() {
			need = append(need, scaleModel)
			packages[models.Package(schema.GroupVersion{Group: "autoscaling", Version: "v1"})] = true
		}
	}
	all, err := models.Closure(slices.Sorted(maps.Keys(packages))...)
	if err != nil {
		return nil, err
	}
	definitions := spec.Definitions{}
	for len(need) > 0 {
		name := need[len(need)-1]
		need = need[:len(need)-1]
		if _, have := definitions[name]; have {
			continue
		}
		s := all[name]
		if s == nil {
			return nil, fmt.Errorf("openapi: model %s was not generated", name)
		}
		definitions[name] = *s
		need = append(need, models.References(s)...)
	}
	return &spec.Swagger{SwaggerProps: spec.SwaggerProps{
		Swagger:     "2.0",
		Info:        &spec.Info{InfoProps: spec.InfoProps{Title: "Rutter", Version: "v1.37"}},
		Paths:       &spec.Paths{Paths: paths},
		Definitions: definitions,
	}}, nil
}
