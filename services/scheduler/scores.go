package scheduler

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// part is one of the scores that a node's total is made of.
type part int

const (
	free     part = iota // how much of the node is left
	balance              // how alike cpu and memory are used
	spread               // how few pods of the same owner, and of soft spread constraints, are there
	affinity             // preferred node affinity
	nearby               // preferred pod affinity
	taints               // how few PreferNoSchedule taints it does not tolerate
	images               // how much of its images is there
	parts
)

// scoring is each part's name and its weight in the total. A part is from 0 to
// 100, so that the weights compare; they are Kubernetes' own.
var scoring = [parts]struct {
	name   string
	weight int64
}{
	free: {"free", 1}, balance: {"balance", 1}, spread: {"spread", 2}, affinity: {"affinity", 2},
	nearby: {"nearby", 2}, taints: {"taints", 3}, images: {"images", 1},
}

// candidate is a node that may have the pod.
type candidate struct {
	*node
	parts [parts]int64
	total int64
}

const (
	tracedNodes = 3    // nodes that a trace tells the scores of
	maxTrace    = 1024 // bytes
)

// choose returns the best node for the pod, and the trace of how it was found;
// nil if none may have it: then explain says why.
func (c *cluster) choose(p *pod) (*node, string) {
	c.feasible = c.feasible[:0]
	clear(c.rejected)
	for _, n := range c.nodes {
		why := c.reject(p, n)
		for _, w := range why {
			c.rejected[w]++
		}
		if why == nil {
			c.feasible = append(c.feasible, candidate{node: n})
		}
	}
	if len(c.feasible) == 0 {
		return nil, ""
	}
	for i := range c.feasible {
		p.score(&c.feasible[i])
	}
	normalize(c.feasible, spread, true)
	normalize(c.feasible, affinity, false)
	normalize(c.feasible, nearby, false)
	normalize(c.feasible, taints, true)
	for i := range c.feasible {
		for kind, s := range scoring {
			c.feasible[i].total += c.feasible[i].parts[kind] * s.weight
		}
	}
	top := best(c.feasible)
	return top[0].node, c.trace(top)
}

// compareCandidates puts the better first; of equal ones the first by name.
func compareCandidates(a, b candidate) int {
	return cmp.Or(cmp.Compare(b.total, a.total), cmp.Compare(a.name, b.name))
}

// best are the few best, the best first.
func best(all []candidate) []candidate {
	var top []candidate
	for _, one := range all {
		at, _ := slices.BinarySearchFunc(top, one, compareCandidates)
		if at < tracedNodes {
			top = slices.Insert(top, at, one)
			top = top[:min(len(top), tracedNodes)]
		}
	}
	return top
}

// score fills in the parts: some from 0 to 100, and the ones to be normalized
// as they are.
func (p *pod) score(c *candidate) {
	n := c.node
	cpu := permille(n.weight.cpu+p.weight.cpu, n.allocatable.cpu)
	memory := permille(n.weight.memory+p.weight.memory, n.allocatable.memory)
	c.parts[free] = (2000 - cpu - memory) / 20
	c.parts[balance] = 100 - max(cpu-memory, memory-cpu)/20
	c.parts[spread] = p.crowding(n)
	if p.owner != "" {
		c.parts[spread] += n.owners[p.owner]
	}
	c.parts[affinity] = nodePreference(&p.Spec, n.Node)
	if p.near != nil {
		c.parts[nearby] = p.near.preference(n)
	}
	for i := range n.Spec.Taints {
		if t := &n.Spec.Taints[i]; t.Effect == corev1.TaintEffectPreferNoSchedule && !tolerates(p.Spec.Tolerations, t) {
			c.parts[taints]++
		}
	}
	c.parts[images] = imageScore(&p.Spec, n)
}

// permille is how many thousandths of what there is are used, at most all.
func permille(used, of int64) int64 {
	if of <= 0 || used >= of {
		return 1000
	}
	if of > math.MaxInt64/1000 {
		used, of = used/1000, of/1000
	}
	return used * 1000 / of
}

// normalize brings a part into 0 to 100 by the least and the most of all
// nodes; reversed if less is better. If all have the same, all get 100, or 0 if
// it is nothing that anyone asked for.
func normalize(all []candidate, kind part, reversed bool) {
	least, most := all[0].parts[kind], all[0].parts[kind]
	for i := range all {
		least, most = min(least, all[i].parts[kind]), max(most, all[i].parts[kind])
	}
	if reversed {
		least = 0 // a node with none is better than one with few
	}
	for i := range all {
		s := &all[i].parts[kind]
		switch {
		case most == least && reversed:
			*s = 100
		case most == least:
			*s = 0
		case reversed:
			*s = 100 - (*s-least)*100/(most-least)
		default:
			*s = (*s - least) * 100 / (most - least)
		}
	}
}

// nodePreference is the sum of the weights of the preferred terms that the
// node meets.
func nodePreference(s *corev1.PodSpec, n *corev1.Node) int64 {
	if s.Affinity == nil || s.Affinity.NodeAffinity == nil {
		return 0
	}
	var total int64
	preferred := s.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution
	for i := range preferred {
		if matchesTerm(&preferred[i].Preference, n) {
			total += int64(preferred[i].Weight)
		}
	}
	return total
}

const (
	smallImage = 23 << 20   // bytes; less is pulled in no time
	largeImage = 1000 << 20 // bytes per container; more makes no difference
)

// imageScore is how much of the pod's images the node has.
func imageScore(s *corev1.PodSpec, n *node) int64 {
	if len(n.images) == 0 {
		return 0
	}
	var bytes int64
	for i := range s.Containers {
		bytes += n.images[s.Containers[i].Image]
	}
	most := int64(largeImage) * int64(len(s.Containers))
	return (min(max(bytes, smallImage), most) - smallImage) * 100 / (most - smallImage)
}

// trace tells how the first of the nodes came to be chosen.
func (c *cluster) trace(top []candidate) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s of %d nodes, %d fit", top[0].name, len(c.nodes), len(c.feasible))
	for _, one := range top {
		fmt.Fprintf(&b, "; %s %d:", one.name, one.total)
		for kind, s := range scoring {
			fmt.Fprintf(&b, " %s %d", s.name, one.parts[kind])
		}
	}
	if len(c.rejected) > 0 {
		fmt.Fprintf(&b, "; not: %s", c.reasons())
	}
	return b.String()[:min(b.Len(), maxTrace)]
}
