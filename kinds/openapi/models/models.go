// Package models holds the OpenAPI schemas of Kubernetes' API types.
//
//	make generate ─► data/io.k8s.api.apps.v1.json.gz, ... ─► embedded ─► Closure(gv)
//
// The files are made by internal/openapigen from k8s.io/api and
// k8s.io/apimachinery, one per Go package, and are parsed when they are asked
// for and not kept: who needs schemas for long keeps what it makes of them. The
// schemas are in the form of OpenAPI v3 but refer to one another as v2 does
// (#/definitions/NAME). Nothing here knows what Rutter serves.
package models

import (
	"bytes"
	"compress/gzip"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/schemamutation"
	"k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

//go:generate sh -c "cd ../../../internal/openapigen && go run . ../../kinds/openapi/models/data"

//go:embed data/*.json.gz
var data embed.FS

// RefPrefix begins a reference from one schema to another.
const RefPrefix = "#/definitions/"

// Meta is the package of ObjectMeta, Status and their like.
const Meta = "io.k8s.apimachinery.pkg.apis.meta.v1"

// Package names the Go package of a group-version as models are named:
// "io.k8s.api.networking.v1" for networking.k8s.io/v1.
func Package(gv schema.GroupVersion) string {
	group, domain, _ := strings.Cut(gv.Group, ".")
	switch {
	case group == "":
		group = "core"
	case domain == "dev":
		return domain + "." + group + "." + gv.Version // rutter.dev, our own
	}
	return "io.k8s.api." + group + "." + gv.Version
}

// NameOf names the model of a Go type: "io.k8s.api.core.v1.Pod".
func NameOf(o any) string {
	if named, ok := o.(interface{ OpenAPIModelName() string }); ok {
		return named.OpenAPIModelName()
	}
	t := reflect.TypeOf(o)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return util.ToRESTFriendlyName(t.PkgPath() + "." + t.Name())
}

// Closure returns the schemas of the packages and all that they refer to, the
// caller's own.
func Closure(packages ...string) (map[string]*spec.Schema, error) {
	loaded := map[string]map[string]*spec.Schema{}
	out := map[string]*spec.Schema{}
	var add func(name string) error
	add = func(name string) error {
		if out[name] != nil {
			return nil
		}
		p := name[:strings.LastIndex(name, ".")]
		if err := load(loaded, p); err != nil {
			return err
		}
		s := loaded[p][name]
		if s == nil {
			return fmt.Errorf("model %s is referred to but not generated", name)
		}
		out[name] = s
		for _, ref := range References(s) {
			if err := add(ref); err != nil {
				return err
			}
		}
		return nil
	}
	for _, p := range packages {
		if err := load(loaded, p); err != nil {
			return nil, err
		}
		for _, name := range slices.Sorted(maps.Keys(loaded[p])) {
			if err := add(name); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// References names the models that a schema refers to.
func References(s *spec.Schema) []string {
	var names []string
	w := schemamutation.Walker{
		SchemaCallback: schemamutation.SchemaCallBackNoop,
		RefCallback: func(ref *spec.Ref) *spec.Ref {
			if name, ok := strings.CutPrefix(ref.String(), RefPrefix); ok {
				names = append(names, name)
			}
			return ref
		},
	}
	w.WalkSchema(s)
	return names
}

func load(into map[string]map[string]*spec.Schema, p string) error {
	if into[p] != nil {
		return nil
	}
	raw, err := read(p)
	if err != nil {
		return err
	}
	schemas := map[string]*spec.Schema{}
	if err := json.Unmarshal(raw, &schemas); err != nil {
		return fmt.Errorf("parse the schemas of %s: %w", p, err)
	}
	into[p] = schemas
	return nil
}

func read(p string) ([]byte, error) {
	z, err := Compressed(p)
	if err != nil {
		return nil, err
	}
	r, err := gzip.NewReader(bytes.NewReader(z))
	if err != nil {
		return nil, fmt.Errorf("unpack the schemas of %s: %w", p, err)
	}
	raw, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("unpack the schemas of %s: %w", p, err)
	}
	return raw, nil
}

// Compressed gives the file of a package as it is embedded, which tells
// versions of it apart.
func Compressed(p string) ([]byte, error) {
	z, err := data.ReadFile("data/" + p + ".json.gz")
	if err != nil {
		return nil, fmt.Errorf("no schemas were generated for %s: %w", p, err)
	}
	return z, nil
}

// converters are the type converters made so far; the map is replaced, never
// changed. Two callers may make the same one at once: both are good.
var converters atomic.Pointer[map[schema.GroupVersion]managedfields.TypeConverter]

// Converter gives what structured-merge-diff must know of the types of a
// group-version. It is made at the first call and kept (about 1 MB each).
func Converter(gv schema.GroupVersion) (managedfields.TypeConverter, error) {
	have := converters.Load()
	if have != nil && (*have)[gv] != nil {
		return (*have)[gv], nil
	}
	schemas, err := Closure(Package(gv))
	if err != nil {
		return nil, err
	}
	c, err := managedfields.NewTypeConverter(schemas, false)
	if err != nil {
		return nil, fmt.Errorf("build the type converter of %s: %w", gv, err)
	}
	for {
		next := map[schema.GroupVersion]managedfields.TypeConverter{gv: c}
		if have != nil {
			maps.Copy(next, *have)
		}
		if converters.CompareAndSwap(have, &next) {
			return next[gv], nil
		}
		have = converters.Load()
	}
}
