package nodeagent

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
)

// AdmitPod is the node's own judgement of a pod that was bound to it: the
// safety behind the scheduler, who may have decided on an older view, or may be
// two. others are the pods that hold what they asked for. Pure; nil means yes.
func AdmitPod(node *corev1.Node, others []*corev1.Pod, p *corev1.Pod) *Verdict {
	if node == nil {
		return nil
	}
	if p.Spec.NodeSelector != nil && !labels.SelectorFromSet(p.Spec.NodeSelector).Matches(labels.Set(node.Labels)) {
		return &Verdict{"NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}
	}
	if port, taken := portTaken(others, p); taken {
		return &Verdict{"NodePorts", fmt.Sprintf("Predicate NodePorts failed: host port %d is in use", port)}
	}
	if limit, ok := node.Status.Allocatable[corev1.ResourcePods]; ok && int64(len(others)+1) > limit.Value() {
		return tooMuch(corev1.ResourcePods, 1, int64(len(others)), limit.Value())
	}
	asked := Requests(p)
	for _, name := range slices.Sorted(keys(asked)) {
		q := asked[name]
		limit, ok := node.Status.Allocatable[name]
		if !ok && name != corev1.ResourceCPU && name != corev1.ResourceMemory && name != corev1.ResourceEphemeralStorage {
			continue
		}
		var used resource.Quantity
		for _, o := range others {
			used.Add(Requests(o)[name])
		}
		want, have, all := amount(name, q), amount(name, used), amount(name, limit)
		if want > 0 && have+want > all {
			return tooMuch(name, want, have, all)
		}
	}
	return nil
}

func keys(l corev1.ResourceList) func(func(corev1.ResourceName) bool) {
	return func(yield func(corev1.ResourceName) bool) {
		for k := range l {
			if !yield(k) {
				return
			}
		}
	}
}

func amount(name corev1.ResourceName, q resource.Quantity) int64 {
	if name == corev1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

func tooMuch(name corev1.ResourceName, want, used, capacity int64) *Verdict {
	return &Verdict{"OutOf" + string(name),
		fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, want, used, capacity)}
}

// Requests is what a pod takes of its node: its containers and sidecars
// together, or the largest init container with the sidecars before it.
func Requests(p *corev1.Pod) corev1.ResourceList {
	total, beside, peak := corev1.ResourceList{}, corev1.ResourceList{}, corev1.ResourceList{}
	for i := range p.Spec.Containers {
		plus(total, p.Spec.Containers[i].Resources.Requests)
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if sidecar(c) {
			plus(total, c.Resources.Requests)
			plus(beside, c.Resources.Requests)
			most(peak, beside)
			continue
		}
		alone := corev1.ResourceList{}
		plus(alone, beside)
		plus(alone, c.Resources.Requests)
		most(peak, alone)
	}
	most(total, peak)
	if r := p.Spec.Resources; r != nil {
		for name, q := range r.Requests {
			total[name] = q
		}
	}
	plus(total, p.Spec.Overhead)
	return total
}

func plus(to, more corev1.ResourceList) {
	for name, q := range more {
		sum := to[name]
		sum.Add(q)
		to[name] = sum
	}
}

func most(to, other corev1.ResourceList) {
	for name, q := range other {
		if have := to[name]; have.Cmp(q) < 0 {
			to[name] = q
		}
	}
}

// portTaken finds a host port of the pod that another pod has.
func portTaken(others []*corev1.Pod, p *corev1.Pod) (int32, bool) {
	for _, want := range hostPorts(p) {
		for _, o := range others {
			for _, have := range hostPorts(o) {
				if want.HostPort == have.HostPort && want.Protocol == have.Protocol &&
					(anyIP(want.HostIP) || anyIP(have.HostIP) || want.HostIP == have.HostIP) {
					return want.HostPort, true
				}
			}
		}
	}
	return 0, false
}

func anyIP(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }

func hostPorts(p *corev1.Pod) []corev1.ContainerPort {
	var out []corev1.ContainerPort
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if c := &list[i]; len(c.Ports) > 0 {
				for _, port := range c.Ports {
					if port.HostPort > 0 {
						out = append(out, port)
					}
				}
			}
		}
	}
	return out
}
