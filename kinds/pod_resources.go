package kinds

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// podContainers returns every container of a pod spec, as pointers into it.
func podContainers(s *corev1.PodSpec) []*corev1.Container {
	all := make([]*corev1.Container, 0, len(s.InitContainers)+len(s.Containers)+len(s.EphemeralContainers))
	for i := range s.InitContainers {
		all = append(all, &s.InitContainers[i])
	}
	for i := range s.Containers {
		all = append(all, &s.Containers[i])
	}
	for i := range s.EphemeralContainers {
		all = append(all, (*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon))
	}
	return all
}

// dropGatedPodFields takes away the fields whose features Kubernetes 1.37 has
// turned off by default: it drops them, too.
func dropGatedPodFields(s *corev1.PodSpec) {
	s.SchedulingGroup, s.EvictionResponders = nil, nil
	for i := range s.Volumes {
		dropGatedVolumeFields(&s.Volumes[i].VolumeSource)
	}
	for _, c := range podContainers(s) {
		for i := range c.VolumeMounts {
			c.VolumeMounts[i].BindMountOptions = nil
		}
		for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
			if p == nil {
				continue
			}
			if p.HTTPGet != nil {
				p.HTTPGet.Protocol = nil
			}
			if p.GRPC != nil {
				p.GRPC.Mode = nil
			}
		}
		if c.Lifecycle == nil {
			continue
		}
		if c.Lifecycle.StopSignal != nil {
			c.Lifecycle.StopSignal = nil
			if *c.Lifecycle == (corev1.Lifecycle{}) {
				c.Lifecycle = nil
				continue
			}
		}
		for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil && h.HTTPGet != nil {
				h.HTTPGet.Protocol = nil
			}
		}
	}
}

// dropGatedVolumeFields takes away who owns a file in a volume, and the mode of
// an empty folder.
func dropGatedVolumeFields(v *corev1.VolumeSource) {
	keys := func(items []corev1.KeyToPath) {
		for i := range items {
			items[i].User = nil
		}
	}
	files := func(items []corev1.DownwardAPIVolumeFile) {
		for i := range items {
			items[i].User = nil
		}
	}
	if v.EmptyDir != nil {
		v.EmptyDir.Mode = nil
	}
	// A volume that wrongly has two sources loses what the first has: so it is
	// in Kubernetes, whose validation then speaks of the second.
	switch {
	case v.Secret != nil:
		v.Secret.DefaultUser = nil
		keys(v.Secret.Items)
	case v.ConfigMap != nil:
		v.ConfigMap.DefaultUser = nil
		keys(v.ConfigMap.Items)
	case v.DownwardAPI != nil:
		v.DownwardAPI.DefaultUser = nil
		files(v.DownwardAPI.Items)
	case v.Projected != nil:
		v.Projected.DefaultUser = nil
		for i := range v.Projected.Sources {
			switch s := &v.Projected.Sources[i]; {
			case s.Secret != nil:
				keys(s.Secret.Items)
			case s.DownwardAPI != nil:
				files(s.DownwardAPI.Items)
			case s.ConfigMap != nil:
				keys(s.ConfigMap.Items)
			case s.ServiceAccountToken != nil:
				s.ServiceAccountToken.User = nil
			case s.ClusterTrustBundle != nil:
				s.ClusterTrustBundle.User = nil
			case s.PodCertificate != nil:
				s.PodCertificate.User = nil
			}
		}
	}
}

// podQOS is the quality of service that a pod's resources give it:
// BestEffort if it asks for nothing, Guaranteed if all its containers are
// limited to exactly what they ask for, Burstable between.
func podQOS(s *corev1.PodSpec) corev1.PodQOSClass {
	if podLevelResourcesSet(s.Resources) {
		return requirementsQOS(s.Resources)
	}
	var class corev1.PodQOSClass
	for _, containers := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for i := range containers {
			one := requirementsQOS(&containers[i].Resources)
			if class != "" && class != one {
				return corev1.PodQOSBurstable
			}
			class = one
		}
	}
	return or(class, corev1.PodQOSBestEffort)
}

func requirementsQOS(r *corev1.ResourceRequirements) corev1.PodQOSClass {
	cpu, memory := resourceQOS(r, corev1.ResourceCPU), resourceQOS(r, corev1.ResourceMemory)
	if cpu != memory {
		return corev1.PodQOSBurstable
	}
	return cpu
}

func resourceQOS(r *corev1.ResourceRequirements, name corev1.ResourceName) corev1.PodQOSClass {
	request, limit := r.Requests[name], r.Limits[name]
	switch {
	case !request.Equal(limit):
		return corev1.PodQOSBurstable
	case request.IsZero():
		return corev1.PodQOSBestEffort
	}
	return corev1.PodQOSGuaranteed
}

// podLevelResource tells whether a resource may be given to a pod as a whole
// (KEP-2837).
func podLevelResource(name corev1.ResourceName) bool {
	return name == corev1.ResourceCPU || name == corev1.ResourceMemory || hugePages(name)
}

func podLevelResourcesSet(r *corev1.ResourceRequirements) bool {
	if r == nil {
		return false
	}
	for _, list := range []corev1.ResourceList{r.Requests, r.Limits} {
		for name := range list {
			if podLevelResource(name) {
				return true
			}
		}
	}
	return false
}

func hugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// nativeResource tells whether a resource is Kubernetes' own.
func nativeResource(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// overcommittable tells whether limits of a resource may exceed requests.
func overcommittable(name corev1.ResourceName) bool { return nativeResource(name) && !hugePages(name) }

// podUses is what a pod needs at its peak of what each container's resources
// say by the given part: its containers and sidecars together, or during its
// start one init container beside the sidecars before it (KEP-753).
func podUses(s *corev1.PodSpec, part func(*corev1.ResourceRequirements) corev1.ResourceList) corev1.ResourceList {
	total, sidecars, peak := corev1.ResourceList{}, corev1.ResourceList{}, corev1.ResourceList{}
	for i := range s.Containers {
		addResources(total, part(&s.Containers[i].Resources))
	}
	for i := range s.InitContainers {
		c := &s.InitContainers[i]
		uses := part(&c.Resources)
		if isSidecar(c) {
			addResources(total, uses)
			addResources(sidecars, uses)
			raiseResources(peak, sidecars)
			continue
		}
		beside := sidecars.DeepCopy()
		addResources(beside, uses)
		raiseResources(peak, beside)
	}
	raiseResources(total, peak)
	return total
}

func containerRequests(r *corev1.ResourceRequirements) corev1.ResourceList { return r.Requests }
func containerLimits(r *corev1.ResourceRequirements) corev1.ResourceList   { return r.Limits }

func addResources(to, more corev1.ResourceList) {
	for name, q := range more {
		sum, ok := to[name]
		if !ok {
			to[name] = q.DeepCopy()
			continue
		}
		sum.Add(q)
		to[name] = sum
	}
}

func raiseResources(to, atLeast corev1.ResourceList) {
	for name, q := range atLeast {
		if have, ok := to[name]; !ok || q.Cmp(have) > 0 {
			to[name] = q.DeepCopy()
		}
	}
}

// defaultPodLevelResources completes resources that were given to the pod as a
// whole from those of its containers (KEP-2837).
func defaultPodLevelResources(s *corev1.PodSpec) {
	r := s.Resources
	if r == nil || len(r.Requests)+len(r.Limits) == 0 {
		return
	}
	requests, limits := podUses(s, containerRequests), podUses(s, containerLimits)
	put := func(to *corev1.ResourceList, name corev1.ResourceName, q resource.Quantity) {
		if *to == nil {
			*to = corev1.ResourceList{}
		}
		if _, ok := (*to)[name]; !ok {
			(*to)[name] = q.DeepCopy()
		}
	}
	for name, q := range limits {
		if _, asked := r.Requests[name]; hugePages(name) && !asked {
			put(&r.Limits, name, q)
		}
	}
	for name, q := range requests {
		if podLevelResource(name) && overcommittable(name) {
			put(&r.Requests, name, q)
		}
	}
	for name, q := range r.Limits {
		if podLevelResource(name) {
			put(&r.Requests, name, q)
		}
	}
	for name, request := range r.Requests {
		limit, ok := limits[name]
		if !ok || !podLevelResource(name) || !allContainersLimit(s, name) {
			continue
		}
		if request.Cmp(limit) > 0 {
			limit = request
		}
		put(&r.Limits, name, limit)
	}
}

func allContainersLimit(s *corev1.PodSpec, name corev1.ResourceName) bool {
	for _, c := range podContainers(s) {
		if _, ok := c.Resources.Limits[name]; !ok {
			return false
		}
	}
	return true
}
