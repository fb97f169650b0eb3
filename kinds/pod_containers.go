package kinds

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of the rules by which a container restarts (KEP-5307).
const (
	maxRestartRules = 20
	maxExitCodes    = 255
)

// allContainers checks the three lists of containers of a pod.
func (c *podCheck) allContainers(path *field.Path) {
	s := c.spec
	names := map[string]bool{}
	if len(s.Containers) == 0 {
		c.required(path.Child("containers"), "")
	}
	for i := range s.Containers {
		ctr, at := &s.Containers[i], path.Child("containers").Index(i)
		c.container(ctr, at)
		if names[ctr.Name] {
			c.duplicate(at.Child("name"), ctr.Name)
		}
		names[ctr.Name] = true
		c.running(ctr, at)
		c.restartPolicy(ctr, at)
	}
	c.hostPorts(path.Child("containers"), s.Containers...)
	for i := range s.InitContainers {
		ctr, at := &s.InitContainers[i], path.Child("initContainers").Index(i)
		c.container(ctr, at)
		c.initContainer(ctr, at)
		if names[ctr.Name] {
			c.duplicate(at.Child("name"), ctr.Name)
		} else if ctr.Name != "" {
			names[ctr.Name] = true
		}
		// Init containers run one after another, so each stands alone here:
		// that is why a conflict is reported at index 0.
		c.hostPorts(path.Child("initContainers"), *ctr)
	}
	c.ephemeralContainers(names, path.Child("ephemeralContainers"))
}

// container checks what all kinds of containers have in common.
func (c *podCheck) container(ctr *corev1.Container, path *field.Path) {
	if ctr.Name == "" {
		c.required(path.Child("name"), "")
	} else {
		c.dnsLabel(path.Child("name"), ctr.Name)
	}
	if ctr.Image == "" {
		c.required(path.Child("image"), "")
	}
	requiredAmong(c, path.Child("terminationMessagePolicy"), ctr.TerminationMessagePolicy,
		corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)
	c.ports(ctr.Ports, path.Child("ports"))
	c.env(ctr.Env, path.Child("env"))
	c.envFrom(ctr.EnvFrom, path.Child("envFrom"))
	c.mounts(ctr, path.Child("volumeMounts"))
	c.devices(ctr, path.Child("volumeDevices"))
	c.pullPolicy(ctr.ImagePullPolicy, path.Child("imagePullPolicy"))
	c.resources(&ctr.Resources, c.claims, path.Child("resources"), c.containerResourceName)
	c.resizePolicy(ctr.ResizePolicy, path.Child("resizePolicy"))
	c.containerSecurity(ctr.SecurityContext, path.Child("securityContext"))
}

func (c *podCheck) pullPolicy(p corev1.PullPolicy, path *field.Path) {
	requiredAmong(c, path, p, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
}

// running checks what only a container that keeps running has.
func (c *podCheck) running(ctr *corev1.Container, path *field.Path) {
	c.lifecycle(ctr.Lifecycle, path.Child("lifecycle"))
	c.probe(ctr.LivenessProbe, livenessProbe, path.Child("livenessProbe"))
	c.probe(ctr.ReadinessProbe, readinessProbe, path.Child("readinessProbe"))
	c.probe(ctr.StartupProbe, startupProbe, path.Child("startupProbe"))
}

// initContainer checks what differs for init containers.
func (c *podCheck) initContainer(ctr *corev1.Container, path *field.Path) {
	if ctr.RestartPolicy != nil || len(ctr.RestartPolicyRules) > 0 {
		c.initRestartPolicy(ctr, path)
	}
	if isSidecar(ctr) {
		c.running(ctr, path)
		return
	}
	const detail = "may not be set for init containers without restartPolicy=Always"
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"lifecycle", ctr.Lifecycle != nil}, {"livenessProbe", ctr.LivenessProbe != nil},
		{"readinessProbe", ctr.ReadinessProbe != nil}, {"startupProbe", ctr.StartupProbe != nil},
	} {
		if f.set {
			c.forbidden(path.Child(f.name), detail)
		}
	}
	for i, p := range ctr.ResizePolicy {
		if p.RestartPolicy == corev1.RestartContainer {
			c.invalid(path.Child("resizePolicy").Index(i).Child("restartPolicy"), p.RestartPolicy,
				"must not be set to 'RestartContainer' for non-sidecar initContainers")
		}
	}
}

func (c *podCheck) initRestartPolicy(ctr *corev1.Container, path *field.Path) {
	if ctr.RestartPolicy == nil {
		c.required(path.Child("restartPolicy"), "must specify restartPolicy when restart rules are used")
		return
	}
	c.restartPolicy(ctr, path)
}

// restartPolicy checks a container's own policy and rules of restarting.
func (c *podCheck) restartPolicy(ctr *corev1.Container, path *field.Path) {
	switch {
	case ctr.RestartPolicy != nil:
		among(c, path.Child("restartPolicy"), *ctr.RestartPolicy, corev1.ContainerRestartPolicyAlways,
			corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)
	case len(ctr.RestartPolicyRules) == 0:
		return
	default:
		c.required(path.Child("restartPolicy"), "must specify restartPolicy when restart rules are used")
	}
	rules := path.Child("restartPolicyRules")
	if n := len(ctr.RestartPolicyRules); n > maxRestartRules {
		c.add(field.TooMany(rules, n, maxRestartRules))
	}
	for i, r := range ctr.RestartPolicyRules {
		at := rules.Index(i)
		among(c, at.Child("action"), r.Action,
			corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)
		if r.ExitCodes == nil {
			c.required(at.Child("exitCodes"), "must be specified")
			continue
		}
		among(c, at.Child("exitCodes", "operator"), r.ExitCodes.Operator,
			corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)
		if n := len(r.ExitCodes.Values); n > maxExitCodes {
			c.add(field.TooMany(at.Child("exitCodes", "values"), n, maxExitCodes))
		}
	}
}

// ephemeralContainers checks containers that were added to look into a pod.
// They may have only what cannot harm what they look at.
func (c *podCheck) ephemeralContainers(others map[string]bool, path *field.Path) {
	targets := map[string]bool{}
	for name := range others {
		targets[name] = true
	}
	for i := range c.spec.InitContainers {
		name := c.spec.InitContainers[i].Name
		targets[name], others[name] = true, true
	}
	for i := range c.spec.EphemeralContainers {
		ec, at := &c.spec.EphemeralContainers[i], path.Index(i)
		ctr := (*corev1.Container)(&ec.EphemeralContainerCommon)
		c.container(ctr, at)
		c.imageTrimmed(ctr, at)
		if others[ec.Name] {
			c.duplicate(at.Child("name"), ec.Name)
		}
		others[ec.Name] = true
		if ec.TargetContainerName != "" && !targets[ec.TargetContainerName] {
			c.add(field.NotFound(at.Child("targetContainerName"), ec.TargetContainerName))
		}
		for _, f := range []struct {
			name string
			set  bool
		}{
			{"ports", ctr.Ports != nil}, {"resources", !emptyRequirements(&ctr.Resources)},
			{"resizePolicy", ctr.ResizePolicy != nil}, {"restartPolicy", ctr.RestartPolicy != nil},
			{"restartPolicyRules", ctr.RestartPolicyRules != nil}, {"livenessProbe", ctr.LivenessProbe != nil},
			{"readinessProbe", ctr.ReadinessProbe != nil}, {"startupProbe", ctr.StartupProbe != nil},
			{"lifecycle", ctr.Lifecycle != nil},
		} {
			if f.set {
				c.forbidden(at.Child(f.name), "cannot be set for an Ephemeral Container")
			}
		}
		for j, m := range ec.VolumeMounts {
			if m.SubPath != "" {
				c.forbidden(at.Child("volumeMounts").Index(j).Child("subPath"), "cannot be set for an Ephemeral Container")
			}
			if m.SubPathExpr != "" {
				c.forbidden(at.Child("volumeMounts").Index(j).Child("subPathExpr"), "cannot be set for an Ephemeral Container")
			}
		}
	}
}

func emptyRequirements(r *corev1.ResourceRequirements) bool {
	return r.Limits == nil && r.Requests == nil && r.Claims == nil
}

// ports checks the ports that a container names.
func (c *podCheck) ports(ports []corev1.ContainerPort, path *field.Path) {
	names := map[string]bool{}
	for i, p := range ports {
		at := path.Index(i)
		if p.Name != "" {
			messages := validation.IsValidPortName(p.Name)
			c.messages(at.Child("name"), p.Name, messages)
			if len(messages) == 0 {
				if names[p.Name] {
					c.duplicate(at.Child("name"), p.Name)
				}
				names[p.Name] = true
			}
		}
		if p.ContainerPort == 0 {
			c.required(at.Child("containerPort"), "")
		} else {
			c.messages(at.Child("containerPort"), p.ContainerPort, validation.IsValidPortNum(int(p.ContainerPort)))
		}
		if p.HostPort != 0 {
			c.messages(at.Child("hostPort"), p.HostPort, validation.IsValidPortNum(int(p.HostPort)))
		}
		requiredAmong(c, at.Child("protocol"), p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
	}
}

// hostPorts wants each port of the host to be asked for once.
func (c *podCheck) hostPorts(path *field.Path, containers ...corev1.Container) {
	taken := map[string]bool{}
	for i := range containers {
		for j, p := range containers[i].Ports {
			if p.HostPort == 0 {
				continue
			}
			key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
			if taken[key] {
				c.duplicate(path.Index(i).Child("ports").Index(j).Child("hostPort"), key)
			}
			taken[key] = true
		}
	}
}

// resizePolicy checks what a change of a container's resources does to it.
func (c *podCheck) resizePolicy(policies []corev1.ContainerResizePolicy, path *field.Path) {
	seen := map[corev1.ResourceName]bool{}
	for i, p := range policies {
		if seen[p.ResourceName] {
			c.duplicate(path.Index(i), p.ResourceName)
		}
		seen[p.ResourceName] = true
		requiredAmong(c, path, p.ResourceName, corev1.ResourceCPU, corev1.ResourceMemory)
		requiredAmong(c, path, p.RestartPolicy, corev1.NotRequired, corev1.RestartContainer)
		if c.spec.RestartPolicy == corev1.RestartPolicyNever && p.RestartPolicy != corev1.NotRequired {
			c.invalid(path, p.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'")
		}
	}
}

// fileKeyVolumes wants the volume of every variable that is read from a file
// to be an empty folder (KEP-3721).
func (c *podCheck) fileKeyVolumes(path *field.Path) {
	sources := map[string]*corev1.VolumeSource{}
	for i := range c.spec.Volumes {
		sources[c.spec.Volumes[i].Name] = &c.spec.Volumes[i].VolumeSource
	}
	c.eachContainer(path, func(ctr *corev1.Container, at *field.Path) {
		for i, e := range ctr.Env {
			if e.ValueFrom == nil || e.ValueFrom.FileKeyRef == nil {
				continue
			}
			name := e.ValueFrom.FileKeyRef.VolumeName
			where := at.Child("env").Index(i).Child("valueFrom", "fileKeyRef", "volumeName")
			if source := sources[name]; source == nil {
				c.add(field.NotFound(where, name))
			} else if source.EmptyDir == nil {
				c.invalid(where, name, "referenced volume must be of type emptyDir")
			}
		}
	})
}

// eachContainer calls f for every container with where it is.
func (c *podCheck) eachContainer(path *field.Path, f func(*corev1.Container, *field.Path)) {
	s := c.spec
	for i := range s.InitContainers {
		f(&s.InitContainers[i], path.Child("initContainers").Index(i))
	}
	for i := range s.Containers {
		f(&s.Containers[i], path.Child("containers").Index(i))
	}
	for i := range s.EphemeralContainers {
		f((*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon), path.Child("ephemeralContainers").Index(i))
	}
}

// hasDotDot tells whether an element of a path is "..".
func hasDotDot(p string) bool {
	for _, part := range strings.Split(p, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}
