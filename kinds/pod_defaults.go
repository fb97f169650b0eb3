package kinds

import (
	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
)

// What Kubernetes fills in where a pod's author said nothing.
const (
	defaultFileMode        int32 = 0o644
	defaultTokenSeconds    int64 = 60 * 60 // lifetime of a projected token
	defaultProbeTimeout    int32 = 1       // seconds
	defaultProbePeriod     int32 = 10      // seconds
	defaultProbeSuccesses  int32 = 1
	defaultProbeFailures   int32 = 3
	defaultTerminationFile       = corev1.TerminationMessagePathDefault
)

// or returns v, or for the zero value the default.
func or[V comparable](v, otherwise V) V {
	var zero V
	if v == zero {
		return otherwise
	}
	return v
}

// orTo returns p, or for nil a pointer to the default.
func orTo[V any](p *V, otherwise V) *V {
	if p == nil {
		return &otherwise
	}
	return p
}

// defaultPod fills in a pod: what every pod spec gets, and what a pod gets
// that a template does not.
func defaultPod(p *corev1.Pod) {
	s := &p.Spec
	if g := s.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		s.TerminationGracePeriodSeconds = pointer[int64](1)
	}
	for _, containers := range [][]corev1.Container{s.Containers, s.InitContainers} {
		for i := range containers {
			requestsFromLimits(&containers[i].Resources)
		}
	}
	s.EnableServiceLinks = orTo(s.EnableServiceLinks, corev1.DefaultEnableServiceLinks)
	if s.HostNetwork {
		for _, containers := range [][]corev1.Container{s.Containers, s.InitContainers} {
			for i := range containers {
				for j := range containers[i].Ports {
					port := &containers[i].Ports[j]
					port.HostPort = or(port.HostPort, port.ContainerPort)
				}
			}
		}
	}
	defaultPodSpec(s)
	defaultPodStatus(&p.Status)
}

// requestsFromLimits asks for what a container is limited to, where it does
// not say what it asks for.
func requestsFromLimits(r *corev1.ResourceRequirements) {
	if r.Limits == nil {
		return
	}
	if r.Requests == nil {
		r.Requests = corev1.ResourceList{}
	}
	for name, limit := range r.Limits {
		if _, ok := r.Requests[name]; !ok {
			r.Requests[name] = limit.DeepCopy()
		}
	}
}

// defaultPodStatus keeps the one address and the list of addresses in step;
// where they differ the one is right, as old node agents write only that.
func defaultPodStatus(s *corev1.PodStatus) {
	switch {
	case s.PodIP == "" && len(s.PodIPs) > 0:
		s.PodIP = s.PodIPs[0].IP
	case s.PodIP != "" && (len(s.PodIPs) == 0 || s.PodIPs[0].IP != s.PodIP):
		s.PodIPs = []corev1.PodIP{{IP: s.PodIP}}
	}
	for _, statuses := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range statuses {
			roundUp(statuses[i].AllocatedResources)
			if r := statuses[i].Resources; r != nil {
				roundUp(r.Limits)
				roundUp(r.Requests)
			}
		}
	}
	roundUp(s.AllocatedResources)
	if s.Resources != nil {
		roundUp(s.Resources.Limits)
		roundUp(s.Resources.Requests)
	}
}

// roundUp brings quantities to thousandths, the finest that the API keeps.
func roundUp(list corev1.ResourceList) {
	const milli = -3
	for name, q := range list {
		q.RoundUp(milli)
		list[name] = q
	}
}

// defaultPodSpec fills in what every pod spec gets, in a pod or a template.
func defaultPodSpec(s *corev1.PodSpec) {
	s.ServiceAccountName = or(s.ServiceAccountName, s.DeprecatedServiceAccount)
	s.DeprecatedServiceAccount = s.ServiceAccountName
	s.DNSPolicy = or(s.DNSPolicy, corev1.DNSClusterFirst)
	s.RestartPolicy = or(s.RestartPolicy, corev1.RestartPolicyAlways)
	s.SecurityContext = orTo(s.SecurityContext, corev1.PodSecurityContext{})
	s.TerminationGracePeriodSeconds = orTo(s.TerminationGracePeriodSeconds, int64(corev1.DefaultTerminationGracePeriodSeconds))
	s.SchedulerName = or(s.SchedulerName, corev1.DefaultSchedulerName)
	for i := range s.Volumes {
		defaultVolume(&s.Volumes[i].VolumeSource)
	}
	for i := range s.InitContainers {
		defaultContainer(&s.InitContainers[i])
	}
	for i := range s.Containers {
		defaultContainer(&s.Containers[i])
	}
	for i := range s.EphemeralContainers {
		defaultContainer((*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon))
	}
	roundUp(s.Overhead)
	if s.Resources != nil {
		roundUp(s.Resources.Limits)
		roundUp(s.Resources.Requests)
	}
}

// defaultPullPolicy is Always for an image whose tag is latest, said or
// implied; for one that is pinned, or that does not parse, IfNotPresent.
func defaultPullPolicy(image string) corev1.PullPolicy {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return corev1.PullIfNotPresent
	}
	if tagged, ok := named.(reference.Tagged); ok {
		if tagged.Tag() == "latest" {
			return corev1.PullAlways
		}
		return corev1.PullIfNotPresent
	}
	if _, ok := named.(reference.Digested); ok {
		return corev1.PullIfNotPresent
	}
	return corev1.PullAlways
}

func defaultContainer(c *corev1.Container) {
	if c.ImagePullPolicy == "" {
		c.ImagePullPolicy = defaultPullPolicy(c.Image)
	}
	c.TerminationMessagePath = or(c.TerminationMessagePath, defaultTerminationFile)
	c.TerminationMessagePolicy = or(c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		c.Ports[i].Protocol = or(c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		from := c.Env[i].ValueFrom
		if from == nil {
			continue
		}
		defaultFieldRef(from.FieldRef)
		if from.FileKeyRef != nil {
			from.FileKeyRef.Optional = orTo(from.FileKeyRef.Optional, false)
		}
	}
	roundUp(c.Resources.Limits)
	roundUp(c.Resources.Requests)
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		defaultProbe(p)
	}
	if c.Lifecycle != nil {
		for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil {
				defaultHTTPGet(h.HTTPGet)
			}
		}
	}
}

func defaultProbe(p *corev1.Probe) {
	if p == nil {
		return
	}
	p.TimeoutSeconds = or(p.TimeoutSeconds, defaultProbeTimeout)
	p.PeriodSeconds = or(p.PeriodSeconds, defaultProbePeriod)
	p.SuccessThreshold = or(p.SuccessThreshold, defaultProbeSuccesses)
	p.FailureThreshold = or(p.FailureThreshold, defaultProbeFailures)
	defaultHTTPGet(p.HTTPGet)
	if p.GRPC != nil {
		p.GRPC.Service = orTo(p.GRPC.Service, "")
	}
}

func defaultHTTPGet(h *corev1.HTTPGetAction) {
	if h != nil {
		h.Path = or(h.Path, "/")
		h.Scheme = or(h.Scheme, corev1.URISchemeHTTP)
	}
}

func defaultFieldRef(r *corev1.ObjectFieldSelector) {
	if r != nil {
		r.APIVersion = or(r.APIVersion, "v1")
	}
}

// defaultVolume fills in a volume. One without any source is an empty folder.
func defaultVolume(v *corev1.VolumeSource) {
	if *v == (corev1.VolumeSource{}) {
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	if v.Image != nil && v.Image.PullPolicy == "" {
		v.Image.PullPolicy = defaultPullPolicy(v.Image.Reference)
	}
	if v.HostPath != nil {
		v.HostPath.Type = orTo(v.HostPath.Type, corev1.HostPathUnset)
	}
	if v.Secret != nil {
		v.Secret.DefaultMode = orTo(v.Secret.DefaultMode, defaultFileMode)
	}
	if v.ConfigMap != nil {
		v.ConfigMap.DefaultMode = orTo(v.ConfigMap.DefaultMode, defaultFileMode)
	}
	if v.DownwardAPI != nil {
		v.DownwardAPI.DefaultMode = orTo(v.DownwardAPI.DefaultMode, defaultFileMode)
		defaultDownwardFiles(v.DownwardAPI.Items)
	}
	if v.Projected != nil {
		v.Projected.DefaultMode = orTo(v.Projected.DefaultMode, defaultFileMode)
		for i := range v.Projected.Sources {
			source := &v.Projected.Sources[i]
			if source.DownwardAPI != nil {
				defaultDownwardFiles(source.DownwardAPI.Items)
			}
			if t := source.ServiceAccountToken; t != nil {
				t.ExpirationSeconds = orTo(t.ExpirationSeconds, defaultTokenSeconds)
			}
		}
	}
	if v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil {
		claim := &v.Ephemeral.VolumeClaimTemplate.Spec
		claim.VolumeMode = orTo(claim.VolumeMode, corev1.PersistentVolumeFilesystem)
		roundUp(claim.Resources.Limits)
		roundUp(claim.Resources.Requests)
	}
	defaultForeignVolume(v)
}

// defaultForeignVolume fills in sources that other systems serve.
func defaultForeignVolume(v *corev1.VolumeSource) {
	if v.ISCSI != nil {
		v.ISCSI.ISCSIInterface = or(v.ISCSI.ISCSIInterface, "default")
	}
	if v.RBD != nil {
		v.RBD.RBDPool = or(v.RBD.RBDPool, "rbd")
		v.RBD.RadosUser = or(v.RBD.RadosUser, "admin")
		v.RBD.Keyring = or(v.RBD.Keyring, "/etc/ceph/keyring")
	}
	if v.AzureDisk != nil {
		v.AzureDisk.CachingMode = orTo(v.AzureDisk.CachingMode, corev1.AzureDataDiskCachingReadWrite)
		v.AzureDisk.FSType = orTo(v.AzureDisk.FSType, "ext4")
		v.AzureDisk.ReadOnly = orTo(v.AzureDisk.ReadOnly, false)
		v.AzureDisk.Kind = orTo(v.AzureDisk.Kind, corev1.AzureSharedBlobDisk)
	}
	if v.ScaleIO != nil {
		v.ScaleIO.StorageMode = or(v.ScaleIO.StorageMode, "ThinProvisioned")
		v.ScaleIO.FSType = or(v.ScaleIO.FSType, "xfs")
	}
}

func defaultDownwardFiles(files []corev1.DownwardAPIVolumeFile) {
	for i := range files {
		defaultFieldRef(files[i].FieldRef)
	}
}
