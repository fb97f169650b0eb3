package oracle

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"

	"github.com/rutterhq/rutter/test/oraclecase"
)

// upstream says what Kubernetes makes of a Case: defaulting by its scheme,
// preparation and validation by the strategy of the kind's registry, declared
// rules included.
func upstream(t target, c oraclecase.Case) *oraclecase.Outcome {
	gvk := t.row.Describe().GVK()
	o := internal(gvk, decode(gvk, c.New))
	out := &oraclecase.Outcome{Defaulted: oraclecase.Plain(versioned(gvk, o))}
	ctx := requestContext(t, o, c.Op)
	switch c.Op {
	case oraclecase.Create:
		early(o, nil)
		t.main.PrepareForCreate(ctx, o)
		out.Errors = oraclecase.Errors(rest.ValidateCreate(ctx, o, t.main))
	case oraclecase.Update:
		old := internal(gvk, decode(gvk, c.Old))
		early(o, old)
		t.main.PrepareForUpdate(ctx, o, old)
		out.Errors = oraclecase.Errors(rest.ValidateUpdate(ctx, o, old, t.main))
	case oraclecase.Status:
		old := internal(gvk, decode(gvk, c.Old))
		t.status.PrepareForUpdate(ctx, o, old)
		out.Errors = oraclecase.Errors(rest.ValidateUpdate(ctx, o, old, t.status))
	}
	out.Prepared = oraclecase.Plain(versioned(gvk, o))
	return out
}

// requestContext is what a handler would have put into the context: validation
// asks it for the version and the subresource.
func requestContext(t target, o runtime.Object, op oraclecase.Op) context.Context {
	info := t.row.Describe()
	r := &genericapirequest.RequestInfo{
		IsResourceRequest: true, APIGroup: info.Resource.Group, APIVersion: info.Version, Resource: info.Resource.Plural,
	}
	if op == oraclecase.Status {
		r.Subresource = "status"
	}
	m, err := meta.Accessor(o)
	if err != nil {
		panic(fmt.Sprintf("%T has no metadata: %v", o, err))
	}
	ctx := genericapirequest.WithNamespace(context.Background(), m.GetNamespace())
	return genericapirequest.WithRequestInfo(ctx, r)
}

// decode reads and defaults an object in its own version.
func decode(gvk schema.GroupVersionKind, body []byte) runtime.Object {
	o, err := legacyscheme.Scheme.New(gvk)
	if err != nil {
		panic(fmt.Sprintf("kubernetes does not know %s: %v", gvk, err))
	}
	if err := json.Unmarshal(body, o); err != nil {
		panic(fmt.Sprintf("a case of %s does not decode: %v", gvk.Kind, err))
	}
	legacyscheme.Scheme.Default(o)
	return o
}

func internal(gvk schema.GroupVersionKind, o runtime.Object) runtime.Object {
	return convert(o, schema.GroupVersion{Group: gvk.Group, Version: runtime.APIVersionInternal})
}

func versioned(gvk schema.GroupVersionKind, o runtime.Object) runtime.Object {
	return convert(o.DeepCopyObject(), gvk.GroupVersion())
}

func convert(o runtime.Object, to schema.GroupVersion) runtime.Object {
	out, err := legacyscheme.Scheme.ConvertToVersion(o, to)
	if err != nil {
		panic(fmt.Sprintf("convert %T to %s: %v", o, to, err))
	}
	return out
}

// early does for services what Kubernetes' storage does before the strategy,
// in functions that it does not export: the singular and the plural address
// are brought in step, and what was allocated and left out is given back.
func early(o, old runtime.Object) {
	now, ok := o.(*core.Service)
	if !ok {
		return
	}
	if old == nil {
		if len(now.Spec.ClusterIPs) == 0 && now.Spec.ClusterIP != "" {
			now.Spec.ClusterIPs = append(now.Spec.ClusterIPs, now.Spec.ClusterIP)
		}
		return
	}
	was := old.(*core.Service)
	if now.Spec.Type != core.ServiceTypeExternalName && was.Spec.Type != core.ServiceTypeExternalName {
		if now.Spec.ClusterIP == "" {
			now.Spec.ClusterIP = was.Spec.ClusterIP
		}
		if len(now.Spec.ClusterIPs) == 0 && len(was.Spec.ClusterIPs) > 0 {
			now.Spec.ClusterIPs = was.Spec.ClusterIPs
		}
	}
	allocatedPorts(now, was)
	addressChanged := now.Spec.ClusterIP != was.Spec.ClusterIP
	if len(was.Spec.ClusterIPs) > 0 && len(now.Spec.ClusterIPs) == 0 && !addressChanged {
		now.Spec.ClusterIPs = was.Spec.ClusterIPs
	}
	if !addressChanged || !slices.Equal(now.Spec.ClusterIPs, was.Spec.ClusterIPs) {
		return
	}
	now.Spec.ClusterIPs = nil
	if was.Spec.ClusterIP == "" || now.Spec.ClusterIP != "" {
		now.Spec.ClusterIPs = []string{now.Spec.ClusterIP}
	}
}

// allocatedPorts gives node ports back by the names of their ports.
func allocatedPorts(now, was *core.Service) {
	onNodes := func(s *core.Service) bool {
		return s.Spec.Type == core.ServiceTypeNodePort || s.Spec.Type == core.ServiceTypeLoadBalancer
	}
	if onNodes(now) && onNodes(was) {
		byName := map[string]int32{}
		inBoth := map[int32]bool{}
		for _, p := range was.Spec.Ports {
			byName[p.Name] = p.NodePort
			inBoth[p.NodePort] = p.NodePort != 0 && slices.ContainsFunc(now.Spec.Ports, func(n core.ServicePort) bool { return n.NodePort == p.NodePort })
		}
		for i := range now.Spec.Ports {
			if p := &now.Spec.Ports[i]; p.NodePort == 0 && !inBoth[byName[p.Name]] {
				p.NodePort = byName[p.Name]
			}
		}
	}
	checked := func(s *core.Service) bool {
		return s.Spec.Type == core.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == core.ServiceExternalTrafficPolicyLocal
	}
	if checked(now) && checked(was) && now.Spec.HealthCheckNodePort == 0 {
		now.Spec.HealthCheckNodePort = was.Spec.HealthCheckNodePort
	}
}

// stored turns an object that Kubernetes accepted for a create into one that
// an update finds: the same, with a version and a uid.
func stored(t target, c oraclecase.Case) json.RawMessage {
	gvk := t.row.Describe().GVK()
	o := internal(gvk, decode(gvk, c.New))
	early(o, nil)
	t.main.PrepareForCreate(requestContext(t, o, c.Op), o)
	v := versioned(gvk, o)
	m, err := meta.Accessor(v)
	if err != nil {
		panic(fmt.Sprintf("%T has no metadata: %v", v, err))
	}
	m.SetResourceVersion("7")
	m.SetUID("00000000-0000-4000-8000-000000000007")
	m.SetCreationTimestamp(metav1.Unix(1_790_000_000, 0))
	return encode(v)
}

func encode(o any) json.RawMessage {
	b, err := json.Marshal(o)
	if err != nil {
		panic(fmt.Sprintf("%T does not encode: %v", o, err))
	}
	return b
}
