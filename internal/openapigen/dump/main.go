// Dump writes the definitions that openapigen generated.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/rutterhq/rutter/internal/openapigen/generated"
	"github.com/rutterhq/rutter/kinds/rutterv1"
)

// gvkExtension says which kinds a schema is of.
const gvkExtension = "x-kubernetes-group-version-kind"

func main() {
	log.SetFlags(0)
	log.SetPrefix("dump: ")
	if err := run(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(folder string) error {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		admissionregistrationv1.AddToScheme, appsv1.AddToScheme, authenticationv1.AddToScheme, authorizationv1.AddToScheme,
		autoscalingv1.AddToScheme, autoscalingv2.AddToScheme, batchv1.AddToScheme, certificatesv1.AddToScheme,
		coordinationv1.AddToScheme, corev1.AddToScheme, discoveryv1.AddToScheme, eventsv1.AddToScheme,
		flowcontrolv1.AddToScheme, networkingv1.AddToScheme, nodev1.AddToScheme, policyv1.AddToScheme, rbacv1.AddToScheme,
		resourcev1.AddToScheme, schedulingv1.AddToScheme, storagev1.AddToScheme, rutterv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return fmt.Errorf("build the scheme: %w", err)
		}
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	kinds := kindsByModel(scheme)

	files := map[string]map[string]*spec.Schema{}
	ref := func(path string) spec.Ref {
		return spec.MustCreateRef("#/definitions/" + common.EscapeJsonPointer(modelName(path)))
	}
	for path, def := range generated.GetOpenAPIDefinitions(ref) {
		name, s := modelName(path), def.Schema
		if gvks := kinds[name]; len(gvks) > 0 {
			s.AddExtension(gvkExtension, gvks)
		}
		file := name[:strings.LastIndex(name, ".")]
		if files[file] == nil {
			files[file] = map[string]*spec.Schema{}
		}
		files[file][name] = &s
	}
	for file, schemas := range files {
		if err := write(filepath.Join(folder, file+".json.gz"), schemas); err != nil {
			return err
		}
	}
	return nil
}

// modelName gives "io.k8s.api.core.v1.Pod" for "k8s.io/api/core/v1.Pod".
func modelName(path string) string {
	if strings.Contains(path, "/") {
		return util.ToRESTFriendlyName(path)
	}
	return path
}

// kindsByModel lists for each model the kinds that objects of it have.
func kindsByModel(scheme *runtime.Scheme) map[string][]any {
	found := map[string][]schema.GroupVersionKind{}
	for gvk, t := range scheme.AllKnownTypes() {
		if gvk.Version == runtime.APIVersionInternal {
			continue
		}
		o, ok := reflect.New(t).Interface().(interface{ OpenAPIModelName() string })
		if !ok {
			continue
		}
		found[o.OpenAPIModelName()] = append(found[o.OpenAPIModelName()], gvk)
	}
	out := map[string][]any{}
	for name, gvks := range found {
		slices.SortFunc(gvks, func(a, b schema.GroupVersionKind) int { return strings.Compare(a.String(), b.String()) })
		for _, gvk := range gvks {
			out[name] = append(out[name], map[string]any{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind})
		}
	}
	return out
}

// write compresses the schemas into a file that depends on nothing else.
func write(path string, schemas map[string]*spec.Schema) error {
	raw, err := json.Marshal(schemas)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return fmt.Errorf("compress %s: %w", path, err)
	}
	if _, err := z.Write(raw); err != nil {
		return fmt.Errorf("compress %s: %w", path, err)
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("compress %s: %w", path, err)
	}
	if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write the schemas: %w", err)
	}
	return nil
}
