package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// amounts are quantities of resources in integers: cpu in thousandths of a
// core, memory and storage in bytes, all others in their own units.
type amounts struct {
	cpu, memory, storage int64
	other                map[corev1.ResourceName]int64 // nil if none
}

// The resources that a pod without a request counts for in the scores, so that
// such pods are spread, too.
const (
	assumedCPU    = 100       // thousandths of a core, per container
	assumedMemory = 200 << 20 // bytes, per container
)

func quantity(name corev1.ResourceName, q resource.Quantity) int64 {
	if name == corev1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

func amountsOf(list corev1.ResourceList) amounts {
	var a amounts
	for name, q := range list { // in no order: each goes to its own place
		switch n := quantity(name, q); name {
		case corev1.ResourceCPU:
			a.cpu = n
		case corev1.ResourceMemory:
			a.memory = n
		case corev1.ResourceEphemeralStorage:
			a.storage = n
		case corev1.ResourcePods: // counted apart
		default:
			if a.other == nil {
				a.other = map[corev1.ResourceName]int64{}
			}
			a.other[name] = n
		}
	}
	return a
}

// add makes a the sum of both. b stays as it is.
func (a *amounts) add(b amounts) {
	a.cpu += b.cpu
	a.memory += b.memory
	a.storage += b.storage
	for name, n := range b.other { // in no order: each goes to its own place
		if a.other == nil {
			a.other = map[corev1.ResourceName]int64{}
		}
		a.other[name] += n
	}
}

// atLeast makes a the greater of both, resource by resource.
func (a *amounts) atLeast(b amounts) {
	a.cpu = max(a.cpu, b.cpu)
	a.memory = max(a.memory, b.memory)
	a.storage = max(a.storage, b.storage)
	for name, n := range b.other { // in no order: each goes to its own place
		if a.other == nil {
			a.other = map[corev1.ResourceName]int64{}
		}
		a.other[name] = max(a.other[name], n)
	}
}

// requestOf is what a pod takes of a node: the sum of its containers or, if
// more, what its init containers need while they run; sidecars (init
// containers that keep running, https://kep.k8s.io/753) count with both. What
// is asked for at the level of the pod (https://kep.k8s.io/2837) stands above
// the sum, and the overhead comes on top.
func requestOf(s *corev1.PodSpec) amounts {
	return sumUp(s, func(c *corev1.Container) amounts { return amountsOf(c.Resources.Requests) })
}

// weightOf is what a pod counts for in the scores.
func weightOf(s *corev1.PodSpec) amounts {
	return sumUp(s, func(c *corev1.Container) amounts {
		a := amounts{cpu: assumedCPU, memory: assumedMemory}
		if q, ok := c.Resources.Requests[corev1.ResourceCPU]; ok {
			a.cpu = q.MilliValue()
		}
		if q, ok := c.Resources.Requests[corev1.ResourceMemory]; ok {
			a.memory = q.Value()
		}
		return a
	})
}

func sumUp(s *corev1.PodSpec, of func(*corev1.Container) amounts) amounts {
	var total, sidecars, starting amounts
	for i := range s.Containers {
		total.add(of(&s.Containers[i]))
	}
	for i := range s.InitContainers {
		c := &s.InitContainers[i]
		a := of(c)
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			sidecars.add(a)
			total.add(a)
			a = amounts{}
		}
		a.add(sidecars)
		starting.atLeast(a)
	}
	total.atLeast(starting)
	if s.Resources != nil {
		for name, q := range s.Resources.Requests { // in no order: each goes to its own place
			switch n := quantity(name, q); name {
			case corev1.ResourceCPU:
				total.cpu = n
			case corev1.ResourceMemory:
				total.memory = n
			default:
				if total.other == nil {
					total.other = map[corev1.ResourceName]int64{}
				}
				total.other[name] = n
			}
		}
	}
	if s.Overhead != nil {
		total.add(amountsOf(s.Overhead))
	}
	return total
}
