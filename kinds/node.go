package kinds

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/rutterhq/rutter/kernel"
)

// Labels that give a node a role, shown by kubectl get nodes.
const (
	rolePrefix = "node-role.kubernetes.io/"
	roleLabel  = "kubernetes.io/role"
)

// Nodes are the machines that run pods (k8s.io/api/core/v1.Node).
var Nodes = &Kind[*corev1.Node]{
	Info: Info{
		Resource: kernel.Resource{Plural: "nodes"}, Version: "v1", Kind: "Node",
		Singular: "node", ShortNames: []string{"no"}, Cluster: true, Status: true,
	},
	New:            func() *corev1.Node { return &corev1.Node{} },
	NewList:        func() runtime.Object { return &corev1.NodeList{} },
	Default:        defaultNode,
	Prepare:        prepareNode,
	Validate:       validateNode,
	ValidateStatus: validateNodeStatus,
	Columns: []Column[*corev1.Node]{
		nameColumn[*corev1.Node](),
		column("Status", "Whether the node is ready for pods.", func(n *corev1.Node) any { return nodeStatus(n) }),
		column("Roles", "The roles that its labels give the node.", func(n *corev1.Node) any { return orNone(strings.Join(nodeRoles(n), ",")) }),
		ageColumn[*corev1.Node](),
		column("Version", doc(corev1.NodeSystemInfo{}, "kubeletVersion"), func(n *corev1.Node) any { return n.Status.NodeInfo.KubeletVersion }),
		wide(column("Internal-IP", doc(corev1.NodeStatus{}, "addresses"), func(n *corev1.Node) any { return nodeAddress(n, corev1.NodeInternalIP) })),
		wide(column("External-IP", doc(corev1.NodeStatus{}, "addresses"), func(n *corev1.Node) any { return nodeAddress(n, corev1.NodeExternalIP) })),
		wide(column("OS-Image", doc(corev1.NodeSystemInfo{}, "osImage"), func(n *corev1.Node) any { return orUnknown(n.Status.NodeInfo.OSImage) })),
		wide(column("Kernel-Version", doc(corev1.NodeSystemInfo{}, "kernelVersion"), func(n *corev1.Node) any {
			version := orUnknown(n.Status.NodeInfo.KernelVersion)
			if a := n.Status.NodeInfo.Architecture; a != "" {
				version += " (" + a + ")"
			}
			return version
		})),
		wide(column("Container-Runtime", doc(corev1.NodeSystemInfo{}, "containerRuntimeVersion"), func(n *corev1.Node) any {
			return orUnknown(n.Status.NodeInfo.ContainerRuntimeVersion)
		})),
	},
	Fields: func(n *corev1.Node) fields.Set {
		return fields.Set{"spec.unschedulable": fmt.Sprint(n.Spec.Unschedulable)}
	},
	Type: nodeType,
}

// defaultNode makes everything that the node has available to pods, unless it
// says otherwise, and brings its pod range and the list of them in step.
func defaultNode(n *corev1.Node) {
	if n.Status.Allocatable == nil && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
	switch one, all := n.Spec.PodCIDR, n.Spec.PodCIDRs; {
	case one != "" && (len(all) == 0 || all[0] != one): // by a client that knows only the one
		n.Spec.PodCIDRs = []string{one}
	case len(all) > 0:
		n.Spec.PodCIDR = all[0]
	}
	roundUp(n.Status.Capacity)
	roundUp(n.Status.Allocatable)
}

// prepareNode drops what Kubernetes no longer has: configuration of the
// kubelet through its node.
func prepareNode(now, old *corev1.Node) {
	if old == nil {
		now.Spec.ConfigSource, now.Status.Config = nil, nil
		now.Spec.PodPreemptionPolicy = nil
		return
	}
	if old.Spec.ConfigSource == nil {
		now.Spec.ConfigSource = nil
	}
	if old.Spec.PodPreemptionPolicy == nil {
		now.Spec.PodPreemptionPolicy = nil
	}
	if old.Status.Config == nil {
		now.Status.Config = nil
	}
}

// NodeReady tells whether the node says that it can run pods. A node without
// the condition is not ready.
func NodeReady(n *corev1.Node) bool {
	for i := range n.Status.Conditions {
		if c := &n.Status.Conditions[i]; c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// nodeStatus is the Status cell: Ready, NotReady or Unknown, and whether the
// scheduler leaves the node alone.
func nodeStatus(n *corev1.Node) string {
	status := "Unknown"
	for i := range n.Status.Conditions {
		if c := &n.Status.Conditions[i]; c.Type == corev1.NodeReady {
			status = "NotReady"
			if c.Status == corev1.ConditionTrue {
				status = "Ready"
			}
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	return status
}

// nodeRoles are the roles of a node in the order of the alphabet.
func nodeRoles(n *corev1.Node) []string {
	var roles []string
	for label, v := range n.Labels {
		if role, ok := strings.CutPrefix(label, rolePrefix); ok && role != "" {
			roles = append(roles, role)
		} else if label == roleLabel && v != "" {
			roles = append(roles, v)
		}
	}
	slices.Sort(roles)
	return slices.Compact(roles)
}

// nodeAddress is the node's first address of a type, or "<none>".
func nodeAddress(n *corev1.Node, t corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == t {
			return a.Address
		}
	}
	return none
}

// orUnknown is s, or "<unknown>" if it is empty.
func orUnknown(s string) string {
	if s == "" {
		return unknown
	}
	return s
}

// nodeType names what happened to a node.
func nodeType(now, old *corev1.Node) string {
	switch {
	case old == nil || Gone(now):
		return ""
	case NodeReady(now) && !NodeReady(old):
		return "node.ready"
	case !NodeReady(now) && NodeReady(old):
		return "node.unready"
	case now.Spec.Unschedulable && !old.Spec.Unschedulable:
		return "node.cordoned"
	case !now.Spec.Unschedulable && old.Spec.Unschedulable:
		return "node.uncordoned"
	case !equality.Semantic.DeepEqual(now.Spec.Taints, old.Spec.Taints):
		return "node.tainted"
	case !equality.Semantic.DeepEqual(now.Status, old.Status):
		return "node.reported"
	}
	return ""
}
