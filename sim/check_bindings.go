package sim

import (
	"fmt"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// bindings: a pod is bound to one node, once, and a name is one pod until it
// is gone.
type bindings struct {
	uids map[kernel.Key]string
	on   map[string]string // node by pod uid
}

func (b *bindings) see(e kernel.Event) error {
	if e.Key.Resource != kinds.Pods.Resource {
		return nil
	}
	if b.uids == nil {
		b.uids, b.on = map[kernel.Key]string{}, map[string]string{}
	}
	if e.Delete {
		delete(b.uids, e.Key)
		return nil
	}
	p, _, _ := kinds.Pods.Of(e)
	uid := string(p.UID)
	if was, lives := b.uids[e.Key]; lives && was != uid {
		return fmt.Errorf("event %d: pod %s became another one while it lived", e.Seq, p.Name)
	}
	b.uids[e.Key] = uid
	if was := b.on[uid]; was != "" && was != p.Spec.NodeName {
		return fmt.Errorf("event %d: pod %s was on node %s and is on %q", e.Seq, p.Name, was, p.Spec.NodeName)
	}
	b.on[uid] = p.Spec.NodeName
	return nil
}

func (b *bindings) end() error { return nil }
