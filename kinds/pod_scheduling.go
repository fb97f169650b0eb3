package kinds

import (
	"encoding/json"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// scheduling checks what a pod says of where it may run.
func (c *podCheck) scheduling(path *field.Path) {
	s := c.spec
	c.labels(path.Child("nodeSelector"), s.NodeSelector)
	c.affinity(path.Child("affinity"))
	seen := map[string]bool{}
	for i, g := range s.SchedulingGates {
		at := path.Child("schedulingGates").Index(i)
		c.messages(at, g.Name, validation.IsQualifiedName(g.Name))
		if seen[g.Name] {
			c.duplicate(at, g.Name)
		}
		seen[g.Name] = true
	}
	c.tolerations(s.Tolerations, path.Child("tolerations"))
	for i := range s.TopologySpreadConstraints {
		c.spread(i, path.Child("topologySpreadConstraints").Index(i))
	}
}

func (c *podCheck) labelName(name string, at *field.Path) {
	c.add(metav1validation.ValidateLabelName(name, at)...)
}

func (c *podCheck) affinity(at *field.Path) {
	a := c.spec.Affinity
	if a == nil {
		return
	}
	const required, preferred = "requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"
	if n := a.NodeAffinity; n != nil {
		at := at.Child("nodeAffinity")
		if r := n.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
			terms := at.Child(required, "nodeSelectorTerms")
			if len(r.NodeSelectorTerms) == 0 {
				c.required(terms, "must have at least one node selector term")
			}
			for i := range r.NodeSelectorTerms {
				c.nodeTerm(&r.NodeSelectorTerms[i], true, terms.Index(i))
			}
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			term, at := &n.PreferredDuringSchedulingIgnoredDuringExecution[i], at.Child(preferred).Index(i)
			c.weight(term.Weight, at)
			c.nodeTerm(&term.Preference, false, at.Child("preference"))
		}
	}
	pods := func(name string, must []corev1.PodAffinityTerm, should []corev1.WeightedPodAffinityTerm) {
		for i := range must {
			c.podTerm(&must[i], at.Child(name, required).Index(i))
		}
		for i := range should {
			at := at.Child(name, preferred).Index(i)
			c.weight(should[i].Weight, at)
			c.podTerm(&should[i].PodAffinityTerm, at.Child("podAffinityTerm"))
		}
	}
	if p := a.PodAffinity; p != nil {
		pods("podAffinity", p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		pods("podAntiAffinity", p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

func (c *podCheck) weight(w int32, at *field.Path) {
	if w < 1 || w > 100 {
		c.invalid(at.Child("weight"), w, "must be in the range 1-100")
	}
}

// nodeTerm checks what is asked of a node. strict: of its label values, too.
func (c *podCheck) nodeTerm(t *corev1.NodeSelectorTerm, strict bool, at *field.Path) {
	for i, r := range t.MatchExpressions {
		at := at.Child("matchExpressions").Index(i)
		values := at.Child("values")
		switch r.Operator {
		case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
			if len(r.Values) == 0 {
				c.required(values, "must be specified when `operator` is 'In' or 'NotIn'")
			}
		case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
			if len(r.Values) > 0 {
				c.forbidden(values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
			}
		case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
			if len(r.Values) != 1 {
				c.required(values, "must be specified single value when `operator` is 'Lt' or 'Gt'")
			}
		default:
			c.invalid(at.Child("operator"), r.Operator, "not a valid selector operator")
		}
		c.labelName(r.Key, at.Child("key"))
		if strict {
			for j, v := range r.Values {
				c.messages(values.Index(j), v, validation.IsValidLabelValue(v))
			}
		}
	}
	for i, r := range t.MatchFields {
		at := at.Child("matchFields").Index(i)
		if r.Operator != corev1.NodeSelectorOpIn && r.Operator != corev1.NodeSelectorOpNotIn {
			c.invalid(at.Child("operator"), r.Operator, "not a valid selector operator")
		} else if len(r.Values) != 1 {
			c.required(at.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector")
		}
		if r.Key != metav1.ObjectNameField {
			c.invalid(at.Child("key"), r.Key, "not a valid field selector key")
			continue
		}
		for j, v := range r.Values {
			c.objectName(at.Child("values").Index(j), v)
		}
	}
}

func (c *podCheck) podTerm(t *corev1.PodAffinityTerm, at *field.Path) {
	c.selector(t.LabelSelector, at.Child("labelSelector"))
	c.selector(t.NamespaceSelector, at.Child("namespaceSelector"))
	for _, ns := range t.Namespaces {
		c.messages(at.Child("namespace"), ns, apivalidation.ValidateNamespaceName(ns, false))
	}
	c.matchLabelKeys(t.MatchLabelKeys, t.MismatchLabelKeys, t.LabelSelector, at)
	if t.TopologyKey == "" {
		c.required(at.Child("topologyKey"), "can not be empty")
	}
	c.labelName(t.TopologyKey, at.Child("topologyKey"))
}

// matchLabelKeys checks keys whose values come from the pod's own labels
// (KEP-3633). When it is called the selector has them already: so once is
// right, and twice means that the author named the key, too.
func (c *podCheck) matchLabelKeys(match, mismatch []string, s *metav1.LabelSelector, at *field.Path) {
	for _, list := range []struct {
		name string
		keys []string
	}{{"matchLabelKeys", match}, {"mismatchLabelKeys", mismatch}} {
		if len(list.keys) > 0 && s == nil {
			c.forbidden(at.Child(list.name), "must not be specified when labelSelector is not set")
			continue
		}
		for i, k := range list.keys {
			c.labelName(k, at.Child(list.name).Index(i))
		}
	}
	if s != nil {
		index, named := map[string]int{}, map[string]bool{}
		for i, k := range match {
			index[k] = i
		}
		for k := range s.MatchLabels {
			named[k] = true
		}
		for _, e := range s.MatchExpressions {
			if i, ok := index[e.Key]; ok && named[e.Key] {
				c.invalid(at.Index(i), e.Key, "exists in both matchLabelKeys and labelSelector")
			}
			named[e.Key] = true
		}
	}
	unwanted := map[string]bool{}
	for _, k := range mismatch {
		unwanted[k] = true
	}
	for i, k := range match {
		if unwanted[k] {
			c.invalid(at.Child("matchLabelKeys").Index(i), k, "exists in both matchLabelKeys and mismatchLabelKeys")
		}
	}
}

// applyMatchLabelKeys puts the values of the pod's own labels into the
// selectors that name their keys.
func applyMatchLabelKeys(p *corev1.Pod) {
	apply := func(s *metav1.LabelSelector, keys []string, op metav1.LabelSelectorOperator) {
		if s == nil {
			return
		}
		for _, k := range keys {
			if v, ok := p.Labels[k]; ok {
				s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: k, Operator: op, Values: []string{v}})
			}
		}
	}
	term := func(t *corev1.PodAffinityTerm) {
		apply(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn)
		apply(t.LabelSelector, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)
	}
	terms := func(must []corev1.PodAffinityTerm, should []corev1.WeightedPodAffinityTerm) {
		for i := range should {
			term(&should[i].PodAffinityTerm)
		}
		for i := range must {
			term(&must[i])
		}
	}
	if a := p.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			terms(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		}
		if a.PodAntiAffinity != nil {
			terms(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		}
	}
	for i := range p.Spec.TopologySpreadConstraints {
		t := &p.Spec.TopologySpreadConstraints[i]
		apply(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn)
	}
}

// spread checks a rule of spreading over domains, such as zones (KEP-895).
func (c *podCheck) spread(i int, at *field.Path) {
	t := &c.spec.TopologySpreadConstraints[i]
	if t.MaxSkew <= 0 {
		c.invalid(at.Child("maxSkew"), t.MaxSkew, "must be greater than zero")
	}
	if t.TopologyKey == "" {
		c.required(at.Child("topologyKey"), "can not be empty")
	}
	among(c, at.Child("whenUnsatisfiable"), t.WhenUnsatisfiable, corev1.DoNotSchedule, corev1.ScheduleAnyway)
	for _, later := range c.spec.TopologySpreadConstraints[i+1:] {
		if t.TopologyKey == later.TopologyKey && t.WhenUnsatisfiable == later.WhenUnsatisfiable {
			c.duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), fmt.Sprintf("{%v, %v}", t.TopologyKey, t.WhenUnsatisfiable))
			break
		}
	}
	if m := t.MinDomains; m != nil {
		if *m <= 0 {
			c.invalid(at.Child("minDomains"), *m, "must be greater than zero")
		}
		if t.WhenUnsatisfiable != corev1.DoNotSchedule {
			c.invalid(at.Child("minDomains"), *m, "can only use minDomains if whenUnsatisfiable=DoNotSchedule")
		}
	}
	for _, p := range []struct {
		name   string
		policy *corev1.NodeInclusionPolicy
	}{{"nodeAffinityPolicy", t.NodeAffinityPolicy}, {"nodeTaintsPolicy", t.NodeTaintsPolicy}} {
		if p.policy != nil {
			among(c, at.Child(p.name), *p.policy, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
		}
	}
	c.matchLabelKeys(t.MatchLabelKeys, nil, t.LabelSelector, at)
	c.selector(t.LabelSelector, at.Child("labelSelector"))
}

// tolerations checks which taints a pod puts up with.
func (c *podCheck) tolerations(list []corev1.Toleration, path *field.Path) {
	for i, t := range list {
		at := path.Index(i)
		if t.Key != "" {
			c.labelName(t.Key, at.Child("key"))
		} else if t.Operator != corev1.TolerationOpExists {
			c.invalid(at.Child("operator"), t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\"")
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			c.invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			if messages := validation.IsValidLabelValue(t.Value); len(messages) > 0 {
				c.invalid(at.Child("operator"), t.Value, messages[0])
			}
		case corev1.TolerationOpExists:
			if t.Value != "" {
				c.invalid(at.Child("operator"), t.Value, "value must be empty when `operator` is 'Exists'")
			}
		default:
			among(c, at.Child("operator"), t.Operator, corev1.TolerationOpEqual, corev1.TolerationOpExists)
		}
		if t.Effect != "" {
			among(c, at.Child("effect"), t.Effect, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
		}
	}
}

// annotatedTolerations checks the annotation in which tolerations once stood.
func (c *podCheck) annotatedTolerations(set map[string]string, at *field.Path) {
	text := set[corev1.TolerationsAnnotationKey]
	if text == "" {
		return
	}
	var list []corev1.Toleration
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		c.invalid(at, corev1.TolerationsAnnotationKey, err.Error())
		return
	}
	c.tolerations(list, at.Child(corev1.TolerationsAnnotationKey))
}

// validDeletionCost wants a whole number of 32 bits, written without "+" and
// leading zeros.
func validDeletionCost(v string) bool {
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil {
		return false
	}
	return v[0] == '-' || strconv.FormatInt(n, 10) == v
}
