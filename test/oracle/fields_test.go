package oracle

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/registry/apps/replicaset"
	"k8s.io/kubernetes/pkg/registry/core/event"
	"k8s.io/kubernetes/pkg/registry/core/namespace"
	"k8s.io/kubernetes/pkg/registry/core/node"
	"k8s.io/kubernetes/pkg/registry/core/pod"
	"k8s.io/kubernetes/pkg/registry/core/secret"
	"k8s.io/kubernetes/pkg/registry/core/service"

	"github.com/rutterhq/rutter/kernel"
)

// attributes are the kinds that can be selected by more than name and namespace.
var attributes = map[string]func(runtime.Object) (labels.Set, fields.Set, error){
	"namespaces": namespace.GetAttrs, "nodes": node.GetAttrs, "pods": pod.GetAttrs, "replicasets": replicaset.GetAttrs,
	"services": service.GetAttrs, "secrets": secret.GetAttrs, "events": event.GetAttrs,
}

// TestFields compares what field selectors may name, and the values.
func TestFields(t *testing.T) {
	for _, of := range targets {
		info := of.row.Describe()
		t.Run(info.Resource.Plural, func(t *testing.T) {
			bodies, err := corpus(of)
			if err != nil {
				t.Fatal(err)
			}
			for _, body := range bodies {
				want := fields.Set{}
				theirs := internal(info.GVK(), decode(info.GVK(), body))
				o := of.row.NewObject()
				if err := json.Unmarshal(body, o); err != nil {
					t.Fatal(err)
				}
				of.row.DefaultObject(o)
				if get, ok := attributes[info.Resource.Plural]; ok {
					if _, want, err = get(theirs); err != nil {
						t.Fatal(err)
					}
				} else {
					want["metadata.name"] = o.GetName()
					if !info.Cluster {
						want["metadata.namespace"] = o.(kernel.Object).GetNamespace()
					}
				}
				if d := cmp.Diff(want, of.row.FieldsOf(o)); d != "" {
					t.Errorf("%s (-kubernetes +ours):\n%s", o.GetName(), d)
				}
			}
		})
	}
}
