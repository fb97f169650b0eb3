package kinds

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
)

// The levels of the Pod Security Standards (KEP-2579) and the label by which a
// namespace asks for one. The version that it may pin besides is always the
// latest here: no rule has become stricter since, but for hosts of probes.
const (
	enforceLabel   = "pod-security.kubernetes.io/enforce"
	privilegedPods = "privileged"
	baselinePods   = "baseline"
	restrictedPods = "restricted"
)

// admitPodSecurity holds a new pod to the level of its namespace. A level that
// there is not counts as the strictest.
func admitPodSecurity(v *kernel.View, namespace string, p *corev1.Pod) field.ErrorList {
	ns, ok := Namespaces.Get(v, "", namespace)
	if !ok {
		return nil
	}
	level, ok := ns.Labels[enforceLabel]
	if !ok || level == privilegedPods {
		return nil
	}
	if level != baselinePods {
		level = restrictedPods
	}
	broken := podSecurityViolations(p, level == restrictedPods)
	if len(broken) == 0 {
		return nil
	}
	return field.ErrorList{field.Forbidden(field.NewPath("spec"),
		fmt.Sprintf("violates PodSecurity %q: %s", level+":latest", strings.Join(broken, ", ")))}
}

// podStandard collects what a pod does that its level does not let it do.
type podStandard struct {
	pod        *corev1.Pod
	restricted bool
	broken     []string
}

// breaks notes a violation: what it is and where.
func (s *podStandard) breaks(is bool, what string, at *field.Path) {
	if is {
		s.broken = append(s.broken, fmt.Sprintf("%s (%s)", what, at))
	}
}

// podSecurityViolations names what breaks the baseline and, if asked for, the
// restricted level.
func podSecurityViolations(p *corev1.Pod, restricted bool) []string {
	s := &podStandard{pod: p, restricted: restricted}
	path := field.NewPath("spec")
	c := &podCheck{spec: &p.Spec}
	s.baselinePod(path)
	c.eachContainer(path, s.baselineContainer)
	ownUsers := p.Spec.HostUsers != nil && !*p.Spec.HostUsers
	c.eachContainer(path, func(ctr *corev1.Container, at *field.Path) {
		if sc := ctr.SecurityContext; sc != nil && sc.ProcMount != nil && (restricted || !ownUsers) {
			s.breaks(*sc.ProcMount != corev1.DefaultProcMount, "procMount", at.Child("securityContext", "procMount"))
		}
	})
	if !restricted {
		return s.broken
	}
	if !ownUsers {
		s.nonRoot(c, path)
	}
	if p.Spec.OS == nil || p.Spec.OS.Name != corev1.Windows {
		whole := &corev1.PodSecurityContext{}
		if p.Spec.SecurityContext != nil {
			whole = p.Spec.SecurityContext
		}
		c.eachContainer(path, func(ctr *corev1.Container, at *field.Path) {
			s.restrictedContainer(ctr, whole, at.Child("securityContext"))
		})
	}
	return s.broken
}

// safeSysctls are those that touch no other pod.
var safeSysctls = []string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports",
	"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout",
	"net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_notsent_lowat", "net.ipv4.tcp_rmem", "net.ipv4.tcp_slow_start_after_idle", "net.ipv4.tcp_syncookies",
	"net.ipv4.tcp_wmem",
}

func (s *podStandard) baselinePod(path *field.Path) {
	spec := &s.pod.Spec
	s.breaks(spec.HostNetwork, "host namespaces", path.Child("hostNetwork"))
	s.breaks(spec.HostPID, "host namespaces", path.Child("hostPID"))
	s.breaks(spec.HostIPC, "host namespaces", path.Child("hostIPC"))
	for i := range spec.Volumes {
		v, at := &spec.Volumes[i], path.Child("volumes").Index(i)
		if s.restricted {
			s.breaks(!harmlessVolume(v), "restricted volume types", at)
		} else {
			s.breaks(v.HostPath != nil, "hostPath volumes", at.Child("hostPath"))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(s.pod.Annotations)) {
		v := s.pod.Annotations[k]
		if strings.HasPrefix(k, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix) {
			s.breaks(v != "" && v != corev1.DeprecatedAppArmorBetaProfileRuntimeDefault && !strings.HasPrefix(v, corev1.DeprecatedAppArmorBetaProfileNamePrefix),
				"forbidden AppArmor profile", field.NewPath("metadata", "annotations").Key(k))
		}
	}
	sc, at := spec.SecurityContext, path.Child("securityContext")
	if sc == nil {
		return
	}
	s.confinement(sc.SELinuxOptions, sc.SeccompProfile, sc.AppArmorProfile, sc.WindowsOptions, at)
	for i, sysctl := range sc.Sysctls {
		s.breaks(!slices.Contains(safeSysctls, sysctl.Name), "forbidden sysctls", at.Child("sysctls").Index(i))
	}
}

// harmlessVolume tells whether a volume shows nothing of the node.
func harmlessVolume(v *corev1.Volume) bool {
	return v.ConfigMap != nil || v.CSI != nil || v.DownwardAPI != nil || v.EmptyDir != nil || v.Ephemeral != nil ||
		v.Image != nil || v.PersistentVolumeClaim != nil || v.Projected != nil || v.Secret != nil
}

// confinement checks what a pod and a container can both say.
func (s *podStandard) confinement(se *corev1.SELinuxOptions, sec *corev1.SeccompProfile, aa *corev1.AppArmorProfile, win *corev1.WindowsSecurityContextOptions, at *field.Path) {
	if se != nil {
		types := []string{"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
		s.breaks(!slices.Contains(types, se.Type) || se.User != "" || se.Role != "", "seLinuxOptions", at.Child("seLinuxOptions"))
	}
	s.breaks(sec != nil && !confinedSeccomp(sec), "seccompProfile", at.Child("seccompProfile"))
	s.breaks(aa != nil && aa.Type != corev1.AppArmorProfileTypeRuntimeDefault && aa.Type != corev1.AppArmorProfileTypeLocalhost,
		"forbidden AppArmor profile", at.Child("appArmorProfile"))
	s.breaks(win != nil && value(win.HostProcess), "hostProcess", at.Child("windowsOptions", "hostProcess"))
}

func confinedSeccomp(p *corev1.SeccompProfile) bool {
	return p.Type == corev1.SeccompProfileTypeRuntimeDefault || p.Type == corev1.SeccompProfileTypeLocalhost
}

// usualCapabilities are those that container runtimes give anyway.
var usualCapabilities = []corev1.Capability{
	"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE",
	"SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}

func (s *podStandard) baselineContainer(ctr *corev1.Container, at *field.Path) {
	for i, p := range ctr.Ports {
		s.breaks(p.HostPort != 0, "hostPort", at.Child("ports").Index(i).Child("hostPort"))
	}
	host := func(h *corev1.HTTPGetAction, t *corev1.TCPSocketAction, at *field.Path) {
		s.breaks(h != nil && h.Host != "" || t != nil && t.Host != "", "probe or lifecycle host", at)
	}
	for _, p := range []*corev1.Probe{ctr.LivenessProbe, ctr.ReadinessProbe, ctr.StartupProbe} {
		if p != nil {
			host(p.HTTPGet, p.TCPSocket, at)
		}
	}
	if l := ctr.Lifecycle; l != nil {
		for _, h := range []*corev1.LifecycleHandler{l.PostStart, l.PreStop} {
			if h != nil {
				host(h.HTTPGet, h.TCPSocket, at.Child("lifecycle"))
			}
		}
	}
	sc, at := ctr.SecurityContext, at.Child("securityContext")
	if sc == nil {
		return
	}
	s.breaks(value(sc.Privileged), "privileged", at.Child("privileged"))
	s.confinement(sc.SELinuxOptions, sc.SeccompProfile, sc.AppArmorProfile, sc.WindowsOptions, at)
	if sc.Capabilities != nil && !s.restricted { // which has a rule of its own
		for i, added := range sc.Capabilities.Add {
			s.breaks(!slices.Contains(usualCapabilities, added), "non-default capabilities", at.Child("capabilities", "add").Index(i))
		}
	}
}

// nonRoot wants a pod to say that it does not run as root, and not to.
func (s *podStandard) nonRoot(c *podCheck, path *field.Path) {
	whole := false
	if sc := s.pod.Spec.SecurityContext; sc != nil {
		at := path.Child("securityContext")
		whole = value(sc.RunAsNonRoot)
		s.breaks(sc.RunAsNonRoot != nil && !whole, "runAsNonRoot != true", at.Child("runAsNonRoot"))
		s.breaks(sc.RunAsUser != nil && *sc.RunAsUser == 0, "runAsUser=0", at.Child("runAsUser"))
	}
	c.eachContainer(path, func(ctr *corev1.Container, at *field.Path) {
		sc := ctr.SecurityContext
		if sc == nil {
			sc = &corev1.SecurityContext{}
		}
		says := whole
		if sc.RunAsNonRoot != nil {
			says = *sc.RunAsNonRoot
		}
		s.breaks(!says, "runAsNonRoot != true", at.Child("securityContext", "runAsNonRoot"))
		s.breaks(sc.RunAsUser != nil && *sc.RunAsUser == 0, "runAsUser=0", at.Child("securityContext", "runAsUser"))
	})
}

// restrictedContainer wants a container to give up what it does not need.
func (s *podStandard) restrictedContainer(ctr *corev1.Container, whole *corev1.PodSecurityContext, at *field.Path) {
	sc := ctr.SecurityContext
	if sc == nil {
		sc = &corev1.SecurityContext{}
	}
	s.breaks(sc.AllowPrivilegeEscalation == nil || *sc.AllowPrivilegeEscalation,
		"allowPrivilegeEscalation != false", at.Child("allowPrivilegeEscalation"))
	profile := sc.SeccompProfile
	if profile == nil {
		profile = whole.SeccompProfile
	}
	s.breaks(profile == nil || !confinedSeccomp(profile), "seccompProfile", at.Child("seccompProfile"))
	capabilities := sc.Capabilities
	if capabilities == nil {
		capabilities = &corev1.Capabilities{}
	}
	s.breaks(!slices.Contains(capabilities.Drop, "ALL"), "unrestricted capabilities", at.Child("capabilities", "drop"))
	for i, added := range capabilities.Add {
		s.breaks(added != "NET_BIND_SERVICE", "unrestricted capabilities", at.Child("capabilities", "add").Index(i))
	}
}
