package kinds

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	maxSysctlName      = 253  // bytes
	maxAppArmorProfile = 4095 // bytes: a path
)

var sysctlName = regexp.MustCompile(`^[a-z0-9](?:[-_a-z0-9]*[a-z0-9])?(?:[./][a-z0-9](?:[-_a-z0-9]*[a-z0-9])?)*$`)

// podSecurity checks with which rights a pod runs.
func (c *podCheck) podSecurity(path *field.Path) {
	s := c.spec
	if value(s.ShareProcessNamespace) && s.HostPID {
		c.invalid(path.Child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled")
	}
	c.userNamespace(path)
	c.hostProcess(path)
	sc, at := s.SecurityContext, path.Child("securityContext")
	if sc == nil {
		return
	}
	c.groupID(sc.FSGroup, at.Child("fsGroup"))
	c.userID(sc.RunAsUser, at.Child("runAsUser"))
	c.groupID(sc.RunAsGroup, at.Child("runAsGroup"))
	for i := range sc.SupplementalGroups {
		c.groupID(&sc.SupplementalGroups[i], at.Child("supplementalGroups").Index(i))
	}
	c.sysctls(sc.Sysctls, at.Child("sysctls"))
	if sc.FSGroupChangePolicy != nil {
		among(c, at.Child("fsGroupChangePolicy"), *sc.FSGroupChangePolicy, corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)
	}
	c.seccomp(sc.SeccompProfile, at.Child("seccompProfile"))
	c.windowsOptions(sc.WindowsOptions, at.Child("windowsOptions"))
	c.appArmor(sc.AppArmorProfile, at.Child("appArmorProfile"))
	if sc.SupplementalGroupsPolicy != nil {
		among(c, at.Child("supplementalGroupsPolicy"), *sc.SupplementalGroupsPolicy,
			corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)
	}
	if sc.SELinuxChangePolicy != nil {
		among(c, at.Child("seLinuxChangePolicy"), *sc.SELinuxChangePolicy,
			corev1.SELinuxChangePolicyRecursive, corev1.SELinuxChangePolicyMountOption)
	}
}

// userNamespace checks what does not go with users of the pod's own (KEP-127).
func (c *podCheck) userNamespace(path *field.Path) {
	s := c.spec
	if s.HostUsers == nil || *s.HostUsers {
		return
	}
	const detail = "when `hostUsers` is false"
	if s.HostNetwork {
		c.forbidden(path.Child("hostNetwork"), detail)
	}
	if s.HostPID {
		c.forbidden(path.Child("HostPID"), detail)
	}
	if s.HostIPC {
		c.forbidden(path.Child("HostIPC"), detail)
	}
	c.eachContainer(path, func(ctr *corev1.Container, at *field.Path) {
		if len(ctr.VolumeDevices) > 0 {
			c.forbidden(at.Child("volumeDevices"), detail)
		}
	})
}

func (c *podCheck) sysctls(list []corev1.Sysctl, at *field.Path) {
	seen := map[string]bool{}
	for i, s := range list {
		name := at.Index(i).Child("name")
		switch {
		case s.Name == "":
			c.required(name, "")
		case len(s.Name) > maxSysctlName || !sysctlName.MatchString(s.Name):
			c.invalid(name, s.Name, fmt.Sprintf("must have at most %d characters and match regex %s", maxSysctlName, sysctlName))
		case seen[s.Name]:
			c.duplicate(name, s.Name)
		}
		seen[s.Name] = true
		if detail := hostSysctl(c.spec, s.Name); detail != "" {
			c.invalid(name, s.Name, detail)
		}
	}
}

// hostSysctl says why the pod may not set a sysctl: because it would be the
// host's. Of the two separators the first in the name counts (sysctl.d(5)).
func hostSysctl(s *corev1.PodSpec, name string) string {
	dots := name
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '/' {
		dots = strings.Map(func(r rune) rune {
			switch r {
			case '/':
				return '.'
			case '.':
				return '/'
			}
			return r
		}, name)
	}
	ipc := strings.HasPrefix(dots, "fs.mqueue.") ||
		slices.Contains([]string{
			"kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced",
			"kernel.shm", "kernel.msg", "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni",
		}, dots)
	switch {
	case s.HostNetwork && strings.HasPrefix(dots, "net."):
		return "may not be specified when 'hostNetwork' is true"
	case s.HostIPC && ipc:
		return "may not be specified when 'hostIPC' is true"
	}
	return ""
}

// containerSecurity checks with which rights a container runs.
func (c *podCheck) containerSecurity(sc *corev1.SecurityContext, at *field.Path) {
	if sc == nil {
		return
	}
	c.userID(sc.RunAsUser, at.Child("runAsUser"))
	c.groupID(sc.RunAsGroup, at.Child("runAsGroup"))
	if p := sc.ProcMount; p != nil {
		among(c, at.Child("procMount"), *p, corev1.DefaultProcMount, corev1.UnmaskedProcMount)
		if *p == corev1.UnmaskedProcMount && (c.spec.HostUsers == nil || *c.spec.HostUsers) {
			c.invalid(at.Child("procMount"), *p, "`hostUsers` must be false to use `Unmasked`")
		}
	}
	c.seccomp(sc.SeccompProfile, at.Child("seccompProfile"))
	if sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation {
		if value(sc.Privileged) {
			c.invalid(at, sc, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
		}
		if sc.Capabilities != nil {
			for _, capability := range sc.Capabilities.Add {
				if capability == "CAP_SYS_ADMIN" {
					c.invalid(at, sc, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN")
				}
			}
		}
	}
	c.windowsOptions(sc.WindowsOptions, at.Child("windowsOptions"))
	c.appArmor(sc.AppArmorProfile, at.Child("appArmorProfile"))
}

func (c *podCheck) seccomp(p *corev1.SeccompProfile, at *field.Path) {
	if p == nil {
		return
	}
	requiredAmong(c, at.Child("type"), p.Type,
		corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	file := at.Child("localhostProfile")
	switch {
	case p.Type != corev1.SeccompProfileTypeLocalhost && p.LocalhostProfile != nil:
		c.invalid(file, p, "can only be set when seccomp type is Localhost")
	case p.Type != corev1.SeccompProfileTypeLocalhost:
	case p.LocalhostProfile == nil:
		c.required(file, "must be set when seccomp type is Localhost")
	default:
		c.relativePath(*p.LocalhostProfile, file)
	}
}

func (c *podCheck) appArmor(p *corev1.AppArmorProfile, at *field.Path) {
	if p == nil {
		return
	}
	requiredAmong(c, at.Child("type"), p.Type,
		corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	file := at.Child("localhostProfile")
	switch p.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		switch profile := value(p.LocalhostProfile); {
		case profile != strings.TrimSpace(profile):
			c.invalid(file, profile, "must not be padded with whitespace")
		case profile == "":
			c.required(file, "must be set when AppArmor type is Localhost")
		}
		if len(value(p.LocalhostProfile)) > maxAppArmorProfile {
			c.add(field.TooLong(file, "", maxAppArmorProfile))
		}
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if p.LocalhostProfile != nil {
			c.invalid(file, p.LocalhostProfile, "can only be set when AppArmor type is Localhost")
		}
	}
}

// annotations checks those annotations of a pod that mean something.
func (c *podCheck) annotations(set map[string]string, at *field.Path) {
	if v, mirror := set[corev1.MirrorPodAnnotationKey]; mirror && c.spec.NodeName == "" {
		c.invalid(at.Key(corev1.MirrorPodAnnotationKey), v, "must set spec.nodeName if mirror pod annotation is set")
	}
	c.annotatedTolerations(set, at)
	if v, ok := set[corev1.PodDeletionCost]; ok && !validDeletionCost(v) {
		c.invalid(at.Key(corev1.PodDeletionCost), v, "must be a 32bit integer")
	}
	for _, k := range slices.Sorted(maps.Keys(set)) {
		p := set[k]
		if k == corev1.SeccompPodAnnotationKey || strings.HasPrefix(k, corev1.SeccompContainerAnnotationKeyPrefix) {
			c.annotatedSeccomp(p, at.Child(k))
		}
		name, ok := strings.CutPrefix(k, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix)
		if !ok {
			continue
		}
		if !slices.ContainsFunc(podContainers(c.spec), func(ctr *corev1.Container) bool { return ctr.Name == name }) {
			c.invalid(at.Key(k), name, "container not found")
		}
		if p != "" && p != corev1.DeprecatedAppArmorBetaProfileRuntimeDefault && p != corev1.DeprecatedAppArmorBetaProfileNameUnconfined &&
			!strings.HasPrefix(p, corev1.DeprecatedAppArmorBetaProfileNamePrefix) {
			c.invalid(at.Key(k), p, fmt.Sprintf("invalid AppArmor profile name: %q", p))
		}
	}
}

func (c *podCheck) annotatedSeccomp(p string, at *field.Path) {
	if file, ok := strings.CutPrefix(p, corev1.SeccompLocalhostProfileNamePrefix); ok {
		c.relativePath(file, at)
		return
	}
	switch p {
	case corev1.SeccompProfileRuntimeDefault, corev1.DeprecatedSeccompProfileDockerDefault, corev1.SeccompProfileNameUnconfined:
	default:
		c.invalid(at, p, "must be a valid seccomp profile")
	}
}

// profilesMatch wants the old annotations for seccomp and AppArmor to say what
// the fields say, where both are given.
func (c *podCheck) profilesMatch(set map[string]string, path *field.Path) {
	s := c.spec
	if sc := s.SecurityContext; sc != nil && sc.SeccompProfile != nil {
		if v, ok := set[corev1.SeccompPodAnnotationKey]; ok {
			c.seccompMatches(v, sc.SeccompProfile, path.Child("securityContext", "seccompProfile"))
		}
	}
	c.eachContainer(path, func(ctr *corev1.Container, at *field.Path) {
		if v, ok := set[corev1.SeccompContainerAnnotationKeyPrefix+ctr.Name]; ok && ctr.SecurityContext != nil && ctr.SecurityContext.SeccompProfile != nil {
			c.seccompMatches(v, ctr.SecurityContext.SeccompProfile, at.Child("securityContext", "seccompProfile"))
		}
	})
	if s.OS != nil && s.OS.Name == corev1.Windows {
		return
	}
	c.eachContainer(path, func(ctr *corev1.Container, at *field.Path) {
		var profile *corev1.AppArmorProfile
		if s.SecurityContext != nil {
			profile = s.SecurityContext.AppArmorProfile
		}
		if ctr.SecurityContext != nil && ctr.SecurityContext.AppArmorProfile != nil {
			profile = ctr.SecurityContext.AppArmorProfile
		}
		v, ok := set[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+ctr.Name]
		if profile == nil || !ok {
			return
		}
		c.profileMatches("apparmor", string(profile.Type), profile.LocalhostProfile, v, corev1.DeprecatedAppArmorBetaProfileNamePrefix,
			[]string{corev1.DeprecatedAppArmorBetaProfileRuntimeDefault}, at.Child("securityContext", "appArmorProfile"))
	})
}

func (c *podCheck) seccompMatches(annotation string, p *corev1.SeccompProfile, at *field.Path) {
	c.profileMatches("seccomp", string(p.Type), p.LocalhostProfile, annotation, corev1.SeccompLocalhostProfileNamePrefix,
		[]string{corev1.SeccompProfileRuntimeDefault, corev1.DeprecatedSeccompProfileDockerDefault}, at)
}

// profileMatches compares a profile's field with its annotation. The words for
// types are the same for seccomp and AppArmor.
func (c *podCheck) profileMatches(what, kind string, file *string, annotation, filePrefix string, defaults []string, at *field.Path) {
	ok := true
	switch kind {
	case string(corev1.SeccompProfileTypeUnconfined):
		ok = annotation == corev1.SeccompProfileNameUnconfined
	case string(corev1.SeccompProfileTypeRuntimeDefault):
		ok = slices.Contains(defaults, annotation)
	case string(corev1.SeccompProfileTypeLocalhost):
		name, isFile := strings.CutPrefix(annotation, filePrefix)
		ok = isFile
		if isFile && (file == nil || *file != name) {
			c.forbidden(at.Child("localhostProfile"), what+" profile in annotation and field must match")
		}
	}
	if !ok {
		c.forbidden(at.Child("type"), what+" type in annotation and field must match")
	}
}

// os checks what goes with the operating system that a pod is for.
func (c *podCheck) os(path *field.Path) {
	s := c.spec
	switch {
	case s.OS == nil:
	case s.OS.Name == "":
		c.required(path.Child("os", "name"), "")
	case s.OS.Name == corev1.Linux:
		const detail = "windows options cannot be set for a linux pod"
		if sc := s.SecurityContext; sc != nil && sc.WindowsOptions != nil {
			c.forbidden(path.Child("securityContext", "windowsOptions"), detail)
		}
		c.eachContainer(path, func(ctr *corev1.Container, at *field.Path) {
			if ctr.SecurityContext != nil && ctr.SecurityContext.WindowsOptions != nil {
				c.forbidden(at.Child("securityContext", "windowsOptions"), detail)
			}
		})
	case s.OS.Name == corev1.Windows:
		c.windowsPod(path)
	default:
		among(c, path.Child("os"), s.OS.Name, corev1.Linux, corev1.Windows)
	}
}

// applyAppArmorAnnotations gives containers the profile that the old annotation
// names, where it is another than the pod's and the field says nothing (KEP-24).
func applyAppArmorAnnotations(p *corev1.Pod) {
	if p.Spec.OS != nil && p.Spec.OS.Name == corev1.Windows {
		return
	}
	var whole *corev1.AppArmorProfile
	if p.Spec.SecurityContext != nil {
		whole = p.Spec.SecurityContext.AppArmorProfile
	}
	for _, ctr := range podContainers(&p.Spec) {
		v, ok := p.Annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+ctr.Name]
		if !ok || ctr.SecurityContext != nil && ctr.SecurityContext.AppArmorProfile != nil {
			continue
		}
		profile := annotatedAppArmor(v)
		if profile == nil || apiequality.Semantic.DeepEqual(profile, whole) {
			continue
		}
		if ctr.SecurityContext == nil {
			ctr.SecurityContext = &corev1.SecurityContext{}
		}
		ctr.SecurityContext.AppArmorProfile = profile
	}
}

// annotatedAppArmor is what an annotation says of a profile, nil if it is wrong.
func annotatedAppArmor(v string) *corev1.AppArmorProfile {
	switch v {
	case corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	case corev1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	}
	name, ok := strings.CutPrefix(v, corev1.DeprecatedAppArmorBetaProfileNamePrefix)
	profile := &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
	check := &podCheck{}
	if check.appArmor(profile, field.NewPath("")); !ok || len(check.errs) > 0 {
		return nil
	}
	return profile
}
