package sim

import (
	"fmt"
	"time"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// orphans: when the world has come to rest, nothing has outlived all its
// owners, nor its namespace, and no claim its Service.
type orphans struct{ w *World }

func (c *orphans) see(kernel.Event) error { return nil }

func (c *orphans) end() error {
	v := c.w.view()
	uids := map[string]bool{}
	for e := range v.All() {
		if e.Key != events.HorizonKey {
			uids[string(e.Object().GetUID())] = true
		}
	}
	for e := range v.All() {
		if e.Key == events.HorizonKey {
			continue
		}
		if _, ok := kinds.Namespaces.Get(v, "", e.Key.Namespace); e.Key.Namespace != "" && !ok {
			return fmt.Errorf("%s: its namespace is gone", e.Key)
		}
		owners := e.Object().GetOwnerReferences()
		lives := len(owners) == 0
		for _, ref := range owners {
			lives = lives || uids[string(ref.UID)]
		}
		if !lives {
			return fmt.Errorf("%s: its owner is gone", e.Key)
		}
	}
	for _, claim := range kinds.IPAddresses.List(v, "") {
		ref := claim.Spec.ParentRef
		if ref.Resource != kinds.Services.Resource.Plural {
			if n, ok := kinds.Nodes.Get(v, "", ref.Name); !ok || n.Spec.PodCIDR != claim.Name+"/24" {
				return fmt.Errorf("the claim of %s: node %s does not have it", claim.Name, ref.Name)
			}
			continue
		}
		// One whose Service was never written since may stay: that write might
		// be on its way.
		e := v.Entry(kinds.Services.Key(ref.Namespace, ref.Name))
		if e == nil || e.Seq < v.Entry(kinds.IPAddresses.Key("", claim.Name)).Seq || e.Time.Add(time.Minute).After(c.w.now) {
			continue // the last: by a clock that was ahead
		}
		if s, ok := kinds.Services.Get(v, ref.Namespace, ref.Name); !ok || s.Spec.ClusterIP != claim.Name {
			return fmt.Errorf("the claim of %s: service %s/%s does not have it", claim.Name, ref.Namespace, ref.Name)
		}
	}
	return nil
}
