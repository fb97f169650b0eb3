package kinds

import (
	"math"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxHealthMessage bounds in bytes what is said of a device's health.
const maxHealthMessage = corev1.ResourceHealthMessageMaxLength

// validatePodStatus checks what was reported of a pod, and that it can follow
// what was reported before.
func validatePodStatus(now, old *corev1.Pod) field.ErrorList {
	c := &podCheck{spec: &now.Spec}
	path := field.NewPath("status")
	s, was := &now.Status, &old.Status
	c.conditions(s.Conditions, path.Child("conditions"))
	if now.Spec.NodeName != old.Spec.NodeName {
		c.forbidden(path.Child("nodeName"), "may not be changed directly")
	}
	if s.NominatedNodeName != "" && s.NominatedNodeName != was.NominatedNodeName {
		at := path.Child("nominatedNodeName")
		c.objectName(at, s.NominatedNodeName)
		if old.Spec.NodeName != "" {
			c.forbidden(at, "may not be set on pods that are already bound to a node")
		}
	}
	if s.ObservedGeneration < 0 {
		c.invalid(path.Child("observedGeneration"), s.ObservedGeneration, "must be a non-negative integer")
	}
	if s.QOSClass != was.QOSClass {
		c.invalid(path.Child("qosClass"), s.QOSClass, "field is immutable")
	}
	c.revived(s, was, &old.Spec, path)
	c.claimStatuses(s, path)
	c.podIPs(s, was, path)
	c.hostIPs(s, was, path)
	for _, l := range []struct {
		name       string
		statuses   []corev1.ContainerStatus
		containers []corev1.Container
	}{
		{"containerStatuses", s.ContainerStatuses, now.Spec.Containers},
		{"initContainerStatuses", s.InitContainerStatuses, now.Spec.InitContainers},
		{"ephemeralContainerStatuses", s.EphemeralContainerStatuses, nil},
	} {
		for i := range l.statuses {
			c.containerStatus(&l.statuses[i], l.containers, s, path.Child(l.name).Index(i), l.name == "ephemeralContainerStatuses")
		}
	}
	return c.errs
}

func (c *podCheck) conditions(list []corev1.PodCondition, at *field.Path) {
	for i, cond := range list {
		if cond.ObservedGeneration < 0 {
			c.invalid(at.Index(i).Child("observedGeneration"), cond.ObservedGeneration, "must be a non-negative integer")
		}
		c.messages(at.Index(i).Child("Type"), string(cond.Type), validation.IsQualifiedName(string(cond.Type)))
	}
}

// revived forbids a container that has ended, and that nothing starts again,
// to live.
func (c *podCheck) revived(now, old *corev1.PodStatus, s *corev1.PodSpec, path *field.Path) {
	check := func(is, was []corev1.ContainerStatus, containers []corev1.Container, at *field.Path) {
		for i := range was {
			ended := was[i].State.Terminated
			if ended == nil {
				continue
			}
			next := slices.IndexFunc(is, func(n corev1.ContainerStatus) bool {
				return n.Name == was[i].Name && n.State.Terminated == nil
			})
			if next >= 0 && !restarts(s, containers, was[i].Name, ended.ExitCode) {
				c.forbidden(at.Index(i).Child("state"), "may not be transitioned to non-terminated state")
			}
		}
	}
	if !restartsAll(s) {
		check(now.ContainerStatuses, old.ContainerStatuses, s.Containers, path.Child("containerStatuses"))
		check(now.InitContainerStatuses, old.InitContainerStatuses, s.InitContainers, path.Child("initContainerStatuses"))
	}
	check(now.EphemeralContainerStatuses, old.EphemeralContainerStatuses, nil, path.Child("ephemeralContainerStatuses"))
}

// restartsAll tells whether an exit of some container may restart all.
func restartsAll(s *corev1.PodSpec) bool {
	return slices.ContainsFunc(podContainers(s), func(ctr *corev1.Container) bool {
		return slices.ContainsFunc(ctr.RestartPolicyRules, func(r corev1.ContainerRestartRule) bool {
			return r.Action == corev1.ContainerRestartRuleActionRestartAllContainers
		})
	})
}

// restarts tells whether the named container is started again after it ended
// with the code: by its own rules, its own policy, or the pod's.
func restarts(s *corev1.PodSpec, containers []corev1.Container, name string, code int32) bool {
	i := slices.IndexFunc(containers, func(ctr corev1.Container) bool { return ctr.Name == name })
	if i < 0 {
		return false
	}
	policy := s.RestartPolicy
	if own := containers[i].RestartPolicy; own != nil {
		for _, r := range containers[i].RestartPolicyRules {
			if r.ExitCodes == nil {
				continue
			}
			if slices.Contains(r.ExitCodes.Values, code) == (r.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
				return true
			}
		}
		policy = corev1.RestartPolicy(*own)
	}
	return policy == corev1.RestartPolicyAlways || policy == corev1.RestartPolicyOnFailure && code != 0
}

// podIPs wants one address, or one of each family, and the first to be podIP.
func (c *podCheck) podIPs(now, old *corev1.PodStatus, path *field.Path) {
	at := path.Child("podIPs")
	ips, was := make([]string, len(now.PodIPs)), make([]string, len(old.PodIPs))
	for i, ip := range old.PodIPs {
		was[i] = ip.IP
	}
	for i, ip := range now.PodIPs {
		ips[i] = ip.IP
		c.add(validation.IsValidIPForLegacyField(at.Index(i), ip.IP, true, was)...)
	}
	c.families(ips, at)
	switch {
	case (now.PodIP == "") != (len(ips) == 0):
		c.invalid(at, now.PodIPs, "podIP and podIPs must either both be set or both be unset")
	case len(ips) > 0 && ips[0] != now.PodIP:
		c.invalid(at.Index(0).Child("ip"), ips[0], "must be equal to `podIP`")
	}
}

func (c *podCheck) hostIPs(now, old *corev1.PodStatus, path *field.Path) {
	at := path.Child("hostIPs")
	ips, was := make([]string, len(now.HostIPs)), make([]string, len(old.HostIPs))
	for i, ip := range old.HostIPs {
		was[i] = ip.IP
	}
	for i, ip := range now.HostIPs {
		ips[i] = ip.IP
		c.add(validation.IsValidIPForLegacyField(at.Index(i), ip.IP, true, was)...)
	}
	if len(ips) > 0 && ips[0] != now.HostIP {
		c.invalid(at.Index(0).Child("ip"), ips[0], "must be equal to `hostIP`")
	}
	c.families(ips, at)
}

// families wants of several addresses exactly one of each family.
func (c *podCheck) families(ips []string, at *field.Path) {
	if len(ips) < 2 {
		return
	}
	v4, v6 := 0, 0
	for _, ip := range ips {
		a, err := netip.ParseAddr(ip)
		switch {
		case err != nil:
			c.add(field.InternalError(at, err))
			c.invalid(at, ips, "may specify no more than one IP for each IP family")
			return
		case a.Unmap().Is4():
			v4++
		default:
			v6++
		}
	}
	if v4 != 1 || v6 != 1 {
		c.invalid(at, ips, "may specify no more than one IP for each IP family")
	}
}

// containerStatus checks what was reported of one container.
func (c *podCheck) containerStatus(cs *corev1.ContainerStatus, containers []corev1.Container, s *corev1.PodStatus, at *field.Path, ephemeral bool) {
	c.statusUser(cs.User, at.Child("user", "linux"))
	if ephemeral && len(cs.AllocatedResourcesStatus) > 0 {
		c.forbidden(at.Child("allocatedResourcesStatus"), "must not be specified in container status")
	}
	for j, r := range cs.AllocatedResourcesStatus {
		if !ephemeral {
			c.allocated(cs.Name, &r, containers, s, at.Child("allocatedResourcesStatus").Index(j))
		}
	}
}

func (c *podCheck) statusUser(u *corev1.ContainerUser, at *field.Path) {
	if u == nil || u.Linux == nil {
		return
	}
	os := corev1.Linux
	if c.spec.OS != nil {
		os = c.spec.OS.Name
	}
	switch os {
	case corev1.Windows:
		c.forbidden(at, "cannot be set for a windows pod")
	case corev1.Linux:
		if uid := u.Linux.UID; uid < 0 || uid > math.MaxUint32 {
			c.invalid(at.Child("uid"), uid, "must be between 0 and 4294967295, inclusive")
		}
		c.groupID(&u.Linux.GID, at.Child("gid"))
		for i := range u.Linux.SupplementalGroups {
			c.groupID(&u.Linux.SupplementalGroups[i], at.Child("supplementalGroups").Index(i))
		}
	}
}

// allocated checks the health reported of devices (KEP-4680).
func (c *podCheck) allocated(name string, r *corev1.ResourceStatus, containers []corev1.Container, s *corev1.PodStatus, at *field.Path) {
	i := slices.IndexFunc(containers, func(ctr corev1.Container) bool { return ctr.Name == name })
	if i >= 0 && !usesResource(&containers[i], r.Name, s) {
		c.invalid(at.Child("name"), r.Name, "must match one of the container's resource requests")
	}
	seen := map[corev1.ResourceID]bool{}
	for k, h := range r.Resources {
		at := at.Child("resources").Index(k)
		among(c, at.Child("health"), h.Health, corev1.ResourceHealthStatusHealthy, corev1.ResourceHealthStatusUnhealthy, corev1.ResourceHealthStatusUnknown)
		if h.Message != nil {
			c.need(at.Child("message"), *h.Message)
			if len(*h.Message) > maxHealthMessage {
				c.add(field.TooLong(at.Child("message"), *h.Message, maxHealthMessage))
			}
		}
		if seen[h.ResourceID] {
			c.duplicate(at.Child("resourceID"), h.ResourceID)
		}
		seen[h.ResourceID] = true
	}
}

// usesResource tells whether a container asked for a resource, or uses a claim
// ("claim:name" or "claim:name/request").
func usesResource(ctr *corev1.Container, name corev1.ResourceName, s *corev1.PodStatus) bool {
	ref, isClaim := strings.CutPrefix(string(name), "claim:")
	if !isClaim {
		_, ok := ctr.Resources.Requests[name]
		return ok
	}
	claim, request, _ := strings.Cut(ref, "/")
	for _, u := range ctr.Resources.Claims {
		if u.Name == claim && u.Request == request && (request != "" || !strings.Contains(ref, "/")) {
			return true
		}
	}
	e := s.ExtendedResourceClaimStatus
	if e == nil || claim == "" || request == "" || claim != e.ResourceClaimName {
		return false
	}
	return slices.ContainsFunc(e.RequestMappings, func(m corev1.ContainerExtendedResourceRequest) bool {
		q := ctr.Resources.Requests[corev1.ResourceName(m.ResourceName)]
		return m.ContainerName == ctr.Name && m.RequestName == request && !q.IsZero()
	})
}

// claimStatuses checks what was reported of claims of devices.
func (c *podCheck) claimStatuses(s *corev1.PodStatus, path *field.Path) {
	seen := map[string]bool{}
	for i, r := range s.ResourceClaimStatuses {
		at := path.Child("resourceClaimStatuses").Index(i)
		if !slices.ContainsFunc(c.spec.ResourceClaims, func(p corev1.PodResourceClaim) bool { return p.Name == r.Name }) {
			c.invalid(at.Child("name"), r.Name, "must match the name of an entry in `spec.resourceClaims`")
		}
		if seen[r.Name] {
			c.duplicate(at.Child("name"), r.Name)
		}
		seen[r.Name] = true
		if r.ResourceClaimName != nil {
			c.objectName(at.Child("resourceClaimName"), *r.ResourceClaimName)
		}
	}
	c.extendedClaim(s.ExtendedResourceClaimStatus, path.Child("extendedResourceClaimStatus"))
}

func (c *podCheck) extendedClaim(e *corev1.PodExtendedResourceClaimStatus, at *field.Path) {
	if e == nil {
		return
	}
	mappings := at.Child("requestMappings")
	if len(e.RequestMappings) == 0 {
		c.required(mappings, "at least one request mapping is required")
	}
	known := map[string]*corev1.Container{}
	for i := range c.spec.InitContainers {
		known[c.spec.InitContainers[i].Name] = &c.spec.InitContainers[i]
	}
	for i := range c.spec.Containers {
		known[c.spec.Containers[i].Name] = &c.spec.Containers[i]
	}
	for i, m := range e.RequestMappings {
		idx := mappings.Index(i)
		if ctr := known[m.ContainerName]; ctr == nil {
			c.invalid(idx.Child("containerName"), m.ContainerName, "must match the name of an entry in spec.initContainers.name or spec.containers.name")
		} else if _, ok := ctr.Resources.Requests[corev1.ResourceName(m.ResourceName)]; !ok {
			c.invalid(idx.Child("resourceName"), m.ResourceName, "must match the extended resource name of an entry in the container's requests")
		}
		c.dnsLabel(at.Child("requestName"), m.RequestName)
		if slices.Contains(e.RequestMappings[:i], m) {
			c.duplicate(idx.Child("containerName"), m.ContainerName)
			c.duplicate(idx.Child("resourceName"), m.ResourceName)
			c.duplicate(idx.Child("requestName"), m.RequestName)
		}
	}
	if e.ResourceClaimName == "" {
		c.required(at.Child("resourceClaimName"), "")
	} else {
		c.objectName(at.Child("resourceClaimName"), e.ResourceClaimName)
	}
}
