package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// term is a pod affinity term: it means the pods that it selects, in the
// places that the topology key tells apart.
type term struct {
	selector    labels.Selector
	namespaces  []string        // by name
	byLabel     labels.Selector // more namespaces, by their labels; nil: none
	topologyKey string
	weight      int64 // of a preferred term
}

// affinityTerms are a pod's terms: the preferred anti-affinity has negative
// weights.
type affinityTerms struct {
	affinity, anti, preferred []term
}

// termsOf reads a pod's terms; nil if it has none.
func termsOf(p *corev1.Pod) *affinityTerms {
	a := p.Spec.Affinity
	if a == nil || a.PodAffinity == nil && a.PodAntiAffinity == nil {
		return nil
	}
	var ts affinityTerms
	if pa := a.PodAffinity; pa != nil {
		for i := range pa.RequiredDuringSchedulingIgnoredDuringExecution {
			ts.affinity = append(ts.affinity, newTerm(p, &pa.RequiredDuringSchedulingIgnoredDuringExecution[i], 0))
		}
		for i := range pa.PreferredDuringSchedulingIgnoredDuringExecution {
			w := &pa.PreferredDuringSchedulingIgnoredDuringExecution[i]
			ts.preferred = append(ts.preferred, newTerm(p, &w.PodAffinityTerm, int64(w.Weight)))
		}
	}
	if pa := a.PodAntiAffinity; pa != nil {
		for i := range pa.RequiredDuringSchedulingIgnoredDuringExecution {
			ts.anti = append(ts.anti, newTerm(p, &pa.RequiredDuringSchedulingIgnoredDuringExecution[i], 0))
		}
		for i := range pa.PreferredDuringSchedulingIgnoredDuringExecution {
			w := &pa.PreferredDuringSchedulingIgnoredDuringExecution[i]
			ts.preferred = append(ts.preferred, newTerm(p, &w.PodAffinityTerm, -int64(w.Weight)))
		}
	}
	return &ts
}

// newTerm reads a term of the pod p. Without namespaces it means the pod's
// own. matchLabelKeys were merged into the selector when the pod was made.
func newTerm(p *corev1.Pod, t *corev1.PodAffinityTerm, weight int64) term {
	one := term{selector: labels.Nothing(), namespaces: t.Namespaces, topologyKey: t.TopologyKey, weight: weight}
	if s, err := metav1.LabelSelectorAsSelector(t.LabelSelector); err == nil {
		one.selector = s
	}
	if t.NamespaceSelector != nil {
		if s, err := metav1.LabelSelectorAsSelector(t.NamespaceSelector); err == nil {
			one.byLabel = s
		}
	} else if len(t.Namespaces) == 0 {
		one.namespaces = []string{p.Namespace}
	}
	return one
}

// means tells whether the term means the pod.
func (t *term) means(c *cluster, p *corev1.Pod) bool {
	return (slices.Contains(t.namespaces, p.Namespace) ||
		t.byLabel != nil && t.byLabel.Matches(labels.Set(c.namespaces[p.Namespace]))) &&
		t.selector.Matches(labels.Set(p.Labels))
}

// place is one value of a topology label: all nodes that have it.
type place struct{ key, value string }

// nearness is what the placed pods and their affinities say about where a pod
// may be.
type nearness struct {
	forbidden []place          // by the anti-affinity of placed pods, or its own
	near      []map[place]bool // per required term: where pods that it means are
	alone     bool             // no pod meets its terms but itself: it may be the first anywhere
	score     map[place]int64  // by preferred terms, its own and others'
}

// nearnessOf looks once at all placed pods; nil if there are no terms at all.
func (c *cluster) nearnessOf(p *pod) *nearness {
	if p.terms == nil && len(c.termed) == 0 {
		return nil
	}
	n := &nearness{score: map[place]int64{}}
	for i := range c.termed {
		other := &c.termed[i]
		for _, t := range other.terms.anti {
			if t.means(c, p.Pod) {
				n.forbid(other.on, t.topologyKey)
			}
		}
		for _, t := range other.terms.preferred {
			if t.means(c, p.Pod) {
				n.prefer(other.on, t)
			}
		}
	}
	if p.terms == nil {
		return n
	}
	n.near = make([]map[place]bool, len(p.terms.affinity))
	for i := range c.placed {
		n.ownTerms(c, p, &c.placed[i])
	}
	n.alone = true
	for i, t := range p.terms.affinity {
		n.alone = n.alone && len(n.near[i]) == 0 && t.means(c, p.Pod)
	}
	return n
}

// ownTerms counts a placed pod for the terms of the pod that is to be placed.
func (n *nearness) ownTerms(c *cluster, p *pod, other *placed) {
	for i, t := range p.terms.affinity {
		value, ok := other.on.Labels[t.topologyKey]
		if ok && t.means(c, other.Pod) {
			if n.near[i] == nil {
				n.near[i] = map[place]bool{}
			}
			n.near[i][place{t.topologyKey, value}] = true
		}
	}
	for _, t := range p.terms.anti {
		if t.means(c, other.Pod) {
			n.forbid(other.on, t.topologyKey)
		}
	}
	for _, t := range p.terms.preferred {
		if t.means(c, other.Pod) {
			n.prefer(other.on, t)
		}
	}
}

func (n *nearness) forbid(on *node, key string) {
	if value, ok := on.Labels[key]; ok && !slices.Contains(n.forbidden, place{key, value}) {
		n.forbidden = append(n.forbidden, place{key, value})
	}
}

func (n *nearness) prefer(on *node, t term) {
	if value, ok := on.Labels[t.topologyKey]; ok {
		n.score[place{t.topologyKey, value}] += t.weight
	}
}

func filterPodAffinity(_ *cluster, p *pod, n *node) []string {
	if p.near == nil {
		return nil
	}
	if p.terms != nil {
		for i, t := range p.terms.affinity {
			value, ok := n.Labels[t.topologyKey]
			if !ok || !p.near.near[i][place{t.topologyKey, value}] && !p.near.alone {
				return []string{"node(s) didn't match pod affinity rules"}
			}
		}
	}
	for _, f := range p.near.forbidden {
		if value, ok := n.Labels[f.key]; ok && value == f.value {
			return []string{"node(s) didn't match pod anti-affinity rules"}
		}
	}
	return nil
}

// preference is what preferred pod affinities say for a node.
func (n *nearness) preference(on *node) int64 {
	var total int64
	for at, score := range n.score { // in no order: a sum
		if value, ok := on.Labels[at.key]; ok && value == at.value {
			total += score
		}
	}
	return total
}
