package kinds

import (
	"maps"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validatePodUpdate checks an update of a pod: the new pod as such, and that
// no more has changed than may. Most updates are of the status: a spec that has
// not changed is as right as it was, and is not looked at again.
func validatePodUpdate(now, old *corev1.Pod) field.ErrorList {
	c := &podCheck{spec: &now.Spec, meta: &now.ObjectMeta, pod: true}
	c.add(validateMetaUpdate(now, old)...)
	c.metadata(now)
	if sameSpec(now, old) && maps.Equal(now.Annotations, old.Annotations) {
		return c.errs
	}
	c.podOnly(now)
	c.add(validatePodAnnotationUpdate(now, old, field.NewPath("metadata", "annotations"))...)
	if c.specChange(now, old) {
		c.specFrozen(now, old)
	}
	return c.errs
}

// validatePodAnnotationUpdate keeps the annotations that say how a pod was
// made.
func validatePodAnnotationUpdate(now, old *corev1.Pod, at *field.Path) field.ErrorList {
	c := &podCheck{spec: &now.Spec}
	fixed := func(k string) (string, bool) {
		if strings.HasPrefix(k, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix) {
			return "AppArmor annotations", true
		}
		return "mirror pod annotation", k == corev1.MirrorPodAnnotationKey
	}
	for _, k := range slices.Sorted(maps.Keys(old.Annotations)) {
		v, ok := now.Annotations[k]
		if what, is := fixed(k); is && (!ok || v != old.Annotations[k]) {
			c.forbidden(at.Key(k), "may not remove or update "+what)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(now.Annotations)) {
		_, ok := old.Annotations[k]
		if what, is := fixed(k); is && !ok {
			c.forbidden(at.Key(k), "may not add "+what)
		}
	}
	c.annotations(now.Annotations, at)
	return c.errs
}

// specChange checks the parts of a spec that may change within bounds. It
// returns false if what it found makes looking further pointless.
func (c *podCheck) specChange(now, old *corev1.Pod) bool {
	path := field.NewPath("spec")
	for _, l := range []struct {
		name     string
		now, old []corev1.Container
	}{{"containers", now.Spec.Containers, old.Spec.Containers}, {"initContainers", now.Spec.InitContainers, old.Spec.InitContainers}} {
		at := path.Child(l.name)
		if len(l.now) != len(l.old) {
			c.forbidden(at, "pod updates may not add or remove containers")
			return false
		}
		for i := range l.now {
			c.need(at.Index(i).Child("image"), l.now[i].Image)
			c.imageTrimmed(&l.now[i], at.Index(i))
		}
	}
	deadline := path.Child("activeDeadlineSeconds")
	switch n, o := now.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds; {
	case n == nil && o != nil:
		c.invalid(deadline, n, "must not update from a positive integer to nil value")
	case n == nil:
	case *n < 0 || *n > math.MaxInt32:
		c.invalid(deadline, *n, validation.InclusiveRangeError(0, math.MaxInt32))
		return false
	case o != nil && *o < *n:
		c.invalid(deadline, *n, "must be less than or equal to previous value")
		return false
	}
	c.tolerationsKept(now.Spec.Tolerations, old.Spec.Tolerations, path.Child("tolerations"))
	had := map[string]bool{}
	for _, g := range old.Spec.SchedulingGates {
		had[g.Name] = true
	}
	for i, g := range now.Spec.SchedulingGates {
		if !had[g.Name] {
			c.forbidden(path.Child("schedulingGates").Index(i).Child("name"), "only deletion is allowed, but found new scheduling gate '"+g.Name+"'")
			had[g.Name] = true
		}
	}
	return true
}

// tolerationsKept lets tolerations be added, and those there are last longer
// or shorter.
func (c *podCheck) tolerationsKept(now, old []corev1.Toleration, at *field.Path) {
	for _, o := range old {
		kept := slices.ContainsFunc(now, func(n corev1.Toleration) bool {
			n.TolerationSeconds = o.TolerationSeconds
			return n == o
		})
		if !kept {
			c.forbidden(at, "existing toleration can not be modified except its tolerationSeconds")
			return
		}
	}
	c.tolerations(now, at)
}

// specFrozen wants everything else to be as it was.
func (c *podCheck) specFrozen(now, old *corev1.Pod) {
	if sameSpec(now, old) {
		return
	}
	path := field.NewPath("spec")
	s := now.Spec.DeepCopy()
	for i := range s.Containers {
		s.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range s.InitContainers {
		s.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	s.ActiveDeadlineSeconds = old.Spec.ActiveDeadlineSeconds
	s.SchedulingGates = old.Spec.SchedulingGates
	s.Tolerations = old.Spec.Tolerations
	if g := old.Spec.TerminationGracePeriodSeconds; g != nil && *g < 0 && value(s.TerminationGracePeriodSeconds) == 1 {
		s.TerminationGracePeriodSeconds = g
	}
	if len(old.Spec.SchedulingGates) > 0 {
		c.gatedChange(s, &old.Spec, path)
	}
	if !apiequality.Semantic.DeepEqual(*s, old.Spec) {
		c.forbidden(path, "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"+
			"`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"+
			"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"+diff.Diff(old.Spec, *s))
	}
}

// gatedChange lets the demands on nodes of a pod that is not to be scheduled
// yet become stricter (KEP-3838), and takes what it allowed out of s.
func (c *podCheck) gatedChange(s, old *corev1.PodSpec, path *field.Path) {
	for _, k := range slices.Sorted(maps.Keys(old.NodeSelector)) {
		if v, ok := s.NodeSelector[k]; !ok || v != old.NodeSelector[k] {
			c.invalid(path.Child("nodeSelector"), s.NodeSelector, "only additions to spec.nodeSelector are allowed (no mutations or deletions)")
			break
		}
	}
	s.NodeSelector = old.NodeSelector
	nodes := func(s *corev1.PodSpec) *corev1.NodeAffinity {
		if s.Affinity == nil {
			return nil
		}
		return s.Affinity.NodeAffinity
	}
	now, before := nodes(s), nodes(old)
	if apiequality.Semantic.DeepEqual(now, before) {
		return
	}
	c.nodeAffinityGrown(now, before, path.Child("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"))
	switch {
	case s.Affinity == nil:
		s.Affinity = &corev1.Affinity{NodeAffinity: before}
	case old.Affinity == nil && s.Affinity.PodAffinity == nil && s.Affinity.PodAntiAffinity == nil:
		s.Affinity = nil
	default:
		s.Affinity.NodeAffinity = before
	}
}

func (c *podCheck) nodeAffinityGrown(now, old *corev1.NodeAffinity, at *field.Path) {
	terms := func(a *corev1.NodeAffinity) []corev1.NodeSelectorTerm {
		if a == nil || a.RequiredDuringSchedulingIgnoredDuringExecution == nil {
			return nil
		}
		return a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	is, was := terms(now), terms(old)
	if len(was) == 0 {
		return
	}
	if len(is) != len(was) {
		c.invalid(at, is, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")
		return
	}
	grown := func(is, was []corev1.NodeSelectorRequirement) bool {
		return len(is) >= len(was) && (len(was) == 0 || apiequality.Semantic.DeepEqual(is[:len(was)], was))
	}
	for i := range was {
		empty := len(was[i].MatchExpressions)+len(was[i].MatchFields) == 0 // matches no node
		more := len(is[i].MatchExpressions)+len(is[i].MatchFields) > 0
		if empty && more || !grown(is[i].MatchExpressions, was[i].MatchExpressions) || !grown(is[i].MatchFields, was[i].MatchFields) {
			c.invalid(at.Index(i), is[i], "only additions are allowed (no mutations or deletions)")
		}
	}
}
