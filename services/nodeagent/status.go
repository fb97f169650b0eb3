package nodeagent

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons that a container waits for, as kubelet says them.
const (
	reasonCreating     = "ContainerCreating"
	reasonInitializing = "PodInitializing"
	reasonCrashLoop    = "CrashLoopBackOff"
	reasonPullBackOff  = "ImagePullBackOff"
	reasonPullFailed   = "ErrImagePull"
	reasonNeverPull    = "ErrImageNeverPull"
	reasonBadImage     = "InvalidImageName"
	reasonConfig       = "CreateContainerConfigError"
	reasonCreate       = "CreateContainerError"
	reasonRun          = "RunContainerError"
)

// StatusOf is a pod's status as the node sees it, in the form kubelet gives it.
// Pure: old is the status in the log, from which come the times of conditions
// that did not change and what others wrote.
func StatusOf(p *corev1.Pod, w *World, hostIPs []string, now time.Time) corev1.PodStatus {
	old := &p.Status
	s := corev1.PodStatus{
		QOSClass: old.QOSClass, NominatedNodeName: "", ObservedGeneration: p.Generation,
		ResourceClaimStatuses: old.ResourceClaimStatuses, Resize: old.Resize,
	}
	started := metaTime(w.Since)
	if old.StartTime != nil {
		started = *old.StartTime
	}
	s.StartTime = &started
	if w.Refused != nil {
		s.Phase, s.Reason, s.Message = corev1.PodFailed, w.Refused.Reason, "Pod was rejected: "+w.Refused.Message
		s.Conditions = slices.Clone(old.Conditions)
		return s
	}
	for _, ip := range hostIPs {
		s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: ip})
	}
	if len(hostIPs) > 0 {
		s.HostIP = hostIPs[0]
	}
	ips := w.IPs
	if p.Spec.HostNetwork && w.Sandbox.Done {
		ips = hostIPs
	}
	for _, ip := range ips {
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip})
	}
	if len(ips) > 0 {
		s.PodIP = ips[0]
	}
	inits, apps := containersOf(p)
	initialized := w.Initialized || initDone(inits, w)
	again := map[string]bool{} // which containers run or shall run
	if r := planRun(p, w); !r.over && w.StopSince.IsZero() {
		for _, spec := range r.up {
			again[spec.Name] = true
		}
	}
	for i := range inits {
		s.InitContainerStatuses = append(s.InitContainerStatuses, containerStatus(p, &inits[i], w, true, again[inits[i].Name], now))
	}
	for i := range apps {
		s.ContainerStatuses = append(s.ContainerStatuses, containerStatus(p, &apps[i], w, false, again[apps[i].Name], now))
	}
	s.Phase = phaseOf(p, w, &s)
	setConditions(p, w, &s, initialized, now)
	return s
}

// initDone: every init container has done its part.
func initDone(inits []corev1.Container, w *World) bool {
	for i := range inits {
		c := w.Containers[inits[i].Name]
		switch {
		case c == nil:
			return false
		case sidecar(&inits[i]):
			if !c.Started {
				return false
			}
		case c.Phase != Exited || c.Last.ExitCode != 0:
			return false
		}
	}
	return true
}

func containerStatus(p *corev1.Pod, spec *corev1.Container, w *World, init, restarting bool, now time.Time) corev1.ContainerStatus {
	c := w.Containers[spec.Name]
	if c == nil {
		c = &Container{}
	}
	s := corev1.ContainerStatus{Name: spec.Name, Image: spec.Image, ImageID: c.ImageID, RestartCount: int32(c.Attempt)}
	if c.Ref != "" {
		s.Image = c.Ref
	}
	if c.ID != "" {
		s.ContainerID = "containerd://" + c.ID
	}
	started, long := false, !init || sidecar(spec) // an init container that ends is never "ready" while it runs
	if c.Before != nil {
		s.LastTerminationState.Terminated = c.Before
	}
	switch c.Phase {
	case Running, Ended:
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(c.StartedAt)}
		started = c.Phase == Running && c.Started
		s.Ready = long && started && c.Ready
	case Exited:
		s.State.Terminated = c.Last
		s.Ready = !long && c.Last.ExitCode == 0
		if held := heldBack(c) > 0 || c.Create.Reason != "" || c.Image.Reason != ""; held && restarting {
			s.LastTerminationState.Terminated = c.Last
			s.State = corev1.ContainerState{Waiting: waiting(p, spec, c, now)}
		}
		if c.Last.ContainerID != "" && s.ContainerID == "" {
			s.ContainerID = c.Last.ContainerID
		}
	default:
		s.State.Waiting = waiting(p, spec, c, now)
		if !w.StopSince.IsZero() {
			// The pod goes and this container never ran, or nobody saw it run.
			s.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "ContainerStatusUnknown",
				Message: "The container could not be located when the pod was terminated"}}
		}
	}
	s.Started = &started
	if spec.Resources.Requests != nil || spec.Resources.Limits != nil {
		s.AllocatedResources = spec.Resources.Requests
		s.Resources = &corev1.ResourceRequirements{Requests: spec.Resources.Requests, Limits: spec.Resources.Limits}
	}
	if c.Phase == Running {
		s.VolumeMounts = mountStatuses(spec)
	}
	return s
}

func mountStatuses(spec *corev1.Container) []corev1.VolumeMountStatus {
	var out []corev1.VolumeMountStatus
	for _, m := range spec.VolumeMounts {
		v := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := corev1.RecursiveReadOnlyDisabled
			v.RecursiveReadOnly = &mode
		}
		out = append(out, v)
	}
	return out
}

// waiting says what a container waits for.
func waiting(p *corev1.Pod, spec *corev1.Container, c *Container, now time.Time) *corev1.ContainerStateWaiting {
	switch {
	case c.Image.backingOff(now):
		return &corev1.ContainerStateWaiting{Reason: reasonPullBackOff, Message: fmt.Sprintf("Back-off pulling image %q: %s: %s", spec.Image, c.Image.Reason, c.Image.Message)}
	case c.Image.Reason != "":
		return &corev1.ContainerStateWaiting{Reason: c.Image.Reason, Message: c.Image.Message}
	case c.Create.Reason != "":
		return &corev1.ContainerStateWaiting{Reason: c.Create.Reason, Message: c.Create.Message}
	case c.Phase == Exited && heldBack(c) > 0:
		return &corev1.ContainerStateWaiting{Reason: reasonCrashLoop,
			Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)", heldBack(c), spec.Name, p.Name, p.Namespace, p.UID)}
	case len(p.Spec.InitContainers) > 0:
		return &corev1.ContainerStateWaiting{Reason: reasonInitializing}
	}
	return &corev1.ContainerStateWaiting{Reason: reasonCreating}
}

// phaseOf sums a pod up.
func phaseOf(p *corev1.Pod, w *World, s *corev1.PodStatus) corev1.PodPhase {
	r := planRun(p, w)
	if r.over && !anyRunning(w) {
		if r.fail {
			return corev1.PodFailed
		}
		return corev1.PodSucceeded
	}
	var never, running, stopped int
	failed := false
	for _, c := range s.ContainerStatuses {
		switch {
		case c.State.Running != nil:
			running++
		case c.State.Terminated != nil || c.LastTerminationState.Terminated != nil:
			failed = failed || c.State.Terminated != nil && c.State.Terminated.ExitCode != 0
			stopped++
		default:
			never++
		}
	}
	switch {
	case never > 0:
		return corev1.PodPending
	case !w.StopSince.IsZero() && running == 0 && failed:
		return corev1.PodFailed
	case !w.StopSince.IsZero() && running == 0:
		return corev1.PodSucceeded
	case running > 0 || stopped > 0:
		return corev1.PodRunning
	}
	return corev1.PodPending
}

// Overruled tells whether the log says that the pod has run to its end where
// this node would say something else. Who wrote that is an agent before this
// one, whose write came late, or a second one of the same name. A final phase
// stays, for others have acted on it: its containers are ended instead.
func (w *World) Overruled(logged, own *corev1.PodStatus) bool {
	if !ended(logged.Phase) || own.Phase == logged.Phase {
		return false
	}
	w.Ended = true
	return true
}

// anyRunning: a sidecar outlives the app containers for a while.
func anyRunning(w *World) bool {
	for _, c := range w.Containers {
		if c.Phase == Running || c.Phase == Ended {
			return true
		}
	}
	return false
}

// setConditions writes the conditions in kubelet's order and keeps those that
// others write.
func setConditions(p *corev1.Pod, w *World, s *corev1.PodStatus, initialized bool, now time.Time) {
	s.Conditions = nil
	set := func(t corev1.PodConditionType, ok bool, reason, message string) {
		c := corev1.PodCondition{Type: t, Status: corev1.ConditionFalse, Reason: reason, Message: message,
			ObservedGeneration: p.Generation, LastTransitionTime: metaTime(now)}
		if ok {
			c.Status = corev1.ConditionTrue
		}
		if was := condition(&p.Status, t); was != nil && was.Status == c.Status {
			c.LastTransitionTime = was.LastTransitionTime
		}
		s.Conditions = append(s.Conditions, c)
	}
	over := s.Phase == corev1.PodSucceeded || s.Phase == corev1.PodFailed
	set(corev1.PodReadyToStartContainers, w.Sandbox.Done, "", "")
	reason, message := "", ""
	switch {
	case s.Phase == corev1.PodSucceeded:
		initialized, reason = true, "PodCompleted"
	case !initialized:
		reason, message = "ContainersNotInitialized", "containers with incomplete status: "+names(incomplete(p, w))
	}
	set(corev1.PodInitialized, initialized, reason, message)
	unready := unreadyContainers(s)
	ready := len(unready) == 0 && !over
	reason, message = "", ""
	switch {
	case s.Phase == corev1.PodSucceeded:
		reason = "PodCompleted"
	case s.Phase == corev1.PodFailed:
		reason = "PodFailed"
	case !ready:
		reason, message = "ContainersNotReady", "containers with unready status: "+names(unready)
	}
	podReady, podReason, podMessage := ready, reason, message
	for _, gate := range p.Spec.ReadinessGates {
		c := condition(&p.Status, gate.ConditionType)
		if podReady && (c == nil || c.Status != corev1.ConditionTrue) {
			podReady, podReason = false, "ReadinessGatesNotReady"
			podMessage = fmt.Sprintf("the status of pod readiness gate %q is not \"True\"", gate.ConditionType)
		}
	}
	set(corev1.PodReady, podReady, podReason, podMessage)
	set(corev1.ContainersReady, ready, reason, message)
	set(corev1.PodScheduled, true, "", "")
	for _, c := range p.Status.Conditions {
		if condition(s, c.Type) == nil {
			s.Conditions = append(s.Conditions, c)
		}
	}
}

func condition(s *corev1.PodStatus, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

func unreadyContainers(s *corev1.PodStatus) []string {
	var out []string
	for _, c := range s.ContainerStatuses {
		if !c.Ready {
			out = append(out, c.Name)
		}
	}
	return out
}

func incomplete(p *corev1.Pod, w *World) []string {
	var out []string
	for i := range p.Spec.InitContainers {
		if !initDone(p.Spec.InitContainers[i:i+1], w) {
			out = append(out, p.Spec.InitContainers[i].Name)
		}
	}
	return out
}

func names(list []string) string { return "[" + strings.Join(list, " ") + "]" }

// Same tells whether two statuses say the same.
func Same(a, b *corev1.PodStatus) bool { return apiequality.Semantic.DeepEqual(a, b) }

// Telling tells whether a change of status should be in the log at once: it
// says more than that the pod is still on its way up.
func Telling(old, s *corev1.PodStatus) bool {
	if old.Phase != s.Phase || s.Reason != old.Reason {
		return true
	}
	if a, b := condition(old, corev1.PodReady), condition(s, corev1.PodReady); a != nil && b != nil && a.Status != b.Status {
		return true
	}
	tells := func(old, now []corev1.ContainerStatus, init bool) bool {
		for i := range now {
			was := corev1.ContainerStatus{}
			if i < len(old) {
				was = old[i]
			}
			if x := now[i].State.Terminated; x != nil && was.State.Terminated == nil && !(init && x.ExitCode == 0) {
				return true
			}
			if now[i].RestartCount != was.RestartCount {
				return true
			}
			if x := now[i].State.Waiting; x != nil && x.Reason != reasonCreating && x.Reason != reasonInitializing &&
				(was.State.Waiting == nil || was.State.Waiting.Reason != x.Reason) {
				return true
			}
		}
		return false
	}
	return tells(old.ContainerStatuses, s.ContainerStatuses, false) || tells(old.InitContainerStatuses, s.InitContainerStatuses, true)
}

// NoteOf says in a sentence what is new in a status: the note of its event,
// which kubectl describe shows. Pure.
func NoteOf(old, s *corev1.PodStatus) string {
	var started, said []string
	compare := func(old, now []corev1.ContainerStatus) {
		for i := range now {
			c, was := &now[i], corev1.ContainerStatus{}
			if i < len(old) {
				was = old[i]
			}
			if c.State.Running != nil && (was.State.Running == nil || was.ContainerID != c.ContainerID) {
				started = append(started, c.Name)
			}
			if x := c.State.Terminated; x != nil && was.State.Terminated == nil {
				said = append(said, fmt.Sprintf("container %s ended with %d (%s)", c.Name, x.ExitCode, x.Reason))
			}
			if x := c.State.Waiting; x != nil && x.Message != "" && (was.State.Waiting == nil || was.State.Waiting.Reason != x.Reason) {
				said = append(said, fmt.Sprintf("container %s waits: %s: %s", c.Name, x.Reason, x.Message))
			}
		}
	}
	compare(old.InitContainerStatuses, s.InitContainerStatuses)
	compare(old.ContainerStatuses, s.ContainerStatuses)
	switch len(started) {
	case 0:
	case 1:
		said = append(said, "started container "+started[0])
	default:
		said = append(said, "started containers "+strings.Join(started, ", "))
	}
	if a, b := condition(old, corev1.PodReady), condition(s, corev1.PodReady); len(said) == 0 && b != nil && (a == nil || a.Status != b.Status) {
		said = append(said, map[bool]string{true: "the pod is ready", false: "the pod is not ready: " + b.Message}[b.Status == corev1.ConditionTrue])
	}
	return strings.Join(said, "; ")
}
