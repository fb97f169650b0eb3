package apiserver

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/kernel"
)

// The verbs that Kubernetes' own roles are made of.
const (
	verbsRead      = "get list watch"
	verbsWrite     = "create update patch delete deletecollection"
	verbsReadWrite = verbsRead + " " + verbsWrite
)

// aggregateTo marks roles that are part of another.
const aggregateTo = "rbac.authorization.k8s.io/aggregate-to-"

// rule writes a rule in a line: words are separated by spaces, and "core" is
// the group without a name.
func rule(verbs, groups, resources string) rbacv1.PolicyRule {
	gs := strings.Fields(groups)
	for i := range gs {
		if gs[i] == "core" {
			gs[i] = ""
		}
	}
	return rbacv1.PolicyRule{Verbs: strings.Fields(verbs), APIGroups: gs, Resources: strings.Fields(resources)}
}

func paths(urls string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: strings.Fields(urls)}
}

func viewRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(verbsRead, "core", "bindings configmaps endpoints limitranges limitranges/status namespaces namespaces/status persistentvolumeclaims "+
			"persistentvolumeclaims/status pods pods/log pods/status replicationcontrollers replicationcontrollers/scale replicationcontrollers/status "+
			"resourcequotas resourcequotas/status serviceaccounts services services/status"),
		rule(verbsRead, "core events.k8s.io", "events"),
		rule(verbsRead, "discovery.k8s.io", "endpointslices"),
		rule(verbsRead, "apps", "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status "+
			"replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status"),
		rule(verbsRead, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
		rule(verbsRead, "batch", "cronjobs cronjobs/status jobs jobs/status"),
		rule(verbsRead, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
		rule(verbsRead, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
	}
}

func editRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(verbsRead, "core", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
		rule("impersonate", "core", "serviceaccounts"),
		rule(verbsWrite, "core", "pods pods/attach pods/exec pods/portforward pods/proxy"),
		rule("create", "core", "pods/eviction serviceaccounts/token"),
		rule(verbsWrite, "core", "configmaps persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services services/proxy"),
		rule(verbsWrite, "core events.k8s.io", "events"),
		rule(verbsWrite, "apps", "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale"),
		rule(verbsWrite, "autoscaling", "horizontalpodautoscalers"),
		rule(verbsWrite, "batch", "cronjobs jobs"),
		rule(verbsWrite, "policy", "poddisruptionbudgets"),
		rule(verbsWrite, "networking.k8s.io", "ingresses networkpolicies"),
		rule(verbsReadWrite, "coordination.k8s.io", "leases"),
	}
}

func adminRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule("create", "authorization.k8s.io", "localsubjectaccessreviews"),
		rule(verbsReadWrite, "rbac.authorization.k8s.io", "rolebindings roles"),
	}
}

// nodeRules are what a client that acts as a kubelet may ask for. Our own
// agents come through the door, which judges by ownership.
func nodeRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule("create", "authentication.k8s.io", "tokenreviews"),
		rule("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
		rule(verbsRead, "core", "services"),
		rule("create get list watch update patch", "core", "nodes"),
		rule("update patch", "core", "nodes/status"),
		rule("create update patch", "core events.k8s.io", "events"),
		rule("get create update patch delete", "coordination.k8s.io", "leases"),
		rule(verbsRead, "node.k8s.io", "runtimeclasses"),
	}
}

const healthPaths = "/livez /readyz /healthz"

// clusterRole is one of Kubernetes' own roles.
type clusterRole struct {
	name     string
	partOf   string // the role that it is part of: "admin"
	sumOf    string // the role is the sum of all that are part of it
	rules    []rbacv1.PolicyRule
	subjects []rbacv1.Subject // who has it from the start
}

func group(names ...string) (out []rbacv1.Subject) {
	for _, n := range names {
		out = append(out, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: n})
	}
	return out
}

func user(name string) []rbacv1.Subject {
	return []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}}
}

// ownRoles are the roles of every cluster (kubernetes.io: Using RBAC
// Authorization, "Default roles and role bindings").
func ownRoles() []clusterRole {
	view, edit := viewRules(), editRules()
	return []clusterRole{
		{name: "cluster-admin", rules: []rbacv1.PolicyRule{rule("*", "*", "*"), {Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}}, subjects: group(groupMasters)},
		{name: "system:discovery", rules: []rbacv1.PolicyRule{paths("/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/")}, subjects: group(groupAuthenticated)},
		{name: "system:basic-user", rules: []rbacv1.PolicyRule{
			rule("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
			rule("create", "authentication.k8s.io", "selfsubjectreviews")}, subjects: group(groupAuthenticated)},
		{name: "system:public-info-viewer", rules: []rbacv1.PolicyRule{paths(healthPaths + " /version /version/")}, subjects: group(groupAuthenticated, "system:unauthenticated")},
		{name: "system:monitoring", rules: []rbacv1.PolicyRule{paths(healthPaths + " /healthz/* /livez/* /metrics /metrics/slis /readyz/*")}, subjects: group("system:monitoring")},
		{name: "system:service-account-issuer-discovery", rules: []rbacv1.PolicyRule{
			paths("/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/")}, subjects: group(groupServiceAccounts)},
		{name: "admin", sumOf: "admin", rules: slices.Concat(adminRules(), edit, view)},
		{name: "edit", sumOf: "edit", partOf: "admin", rules: slices.Concat(edit, view)},
		{name: "view", sumOf: "view", partOf: "edit", rules: view},
		{name: "system:aggregate-to-admin", partOf: "admin", rules: adminRules()},
		{name: "system:aggregate-to-edit", partOf: "edit", rules: edit},
		{name: "system:aggregate-to-view", partOf: "view", rules: view},
		{name: "system:node", rules: nodeRules()},
		{name: "system:auth-delegator", rules: []rbacv1.PolicyRule{
			rule("create", "authentication.k8s.io", "tokenreviews"), rule("create", "authorization.k8s.io", "subjectaccessreviews")}},
		{name: "system:kubelet-api-admin", rules: []rbacv1.PolicyRule{
			rule("get list watch proxy", "core", "nodes"), rule("*", "core", "nodes/configz nodes/healthz nodes/log nodes/metrics nodes/pods nodes/proxy nodes/stats")}},
		{name: "system:kube-scheduler", subjects: user("system:kube-scheduler"), rules: []rbacv1.PolicyRule{
			rule("create patch update", "core events.k8s.io", "events"), rule("create get update list watch", "coordination.k8s.io", "leases"),
			rule(verbsRead, "core", "namespaces nodes persistentvolumeclaims persistentvolumes replicationcontrollers services"),
			rule("get list watch delete", "core", "pods"), rule("create", "core", "bindings pods/binding"), rule("patch update", "core", "pods/status"),
			rule(verbsRead, "apps", "replicasets statefulsets"), rule(verbsRead, "policy", "poddisruptionbudgets"),
			rule(verbsRead, "storage.k8s.io", "csidrivers csinodes csistoragecapacities volumeattachments storageclasses")}},
	}
}

// bootstrapRoles are the objects of ownRoles.
func bootstrapRoles() []kernel.Object {
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
			Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"}}
	}
	var out []kernel.Object
	for _, r := range ownRoles() {
		role := &rbacv1.ClusterRole{ObjectMeta: meta(r.name), Rules: r.rules}
		if r.partOf != "" {
			role.Labels[aggregateTo+r.partOf] = "true"
		}
		if r.sumOf != "" {
			role.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
				{MatchLabels: map[string]string{aggregateTo + r.sumOf: "true"}}}}
		}
		out = append(out, role)
		if r.subjects != nil {
			out = append(out, &rbacv1.ClusterRoleBinding{ObjectMeta: meta(r.name), Subjects: r.subjects,
				RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: r.name}})
		}
	}
	return out
}
