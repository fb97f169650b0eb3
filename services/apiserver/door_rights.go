package apiserver

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

const (
	nodeUserPrefix = "system:node:"
	groupNodes     = "system:nodes"
	nodeLeases     = "kube-node-lease"
)

// nodesResource is what the door's refusals are about.
var nodesResource = schema.GroupResource{Resource: "nodes"}

// nodeOf returns the node that a user is the agent of. As in Kubernetes, it is
// the user's name and its group together that make it one.
func nodeOf(u *User) (string, bool) {
	if u == nil {
		return "", false
	}
	node, ok := strings.CutPrefix(u.Name, nodeUserPrefix)
	for _, g := range u.Groups {
		if g == groupNodes && ok && node != "" {
			return node, true
		}
	}
	return "", false
}

func apiResource(k kernel.Key) schema.GroupResource {
	return schema.GroupResource{Group: k.Group, Resource: k.Plural}
}

func actorOf(node string) string { return "nodeagent/" + node }

// pods returns the object as a pod, or nil.
func pods(o kernel.Object) *corev1.Pod {
	p, _ := o.(*corev1.Pod)
	return p
}

// mayWrite is the node authorizer's writing half: a node owns its Node, its
// Lease, the status of its pods, and the Events that it reports about them.
func mayWrite(v *kernel.View, node string, w *kernel.Write) error {
	deny := func(format string, args ...any) error {
		return apierrors.NewForbidden(apiResource(w.Key), w.Key.Name, fmt.Errorf(format, args...))
	}
	switch w.Key.Resource {
	case kinds.Nodes.Resource:
		if w.Key.Name != node {
			return deny("node %q may write only its own Node", node)
		}
		if w.Verb == kinds.Delete {
			return deny("a node may not delete itself")
		}
		return mayChangeNode(node, w, deny)
	case kinds.Leases.Resource:
		if w.Key.Namespace != nodeLeases || w.Key.Name != node {
			return deny("node %q may write only its own Lease in %s", node, nodeLeases)
		}
		return nil
	case kinds.Pods.Resource:
		old := pods(w.Old)
		if old == nil || old.Spec.NodeName != node {
			return deny("node %q may write only pods that are bound to it", node)
		}
		if w.Verb == kinds.Delete && old.DeletionTimestamp == nil {
			return deny("a node deletes a pod only after its deletion was asked for")
		}
		w.Subresource = "status"
		return nil
	case kinds.Events.Resource:
		return mayReport(v, node, w, deny)
	}
	return deny("a node does not write %s", w.Key.Resource)
}

// restrictedLabels are those that say where pods that must not mix may run, so
// that a node has no say in them (NodeRestriction, KEP-279).
const restrictedLabels = "node-restriction.kubernetes.io/"

// mayChangeNode holds a node to what NodeRestriction allows: it may not place
// or lift its own taints or restricted labels, nor choose its range of pod
// addresses.
func mayChangeNode(node string, w *kernel.Write, deny func(string, ...any) error) error {
	now, old := w.New.(*corev1.Node), &corev1.Node{}
	if w.Old == nil {
		if len(now.Spec.Taints) > 0 || now.Spec.PodCIDR != "" || len(now.Spec.PodCIDRs) > 0 {
			return deny("node %q may not set its own taints or podCIDR", node)
		}
	} else if old = w.Old.(*corev1.Node); !apiequality.Semantic.DeepEqual(old.Spec, now.Spec) || !apiequality.Semantic.DeepEqual(old.OwnerReferences, now.OwnerReferences) {
		return deny("node %q may not change its own spec or owners", node)
	}
	restricted := func(of *corev1.Node) map[string]string {
		all := maps.Clone(of.Labels)
		maps.DeleteFunc(all, func(k, _ string) bool { return !strings.Contains(k, restrictedLabels) })
		return all
	}
	if !maps.Equal(restricted(old), restricted(now)) {
		return deny("node %q may not change its own labels of %s", node, restrictedLabels)
	}
	return nil
}

// mayReport lets a node write Events under its own name, but none about other
// nodes and their pods. A pod that is gone may still be told of.
func mayReport(v *kernel.View, node string, w *kernel.Write, deny func(string, ...any) error) error {
	if w.Verb == kinds.Delete {
		return deny("a node does not delete Events")
	}
	e := w.New.(*corev1.Event)
	if e.Source.Host != node || w.Old != nil && w.Old.(*corev1.Event).Source.Host != node {
		return deny("node %q may report only under its own name (source.host)", node)
	}
	about := e.InvolvedObject
	p, ok := kinds.Pods.Get(v, about.Namespace, about.Name)
	if about.Kind == "Pod" && ok && p.Spec.NodeName != node || about.Kind == "Node" && about.Name != node {
		return deny("node %q may report only about itself and its own pods", node)
	}
	return nil
}

// nodeMay is the node authorizer for those who come as clients of the API
// instead of through the door, such as an agent that asks for its pods' tokens:
// a node may read what concerns it, and no more.
func nodeMay(v *kernel.View, node string, a *Attributes) bool {
	reading := a.Verb == "get" || a.Verb == "list" || a.Verb == "watch"
	k := kernel.Key{Resource: kernel.Resource{Group: a.Group, Plural: a.Resource}, Namespace: a.Namespace, Name: a.Name}
	switch k.Resource {
	case kinds.Services.Resource, kinds.EndpointSlices.Resource:
		return reading && a.Subresource == ""
	case kinds.Nodes.Resource:
		return reading && a.Name == node && a.Subresource == ""
	}
	for _, p := range kinds.Pods.List(v, a.Namespace) {
		if p.Spec.NodeName != node || a.Namespace == "" || a.Name == "" {
			continue
		}
		switch {
		case a.Verb == "get" && k == kinds.Pods.Key(p.Namespace, p.Name) && a.Subresource == "",
			a.Verb == "get" && slices.Contains(mountedBy(p), k) && a.Subresource == "",
			a.Verb == "create" && a.Subresource == "token" && k == kinds.ServiceAccounts.Key(p.Namespace, p.Spec.ServiceAccountName):
			return true
		}
	}
	return false
}

// nodeMayBind holds a node to tokens that end with a pod of its own, as
// NodeRestriction does: it needs them for nothing else, and with any other it
// would act as the account after the pod is gone.
func nodeMayBind(v *kernel.View, node string, tr *authenticationv1.TokenRequest) error {
	deny := func(why string) error {
		return apierrors.NewForbidden(schema.GroupResource{Resource: "serviceaccounts"}, tr.Name, fmt.Errorf("node %q requested a token %s", node, why))
	}
	to := tr.Spec.BoundObjectRef
	if to == nil || to.Kind != "Pod" || to.APIVersion != "v1" {
		return deny("not bound to a pod")
	}
	pod, ok := kinds.Pods.Get(v, tr.Namespace, to.Name)
	if !ok || pod.Spec.NodeName != node || pod.UID != to.UID {
		return deny("bound to what is not one of its pods")
	}
	return nil
}

// mountedBy lists what a pod makes visible to its node.
func mountedBy(p *corev1.Pod) []kernel.Key {
	m := mounts{namespace: p.Namespace}
	for _, v := range p.Spec.Volumes {
		switch {
		case v.ConfigMap != nil:
			m.config(v.ConfigMap.Name)
		case v.Secret != nil:
			m.secret(v.Secret.SecretName)
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.ConfigMap != nil {
					m.config(s.ConfigMap.Name)
				}
				if s.Secret != nil {
					m.secret(s.Secret.Name)
				}
			}
		}
	}
	for _, s := range p.Spec.ImagePullSecrets {
		m.secret(s.Name)
	}
	for _, c := range append(append([]corev1.Container{}, p.Spec.InitContainers...), p.Spec.Containers...) {
		for _, e := range c.EnvFrom {
			if e.ConfigMapRef != nil {
				m.config(e.ConfigMapRef.Name)
			}
			if e.SecretRef != nil {
				m.secret(e.SecretRef.Name)
			}
		}
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
				m.config(e.ValueFrom.ConfigMapKeyRef.Name)
			}
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				m.secret(e.ValueFrom.SecretKeyRef.Name)
			}
		}
	}
	return m.keys
}

type mounts struct {
	namespace string
	keys      []kernel.Key
}

func (m *mounts) config(name string) {
	m.keys = append(m.keys, kinds.ConfigMaps.Key(m.namespace, name))
}

func (m *mounts) secret(name string) {
	m.keys = append(m.keys, kinds.Secrets.Key(m.namespace, name))
}
