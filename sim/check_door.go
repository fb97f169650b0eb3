package sim

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// door: a node is shown its own pods and what concerns all nodes, never what
// was before what it has been shown, and what it wrote is its Node, or a pod that
// is bound to it. It ends no pod that is still there, and its own.
type door struct{ w *World }

// begins is told of the Seq with which a stream begins that was opened by a
// machine which had been shown another.
func (c *door) begins(node string, at, shown kernel.Seq) {
	if at < shown {
		c.w.fail(found(c, fmt.Errorf("node %s is shown the state at %d, it had been shown %d: to it, what was made since is gone", node, at, shown)))
	}
}

// ends is told of a pod that a node ends because it does not find it.
func (c *door) ends(a *agent, k kernel.Key, uid types.UID) {
	o, _ := c.w.view().Get(k)
	p, ok := o.(*corev1.Pod)
	if ok && p.UID == uid && p.Spec.NodeName == a.m.name {
		c.w.fail(found(c, fmt.Errorf("node %s ends %s, which is bound to it: it is not in the View at %d", a.m.name, k, a.view.Seq())))
	}
}

// sees is told of every event that a node is shown.
func (c *door) sees(node string, _ *kernel.View, e kernel.Event) {
	var ok bool
	switch e.Key.Resource {
	case kinds.Services.Resource, kinds.EndpointSlices.Resource, kinds.Nodes.Resource:
		ok = true
	case kinds.Pods.Resource:
		ok = e.Object().(*corev1.Pod).Spec.NodeName == node
	}
	if !ok {
		c.w.fail(found(c, fmt.Errorf("node %s was shown event %d of %s", node, e.Seq, e.Key)))
	}
}

func (c *door) see(e kernel.Event) error {
	node, ok := strings.CutPrefix(e.Source, "nodeagent/")
	if !ok {
		return nil
	}
	switch e.Key.Resource {
	case kinds.Nodes.Resource:
		ok = e.Key.Name == node
	case kinds.Pods.Resource:
		p, _ := e.Old().(*corev1.Pod)
		ok = p != nil && p.Spec.NodeName == node
	default:
		ok = false
	}
	if !ok {
		return fmt.Errorf("event %d: node %s wrote %s", e.Seq, node, e.Key)
	}
	return nil
}

func (c *door) end() error { return nil }
