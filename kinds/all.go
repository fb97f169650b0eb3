package kinds

import "github.com/rutterhq/rutter/kernel"

// All is every kind that is built in. Discovery, routes, tables, RBAC and
// garbage collection go through it: a kind is served by standing here.
var All = []Row{
	Namespaces,
	Nodes,
	Pods,
	ReplicaSets,
	Deployments,
	Services,
	Endpoints,
	EndpointSlices,
	ConfigMaps,
	Secrets,
	ServiceAccounts,
	Ingresses,
	IngressClasses,
	IPAddresses,
	Events,
	Leases,
	PriorityClasses,
	Roles,
	RoleBindings,
	ClusterRoles,
	ClusterRoleBindings,
	Refusals,
}

// rows finds a row by its resource.
var rows = func() map[kernel.Resource]Row {
	m := make(map[kernel.Resource]Row, len(All))
	for _, r := range All {
		m[r.Describe().Resource] = r
	}
	return m
}()

// RowFor returns the row of a resource, and whether there is one.
func RowFor(r kernel.Resource) (Row, bool) {
	row, ok := rows[r]
	return row, ok
}
