package nodeagent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/services/nodeagent/podspec"
	"github.com/rutterhq/rutter/services/nodeagent/runtime"
)

// containerID names one run of a container: the same for whoever asks, so that
// a start that was cut off is found again.
func containerID(p *corev1.Pod, container string, attempt int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d", p.UID, container, attempt))
	return hex.EncodeToString(sum[:])
}

// containerConfig resolves all that a container's spec names.
func (a *Agent) containerConfig(ctx context.Context, v *kernel.View, p *pod, g Goal, c *corev1.Container, attempt int) (runtime.Container, error) {
	spec := g.Pod
	img, err := a.rt.Present(ctx, c.Image)
	if err != nil {
		return runtime.Container{}, err
	}
	environment, err := podspec.Env(v, spec, c, a.facts(p))
	if err != nil {
		return runtime.Container{}, err
	}
	environment = append([]string{"HOSTNAME=" + hostname(spec, a.cfg.Hostname)}, environment...)
	mounts, err := a.mountsOf(spec, c, attempt, environment)
	if err != nil {
		return runtime.Container{}, err
	}
	k := runtime.Container{
		ID:    containerID(spec, c.Name, attempt),
		Image: img,
		Labels: map[string]string{
			runtime.LabelNode: a.cfg.Node, runtime.LabelPodUID: string(spec.UID), runtime.LabelPodNamespace: spec.Namespace, runtime.LabelPodName: spec.Name,
			runtime.LabelContainer: c.Name, runtime.LabelAttempt: fmt.Sprint(attempt),
		},
		LogPath: a.logPath(spec, c.Name, attempt),
		Cgroup:  a.cgroup(spec, c.Name),
		Group:   string(spec.UID),
		Command: podspec.ExpandAll(c.Command, environment),
		Args:    podspec.ExpandAll(c.Args, environment),
		Env:     environment, Dir: c.WorkingDir,
		TTY: c.TTY, Stdin: c.Stdin, StdinOnce: c.StdinOnce,
		Mounts:    mounts,
		Security:  securityOf(spec, c),
		Resources: a.resourcesOf(spec, c),
	}
	n, uid := a.net(), string(spec.UID)
	if !spec.Spec.HostNetwork {
		k.Net, k.UTS, k.Hostname = n.Net(uid), n.UTS(uid), hostname(spec, a.cfg.Hostname)
	}
	if !spec.Spec.HostIPC {
		k.IPC = n.IPC(uid)
	}
	if spec.Spec.HostPID {
		k.PID = new(string)
	}
	return k, nil
}

// securityOf merges the pod's and the container's security context.
func securityOf(p *corev1.Pod, c *corev1.Container) runtime.Security {
	var s runtime.Security
	if ps := p.Spec.SecurityContext; ps != nil {
		s.User, s.Group = ps.RunAsUser, ps.RunAsGroup
		s.Groups = append(s.Groups, ps.SupplementalGroups...)
		if ps.FSGroup != nil {
			s.Groups = append(s.Groups, *ps.FSGroup)
		}
		s.MustNotRunAsRoot = ps.RunAsNonRoot != nil && *ps.RunAsNonRoot
	}
	cs := c.SecurityContext
	if cs == nil {
		return s
	}
	if cs.RunAsUser != nil {
		s.User = cs.RunAsUser
	}
	if cs.RunAsGroup != nil {
		s.Group = cs.RunAsGroup
	}
	if cs.RunAsNonRoot != nil {
		s.MustNotRunAsRoot = *cs.RunAsNonRoot
	}
	is := func(b *bool) bool { return b != nil && *b }
	s.Privileged = is(cs.Privileged)
	s.ReadOnlyRoot = is(cs.ReadOnlyRootFilesystem)
	s.NoNewPrivileges = cs.AllowPrivilegeEscalation != nil && !*cs.AllowPrivilegeEscalation
	s.UnmaskProc = cs.ProcMount != nil && *cs.ProcMount == corev1.UnmaskedProcMount
	if cs.Capabilities != nil {
		for _, n := range cs.Capabilities.Add {
			s.AddCaps = append(s.AddCaps, strings.ToUpper(string(n)))
		}
		for _, n := range cs.Capabilities.Drop {
			s.NoCaps = append(s.NoCaps, strings.ToUpper(string(n)))
		}
	}
	return s
}

// Bounds of cpu in cgroups, as Kubernetes has them.
const (
	sharesPerCPU = 1024
	sharesMin    = 2
	sharesMax    = 262144
	cpuPeriod    = 100_000 // microseconds
	quotaMin     = 1000    // microseconds
)

// resourcesOf turns requests and limits into those of a cgroup.
func (a *Agent) resourcesOf(p *corev1.Pod, c *corev1.Container) runtime.Resources {
	r := runtime.Resources{OOMScoreAdj: oomScore(p, c, a.allocatable())}
	request, hasRequest := c.Resources.Requests[corev1.ResourceCPU]
	limit, hasLimit := c.Resources.Limits[corev1.ResourceCPU]
	if !hasRequest && hasLimit {
		request = limit
	}
	r.CPUShares = uint64(min(max(request.MilliValue()*sharesPerCPU/1000, sharesMin), sharesMax))
	if milli := limit.MilliValue(); milli > 0 {
		r.CPUQuota, r.CPUPeriod = max(milli*cpuPeriod/1000, quotaMin), cpuPeriod
	}
	if memory, ok := c.Resources.Limits[corev1.ResourceMemory]; ok {
		r.Memory = memory.Value()
	}
	return r
}

// oomScore ranks a container for the kernel when the node runs out of memory,
// by its class of service, as kubelet does.
func oomScore(p *corev1.Pod, c *corev1.Container, node corev1.ResourceList) int {
	switch p.Status.QOSClass {
	case corev1.PodQOSGuaranteed:
		return -997
	case corev1.PodQOSBestEffort:
		return 1000
	}
	capacity := node.Memory().Value()
	if capacity == 0 {
		return 999
	}
	request := c.Resources.Requests.Memory().Value()
	return int(min(max(1000-1000*request/capacity, 3), 999))
}
