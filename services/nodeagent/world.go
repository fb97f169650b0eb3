package nodeagent

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/rutterhq/rutter/kernel"
)

// Goal is what the View asks of one pod on this node.
type Goal struct {
	Pod *corev1.Pod // shared; of a pod that is gone, as it was last
	Seq kernel.Seq  // the event that made it so
	// Gone: the pod is no longer in the log, or no longer this node's. What is
	// left of it goes, and nothing is written about it.
	Gone bool
	// Stopping: it was asked to go.
	Stopping bool
	Grace    time.Duration // of Stopping
	// Routed: traffic may still be sent to the pod: an endpoint that serves names it, or the
	// local datapath has not yet heard that none does.
	Routed bool
	// Sources stamps the contents of its volumes: they are written again when
	// it changes.
	Sources string
}

// World is what there is of one pod on this node: what a Goal is compared with.
// Everything in it was observed; nothing is planned.
type World struct {
	UID      types.UID
	Since    time.Time // when the node first saw the pod: its startTime
	Admitted bool
	Refused  *Verdict // the node's own admission said no

	Sandbox    Step // namespaces, network, folders
	IPs        []string
	Volumes    Step
	VolumesAt  string    // the Sources that are in them
	RefreshAt  time.Time // when a token in them should be renewed; zero: never
	Containers map[string]*Container
	// Initialized: an app container was once started; init containers have done
	// their part and are not run again.
	Initialized bool
	StopSince   time.Time // when the node first saw that it should go
	Final       bool      // its last status is in the log
	TornDown    bool
	// Ended: the log says that the pod has run to its end, and it was not this
	// process that said so. It is not run again, and its status is not written
	// again.
	Ended bool
}

// Step is the state of something that is made once, and again after a failure.
type Step struct {
	Done    bool
	Reason  string // why not; a reason as Kubernetes names them
	Message string
	Fails   int
	Failed  time.Time // when it last did
	RetryAt time.Time
}

// Verdict is why the node refuses a pod, as kubelet says it.
type Verdict struct{ Reason, Message string }

// Phase is where a container stands.
type Phase int

// The phases of a container's run.
const (
	Absent  Phase = iota // never started, or its run was removed
	Running              // its process runs
	Ended                // its process ended and was not reaped
	Exited               // reaped: Last says how
)

// Hook is the state of a lifecycle hook.
type Hook int

// The states of a hook.
const (
	HookNone    Hook = iota // not run yet
	HookRunning             // being run
	HookDone                // over, or there is none
)

// Container is what there is of one container of a pod.
type Container struct {
	Phase     Phase
	Attempt   int    // of the present run, from 0
	ID        string // of the present run
	StartedAt time.Time
	Last      *corev1.ContainerStateTerminated // of the present run, once Exited
	Before    *corev1.ContainerStateTerminated // of the run before

	Image   Step // present on this node, for the next start
	Pulling bool
	ImageID string
	Ref     string // the image's name as it was resolved

	Create    Step // failures before there was a process: configuration, mounts
	Delay     time.Duration
	Restarted time.Time // when the back-off was last raised

	PostStart Hook
	Started   bool // the startup probe has succeeded, or there is none
	Ready     bool // the readiness probe succeeds, or there is none
	Stop      *Stop
}

// Stop is a container's way to its end: preStop, SIGTERM, a wait, SIGKILL.
type Stop struct {
	Since   time.Time
	Grace   time.Duration
	Reason  string // for the event: why
	PreStop Hook
	Termed  time.Time // when SIGTERM was sent; zero: not yet
	Killed  time.Time // when SIGKILL was last sent
}

// Limits of the agent's patience.
const (
	crashDelayFirst = 10 * time.Second // kubelet's back-off: first delay ...
	crashDelayMax   = 5 * time.Minute  // ... and longest
	crashForget     = 10 * time.Minute // a run this long clears the back-off
	pullDelayFirst  = 10 * time.Second
	pullDelayMax    = 5 * time.Minute
	pullSettle      = 2 * time.Second        // how long a first failure shows as such, and not yet as a back-off
	retryDelayFirst = 500 * time.Millisecond // for volumes, network: mostly waiting for an object to appear
	retryDelayMax   = 10 * time.Second
	routedMax       = 2 * time.Second        // how long SIGTERM waits for traffic to go elsewhere
	routedLook      = 20 * time.Millisecond  // how often it looks: the datapath does not call when it has caught up
	killAgain       = 2 * time.Second        // a SIGKILL that showed nothing is sent again
	termMin         = 500 * time.Millisecond // between SIGTERM and SIGKILL, when preStop took all the grace
)

// delay doubles from first to max: n is how many failures there were.
func delay(n int, first, max time.Duration) time.Duration {
	for range n - 1 {
		if first *= 2; first >= max {
			return max
		}
	}
	return first
}

// fail notes a failure of a step.
func (s *Step) fail(reason, message string, now time.Time, first, max time.Duration) {
	s.Fails++
	s.Done, s.Reason, s.Message = false, reason, message
	s.Failed = now
	s.RetryAt = now.Add(delay(s.Fails, first, max))
}

// backingOff tells whether a failed pull is shown as a wait for the next one.
func (s *Step) backingOff(now time.Time) bool {
	return s.Reason == reasonPullFailed && (s.Fails > 1 || !now.Before(s.Failed.Add(pullSettle)))
}

// containersOf returns the containers of a pod that are run one after another
// before the others, and the others.
func containersOf(p *corev1.Pod) (inits, apps []corev1.Container) {
	return p.Spec.InitContainers, p.Spec.Containers
}

// sidecar tells whether an init container runs beside the app containers.
func sidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// restartPolicy is the pod's, or the container's own.
func restartPolicy(p *corev1.Pod, c *corev1.Container) corev1.RestartPolicy {
	if c.RestartPolicy != nil {
		return corev1.RestartPolicy(*c.RestartPolicy)
	}
	return p.Spec.RestartPolicy
}

// peek returns what is known of a container; the zero Container if nothing is.
func (w *World) peek(name string) *Container {
	if c := w.Containers[name]; c != nil {
		return c
	}
	return &Container{}
}

// container is peek for those who will change it.
func (w *World) container(name string) *Container {
	c := w.peek(name)
	if w.Containers == nil {
		w.Containers = map[string]*Container{}
	}
	w.Containers[name] = c
	return c
}

// Begin notes that a container runs: a new run, with nothing of the one before
// but how it ended.
func (w *World) Begin(p *corev1.Pod, spec *corev1.Container, id string, attempt int, at time.Time) {
	c := w.container(spec.Name)
	if c.Phase == Exited {
		c.Before, c.Delay, c.Restarted = c.Last, nextDelay(c), at
	}
	c.Phase, c.Attempt, c.ID, c.StartedAt, c.Last, c.Stop = Running, attempt, id, at.Truncate(time.Second), nil, nil
	c.Create, c.PostStart = Step{}, HookNone
	c.Started, c.Ready = spec.StartupProbe == nil, spec.ReadinessProbe == nil
	c.Image.Done = spec.ImagePullPolicy != corev1.PullAlways // asked again before the next run
	for i := range p.Spec.Containers {
		w.Initialized = w.Initialized || p.Spec.Containers[i].Name == spec.Name
	}
}

// Exit notes how a container's run ended.
func (w *World) Exit(name string, last *corev1.ContainerStateTerminated) {
	c := w.container(name)
	if c.Restarted.IsZero() {
		c.Restarted = c.StartedAt
	}
	c.Phase, c.Last, c.Stop, c.Ready, c.Started = Exited, last, nil, false, false
}

// Stop notes that a container shall end; again, that it shall end sooner.
func (w *World) Stop(name string, grace time.Duration, why string, now time.Time) {
	c := w.container(name)
	if c.Stop != nil {
		c.Stop.Grace = grace
		return
	}
	c.Stop = &Stop{Since: now, Grace: grace, Reason: why}
}
