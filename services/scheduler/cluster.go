package scheduler

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// cluster is what one decision knows of nodes and placed pods. It is built once
// from the View; the pods that the decision places are added, which is what
// folding them into the View would come to, at a hundredth of the cost.
type cluster struct {
	nodes      []*node // by name
	byName     map[string]*node
	placed     []placed
	termed     []placed                     // those of placed that have affinity terms
	namespaces map[string]map[string]string // labels by name

	stuck map[string]stuck // by owner, a pod of it that fits nowhere

	// Of the pod that is looked at; kept for their memory.
	feasible []candidate
	rejected map[string]int // nodes by the reason why they may not have it
}

// node is a node with the sums over its pods.
type node struct {
	*corev1.Node
	name        string
	allocatable amounts
	maxPods     int64
	taken       amounts // requested by its pods
	weight      amounts // the same for the scores
	pods        int64
	ports       []hostPort
	owners      map[string]int64 // its pods by the uid of their controller
	images      map[string]int64 // bytes by name
}

// placed is a pod that has a node.
type placed struct {
	*corev1.Pod
	on    *node
	terms *affinityTerms // nil if it has none
}

// pod is a pod that is to be placed, with what is needed of it for every node.
type pod struct {
	*corev1.Pod
	request, weight amounts
	ports           []hostPort
	owner           string // the uid of its controller; may be empty
	terms           *affinityTerms
	near            *nearness // nil if pod affinity says nothing about it
	spread          []spreadConstraint
}

func newCluster(v *kernel.View) *cluster {
	c := &cluster{byName: map[string]*node{}, namespaces: map[string]map[string]string{}, stuck: map[string]stuck{}, rejected: map[string]int{}}
	for _, n := range kinds.Nodes.List(v, "") {
		one := &node{
			Node: n, name: n.Name, allocatable: amountsOf(n.Status.Allocatable),
			maxPods: n.Status.Allocatable.Pods().Value(), owners: map[string]int64{}, images: map[string]int64{},
		}
		for _, image := range n.Status.Images {
			for _, name := range image.Names {
				one.images[name] = image.SizeBytes
			}
		}
		c.nodes = append(c.nodes, one)
		c.byName[n.Name] = one
	}
	for _, ns := range kinds.Namespaces.List(v, "") {
		c.namespaces[ns.Name] = ns.Labels
	}
	for e := range v.Entries(kinds.Pods.Resource, "") {
		p := e.Object().(*corev1.Pod)
		if n := c.byName[p.Spec.NodeName]; n != nil && !finished(p) {
			c.place(c.describe(p), n)
		}
	}
	return c
}

// describe reads off a pod what the sums need.
func (c *cluster) describe(p *corev1.Pod) *pod {
	one := &pod{Pod: p, request: requestOf(&p.Spec), weight: weightOf(&p.Spec), ports: hostPorts(&p.Spec), terms: termsOf(p)}
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
		one.owner = string(ref.UID)
	}
	return one
}

// newPod describes a pod that is to be placed.
func (c *cluster) newPod(p *corev1.Pod) *pod {
	one := c.describe(p)
	one.near = c.nearnessOf(one)
	one.spread = c.spreadOf(p)
	return one
}

// place adds a pod to a node.
func (c *cluster) place(p *pod, n *node) {
	n.taken.add(p.request)
	n.weight.add(p.weight)
	n.pods++
	n.ports = append(n.ports, p.ports...)
	if p.owner != "" {
		n.owners[p.owner]++
	}
	c.placed = append(c.placed, placed{p.Pod, n, p.terms})
	if p.terms != nil {
		c.termed = append(c.termed, placed{p.Pod, n, p.terms})
	}
}

// hostPort is a port of the node itself that a container wants.
type hostPort struct {
	ip       string
	protocol corev1.Protocol
	port     int32
}

func hostPorts(s *corev1.PodSpec) []hostPort {
	var ports []hostPort
	add := func(c *corev1.Container) {
		for _, p := range c.Ports {
			if p.HostPort == 0 {
				continue
			}
			one := hostPort{ip: p.HostIP, protocol: p.Protocol, port: p.HostPort}
			if one.ip == "" {
				one.ip = "0.0.0.0"
			}
			if one.protocol == "" {
				one.protocol = corev1.ProtocolTCP
			}
			ports = append(ports, one)
		}
	}
	for i := range s.Containers {
		add(&s.Containers[i])
	}
	for i := range s.InitContainers {
		if c := &s.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	return ports
}

// clashes tells whether two pods cannot both have their ports on one node. The
// address 0.0.0.0 stands for all.
func (h hostPort) clashes(with []hostPort) bool {
	return slices.ContainsFunc(with, func(o hostPort) bool {
		return h.port == o.port && h.protocol == o.protocol && (h.ip == o.ip || h.ip == "0.0.0.0" || o.ip == "0.0.0.0")
	})
}

// stuck is a pod that fits nowhere, and why.
type stuck struct {
	*pod
	why string
}

// stuckLike tells whether the pod is like another of its owner that was found
// to fit nowhere, and why: of a thousand equal pods too many, one is looked at.
// What is placed in between only takes more away, unless the pod wants to be
// near others.
func (c *cluster) stuckLike(p *pod) (string, bool) {
	s, ok := c.stuck[p.owner]
	if !ok || p.owner == "" || p.terms != nil || len(p.spread) > 0 || len(p.ports) > 0 || p.request.other != nil {
		return "", false
	}
	a, b := &p.Pod.Spec, &s.Pod.Spec
	alike := s.terms == nil && len(s.spread) == 0 && len(s.ports) == 0 && s.request.other == nil &&
		p.request.cpu == s.request.cpu && p.request.memory == s.request.memory && p.request.storage == s.request.storage &&
		p.Namespace == s.Namespace && maps.Equal(p.Labels, s.Labels) && maps.Equal(a.NodeSelector, b.NodeSelector) &&
		apiequality.Semantic.DeepEqual(a.Affinity, b.Affinity) && apiequality.Semantic.DeepEqual(a.Tolerations, b.Tolerations)
	return s.why, alike
}
