package oracle

import (
	"k8s.io/apiserver/pkg/registry/rest"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/coordination/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/discovery/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	_ "k8s.io/kubernetes/pkg/apis/scheduling/install"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/apps/replicaset"
	"k8s.io/kubernetes/pkg/registry/coordination/lease"
	"k8s.io/kubernetes/pkg/registry/core/configmap"
	"k8s.io/kubernetes/pkg/registry/core/endpoint"
	"k8s.io/kubernetes/pkg/registry/core/event"
	"k8s.io/kubernetes/pkg/registry/core/namespace"
	"k8s.io/kubernetes/pkg/registry/core/node"
	"k8s.io/kubernetes/pkg/registry/core/pod"
	"k8s.io/kubernetes/pkg/registry/core/secret"
	"k8s.io/kubernetes/pkg/registry/core/service"
	"k8s.io/kubernetes/pkg/registry/core/serviceaccount"
	"k8s.io/kubernetes/pkg/registry/discovery/endpointslice"
	"k8s.io/kubernetes/pkg/registry/networking/ingress"
	"k8s.io/kubernetes/pkg/registry/networking/ingressclass"
	"k8s.io/kubernetes/pkg/registry/networking/ipaddress"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrole"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding"
	"k8s.io/kubernetes/pkg/registry/rbac/role"
	"k8s.io/kubernetes/pkg/registry/rbac/rolebinding"
	"k8s.io/kubernetes/pkg/registry/scheduling/priorityclass"

	"github.com/rutterhq/rutter/kinds"
)

// strategy is Kubernetes' rules for creates and updates of a kind.
type strategy interface {
	rest.RESTCreateStrategy
	rest.RESTUpdateStrategy
}

// target is one kind on both sides.
type target struct {
	row    kinds.Row
	main   strategy
	status rest.RESTUpdateStrategy // nil: there is no status subresource
}

// targets are the kinds compared.
var targets = []target{
	{kinds.Namespaces, namespace.Strategy, namespace.StatusStrategy},
	{kinds.Nodes, node.Strategy, node.StatusStrategy},
	{kinds.Pods, pod.Strategy, pod.StatusStrategy},
	{kinds.ReplicaSets, replicaset.Strategy, replicaset.StatusStrategy},
	{kinds.Deployments, deployment.Strategy, deployment.StatusStrategy},
	{kinds.Services, service.Strategy, service.StatusStrategy},
	{kinds.Endpoints, endpoint.Strategy, nil},
	{kinds.EndpointSlices, endpointslice.Strategy, nil},
	{kinds.ConfigMaps, configmap.Strategy, nil},
	{kinds.Secrets, secret.Strategy, nil},
	{kinds.ServiceAccounts, serviceaccount.Strategy, nil},
	{kinds.Ingresses, ingress.Strategy, ingress.StatusStrategy},
	{kinds.IngressClasses, ingressclass.Strategy, nil},
	{kinds.IPAddresses, ipaddress.Strategy, nil},
	{kinds.Events, event.Strategy, nil},
	{kinds.Leases, lease.Strategy, nil},
	{kinds.PriorityClasses, priorityclass.Strategy, nil},
	{kinds.Roles, role.Strategy, nil},
	{kinds.RoleBindings, rolebinding.Strategy, nil},
	{kinds.ClusterRoles, clusterrole.Strategy, nil},
	{kinds.ClusterRoleBindings, clusterrolebinding.Strategy, nil},
}
