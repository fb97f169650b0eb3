package controllers

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// nodeRangesKey is the one key: two nodes must not get one range.
var nodeRangesKey = kernel.Key{Resource: kernel.Resource{Plural: "queue"}, Name: "noderanges"}

// maxNodes is how many /24 ranges a /16 has.
const maxNodes = 256

// nodeRanges gives each node the smallest free /24 of the pods' /16.
func nodeRanges(cfg Config) kernel.Decider {
	return kernel.Decider{
		Name:   "controllers/noderanges",
		Reads:  []kernel.Resource{kinds.Nodes.Resource},
		Writes: []kernel.Resource{kinds.Nodes.Resource},
		Wakes: func(_ *kernel.View, e kernel.Event) []kernel.Key {
			if n, _, _ := kinds.Nodes.Of(e); n != nil && n.Spec.PodCIDR != "" {
				return nil
			}
			return []kernel.Key{nodeRangesKey} // it has none, or its range has become free
		},
		Decide: func(v *kernel.View, _ kernel.Key, _ time.Time) kernel.Decision { return decideNodeRanges(v, cfg) },
	}
}

func decideNodeRanges(v *kernel.View, cfg Config) kernel.Decision {
	taken := map[string]bool{}
	var without []*corev1.Node
	for _, n := range kinds.Nodes.List(v, "") {
		if n.Spec.PodCIDR == "" {
			without = append(without, n)
		}
		taken[n.Spec.PodCIDR] = true
	}
	slices.SortFunc(without, func(a, b *corev1.Node) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	var d kernel.Decision
	for i := 0; i < maxNodes && len(without) > 0; i++ {
		cidr := fmt.Sprintf("%s.%d.0/24", cfg.PodPrefix, i)
		if taken[cidr] {
			continue
		}
		n := without[0].DeepCopy()
		without = without[1:]
		n.Spec.PodCIDR, n.Spec.PodCIDRs = cidr, []string{cidr}
		d.Changes = append(d.Changes, kinds.Nodes.Put(n, "node.ranged", ""))
	}
	return d
}
