package controllers

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// nodeRangesKey is the one key: a leader gives ranges one after the other.
var nodeRangesKey = kernel.Key{Resource: kernel.Resource{Plural: "queue"}, Name: "noderanges"}

const (
	// maxNodes is how many /24 ranges a /16 has.
	maxNodes = 256
	// nodeUID says for which node of its name a range was claimed.
	nodeUID = "rutter.dev/node-uid"
)

// nodeRanges gives each node the smallest free /24 of the pods' /16. First the
// range is claimed, by an object named after its first address, which only one
// of two leaders can create; then it is written into the node. A claim is for
// one node by its uid. When that node is gone the claim goes too: a write of
// the range that is still on its way expects the node as it was, and is refused.
func nodeRanges(cfg Config) kernel.Decider {
	return kernel.Decider{
		Name:   "controllers/noderanges",
		Reads:  []kernel.Resource{kinds.Nodes.Resource, kinds.IPAddresses.Resource},
		Writes: []kernel.Resource{kinds.Nodes.Resource, kinds.IPAddresses.Resource},
		Wakes: func(_ *kernel.View, e kernel.Event) []kernel.Key {
			if a, old, ok := kinds.IPAddresses.Of(e); ok {
				if a == nil {
					a = old
				}
				if a == nil || claimant(a) == "" {
					return nil
				}
				return []kernel.Key{nodeRangesKey}
			}
			if n, old, _ := kinds.Nodes.Of(e); n != nil && old != nil && n.UID == old.UID && n.Spec.PodCIDR == old.Spec.PodCIDR {
				return nil
			}
			return []kernel.Key{nodeRangesKey} // it has none, or its range has become free
		},
		Decide: func(v *kernel.View, _ kernel.Key, _ time.Time) kernel.Decision { return decideNodeRanges(v, cfg) },
	}
}

// claimant is the name of the node that a range was claimed for, or "".
func claimant(a *networkingv1.IPAddress) string {
	if p := a.Spec.ParentRef; p != nil && p.Group == "" && p.Resource == kinds.Nodes.Resource.Plural {
		return p.Name
	}
	return ""
}

func decideNodeRanges(v *kernel.View, cfg Config) kernel.Decision {
	var d kernel.Decision
	taken := map[string]bool{}     // first addresses of ranges
	claimed := map[string]string{} // first address of the range claimed for a node, by the node's uid
	for _, a := range kinds.IPAddresses.List(v, "") {
		name := claimant(a)
		if name == "" {
			continue
		}
		taken[a.Name] = true
		n, ok := kinds.Nodes.Get(v, "", name)
		switch {
		case !ok || string(n.UID) != a.Annotations[nodeUID]:
			d.Changes = append(d.Changes, kinds.IPAddresses.Remove(a, "", "node "+name+" is gone"))
		case n.Spec.PodCIDR != "" && n.Spec.PodCIDR != a.Name+"/24": // another leader claimed one, too
			d.Changes = append(d.Changes, kinds.IPAddresses.Remove(a, "", "node "+name+" has another"))
		case claimed[string(n.UID)] == "":
			claimed[string(n.UID)] = a.Name
		}
	}
	var without []*corev1.Node
	for _, n := range kinds.Nodes.List(v, "") {
		r, err := netip.ParsePrefix(n.Spec.PodCIDR)
		if err != nil {
			without = append(without, n)
			continue
		}
		first := r.Masked().Addr().String()
		if claimed[string(n.UID)] == "" && !taken[first] { // somebody else gave it its range
			d.Changes = append(d.Changes, kinds.IPAddresses.Put(rangeClaim(n, first), "", ""))
		}
		taken[first] = true
	}
	slices.SortFunc(without, func(a, b *corev1.Node) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	next := 0
	for _, n := range without {
		if first := claimed[string(n.UID)]; first != "" {
			n = n.DeepCopy()
			n.Spec.PodCIDR = first + "/24"
			n.Spec.PodCIDRs = []string{n.Spec.PodCIDR}
			d.Changes = append(d.Changes, kinds.Nodes.Put(n, "node.ranged", ""))
			continue
		}
		for next < maxNodes && taken[rangeAt(cfg, next)] {
			next++
		}
		if next < maxNodes {
			taken[rangeAt(cfg, next)] = true
			d.Changes = append(d.Changes, kinds.IPAddresses.Put(rangeClaim(n, rangeAt(cfg, next)), "", "for pods of node "+n.Name))
		}
	}
	return d
}

// rangeAt is the first address of the i-th range.
func rangeAt(cfg Config, i int) string { return fmt.Sprintf("%s.%d.0", cfg.PodPrefix, i) }

// rangeClaim is the claim of a range for a node.
func rangeClaim(n *corev1.Node, first string) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: first, Annotations: map[string]string{nodeUID: string(n.UID)},
			Labels: map[string]string{networkingv1.LabelIPAddressFamily: string(corev1.IPv4Protocol), networkingv1.LabelManagedBy: "rutter.dev"}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: kinds.Nodes.Resource.Plural, Name: n.Name}},
	}
}
