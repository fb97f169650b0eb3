package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// matchesNode tells whether the node has what the pod's node selector and
// required node affinity ask for.
func matchesNode(s *corev1.PodSpec, n *corev1.Node) bool {
	for k, v := range s.NodeSelector { // in no order: all must match
		if have, ok := n.Labels[k]; !ok || have != v {
			return false
		}
	}
	if s.Affinity == nil || s.Affinity.NodeAffinity == nil {
		return true
	}
	required := s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	return required == nil || slices.ContainsFunc(required.NodeSelectorTerms, func(t corev1.NodeSelectorTerm) bool {
		return matchesTerm(&t, n)
	})
}

// matchesTerm tells whether a node meets all requirements of a term. A term
// without any is met by none.
func matchesTerm(t *corev1.NodeSelectorTerm, n *corev1.Node) bool {
	if len(t.MatchExpressions)+len(t.MatchFields) == 0 {
		return false
	}
	for i := range t.MatchExpressions {
		value, ok := n.Labels[t.MatchExpressions[i].Key]
		if !meets(&t.MatchExpressions[i], value, ok) {
			return false
		}
	}
	for i := range t.MatchFields {
		// metadata.name is the only field that may be named.
		if t.MatchFields[i].Key != "metadata.name" || !meets(&t.MatchFields[i], n.Name, true) {
			return false
		}
	}
	return true
}

func meets(r *corev1.NodeSelectorRequirement, value string, has bool) bool {
	switch r.Operator {
	case corev1.NodeSelectorOpIn:
		return has && slices.Contains(r.Values, value)
	case corev1.NodeSelectorOpNotIn:
		return !has || !slices.Contains(r.Values, value)
	case corev1.NodeSelectorOpExists:
		return has
	case corev1.NodeSelectorOpDoesNotExist:
		return !has
	case corev1.NodeSelectorOpGt:
		return has && len(r.Values) == 1 && compareIntegers(value, r.Values[0], true)
	case corev1.NodeSelectorOpLt:
		return has && len(r.Values) == 1 && compareIntegers(value, r.Values[0], false)
	}
	return false
}
