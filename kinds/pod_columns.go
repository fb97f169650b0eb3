package kinds

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// podColumns are what kubectl get pods shows. Their texts are what scripts
// and people have learned to read, so they are exactly Kubernetes'.
var podColumns = []Column[*corev1.Pod]{
	nameColumn[*corev1.Pod](),
	{Name: "Ready", Description: "How many of its containers are ready.", Value: func(p *corev1.Pod, _ time.Time) any {
		s := summarizePod(p)
		return fmt.Sprintf("%d/%d", s.ready, s.containers)
	}},
	{Name: "Status", Description: "What it does, or what keeps it from it.", Value: func(p *corev1.Pod, _ time.Time) any {
		return summarizePod(p).reason
	}},
	{Name: "Restarts", Description: "How often its containers were restarted, and when last.", Value: func(p *corev1.Pod, now time.Time) any {
		s := summarizePod(p)
		if s.restarts == 0 || s.lastRestart.IsZero() {
			return strconv.Itoa(s.restarts)
		}
		return fmt.Sprintf("%d (%s ago)", s.restarts, duration.HumanDuration(now.Sub(s.lastRestart)))
	}},
	ageColumn[*corev1.Pod](),
	{Name: "IP", Wide: true, Description: "Its address.", Value: func(p *corev1.Pod, _ time.Time) any {
		if len(p.Status.PodIPs) == 0 {
			return none
		}
		return orNone(p.Status.PodIPs[0].IP)
	}},
	{Name: "Node", Wide: true, Description: "The node it is bound to.", Value: func(p *corev1.Pod, _ time.Time) any {
		return orNone(p.Spec.NodeName)
	}},
	{Name: "Nominated Node", Wide: true, Description: "The node on which room is being made for it.", Value: func(p *corev1.Pod, _ time.Time) any {
		return orNone(p.Status.NominatedNodeName)
	}},
	{Name: "Readiness Gates", Wide: true, Description: "How many of the conditions it waits for are true.", Value: func(p *corev1.Pod, _ time.Time) any {
		if len(p.Spec.ReadinessGates) == 0 {
			return none
		}
		open := 0
		for _, g := range p.Spec.ReadinessGates {
			if podCondition(&p.Status, g.ConditionType).Status == corev1.ConditionTrue {
				open++
			}
		}
		return fmt.Sprintf("%d/%d", open, len(p.Spec.ReadinessGates))
	}},
}

// podSummary is a pod in one line.
type podSummary struct {
	ready, containers int // sidecars count as containers
	restarts          int
	lastRestart       time.Time
	reason            string
}

// restarted counts what a container's status says of its restarts.
func (s *podSummary) restarted(c *corev1.ContainerStatus) {
	s.restarts += int(c.RestartCount)
	if t := c.LastTerminationState.Terminated; t != nil && t.FinishedAt.After(s.lastRestart) {
		s.lastRestart = t.FinishedAt.Time
	}
}

// summarizePod finds the one word for a pod: of its phase, its status reason,
// its scheduling, its init containers, its containers and its deletion the
// latest that has something to say.
func summarizePod(p *corev1.Pod) podSummary {
	s := podSummary{containers: len(p.Spec.Containers), reason: string(p.Status.Phase)}
	if p.Status.Reason != "" {
		s.reason = p.Status.Reason
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			s.reason = corev1.PodReasonSchedulingGated
		}
	}
	sidecars, initializing := s.initialization(p)
	if !initializing || podCondition(&p.Status, corev1.PodInitialized).Status == corev1.ConditionTrue {
		s.restarts, s.lastRestart = sidecars.restarts, sidecars.lastRestart
		s.running(p)
	}
	switch {
	case p.DeletionTimestamp == nil:
	case p.Status.Reason == nodeUnreachableReason:
		s.reason = "Unknown"
	case !podEnded(p):
		s.reason = "Terminating"
	}
	return s
}

// nodeUnreachableReason is the status reason of pods on a lost node.
const nodeUnreachableReason = "NodeLost"

// initialization looks at the init containers up to the first that is not
// done, and tells whether there is one. sidecars are the restarts of those
// that keep running.
func (s *podSummary) initialization(p *corev1.Pod) (sidecars podSummary, initializing bool) {
	sidecar := map[string]bool{}
	for i := range p.Spec.InitContainers {
		if isSidecar(&p.Spec.InitContainers[i]) {
			sidecar[p.Spec.InitContainers[i].Name] = true
			s.containers++
		}
	}
	for i := range p.Status.InitContainerStatuses {
		c := &p.Status.InitContainerStatuses[i]
		s.restarted(c)
		if sidecar[c.Name] {
			sidecars.restarted(c)
		}
		switch died, waits := c.State.Terminated, c.State.Waiting; {
		case died != nil && died.ExitCode == 0:
			continue
		case sidecar[c.Name] && c.Started != nil && *c.Started:
			if c.Ready {
				s.ready++
			}
			continue
		case died != nil:
			s.reason = "Init:" + terminationReason(died)
		case waits != nil && waits.Reason != "" && waits.Reason != "PodInitializing":
			s.reason = "Init:" + waits.Reason
		default:
			s.reason = fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers))
		}
		return sidecars, true
	}
	return sidecars, false
}

// running looks at the containers of an initialized pod, the first last, so
// that its word counts most.
func (s *podSummary) running(p *corev1.Pod) {
	anyRuns, failure := false, ""
	for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := &p.Status.ContainerStatuses[i]
		s.restarted(c)
		switch died, waits := c.State.Terminated, c.State.Waiting; {
		case waits != nil && waits.Reason != "":
			s.reason = waits.Reason
		case died != nil:
			s.reason = terminationReason(died)
			if died.ExitCode != 0 {
				failure = s.reason
			}
		case c.Ready && c.State.Running != nil:
			anyRuns = true
			s.ready++
		}
	}
	if s.reason != "Completed" {
		return
	}
	switch {
	case anyRuns && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	}):
		s.reason = "Running"
	case failure != "":
		s.reason = failure
	case anyRuns:
		s.reason = "NotReady"
	}
}

func terminationReason(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", t.ExitCode)
}

// isSidecar tells whether an init container keeps running beside the others
// (KEP-753).
func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}
