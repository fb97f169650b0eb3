package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/services/nodeagent/logs"
	"github.com/rutterhq/rutter/services/nodeagent/podspec"
	"github.com/rutterhq/rutter/services/nodeagent/runtime"
	"github.com/rutterhq/rutter/services/nodeagent/volumes"
)

// actMax bounds one step's calls of containerd and the kernel.
const actMax = 2 * time.Minute

// act does one thing and notes what came of it. What goes wrong with the pod
// itself is noted in its World; an error is what the agent should try again.
func (a *Agent) act(ctx context.Context, v *kernel.View, p *pod, g Goal, do Action) error {
	ctx, cancel := context.WithTimeout(ctx, actMax)
	defer cancel()
	spec := findContainer(g.Pod, do.Container)
	switch do.Do {
	case Wait:
		return nil
	case Admit:
		a.admit(p, g)
		return nil
	case Sandbox:
		return a.sandbox(ctx, p, g)
	case Mount:
		return a.mount(ctx, v, p, g)
	case Pull:
		return a.pull(ctx, v, p, g, spec)
	case Start:
		return a.start(ctx, v, p, g, spec)
	case PostStart:
		return a.postStart(p, g, spec)
	case PreStop:
		return a.preStop(p, g, spec)
	case Stopping:
		a.markStop(p, g, spec, do.Grace, fmt.Sprintf("Stopping container %s", spec.Name))
		return nil
	case Term, Kill:
		return a.signal(ctx, p, spec, do.Do)
	case Reap:
		return a.reapContainer(ctx, p, g, spec)
	case Finish:
		return nil // reportStatus writes it
	case Teardown:
		return a.teardown(ctx, p, g)
	case Delete:
		return a.deletePod(ctx, v, p, g)
	case Forget:
		return a.forget(p, g)
	}
	panic("an action that nobody knows: " + string(do.Do))
}

func findContainer(p *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// admit asks whether the node has what the pod was promised.
func (a *Agent) admit(p *pod, g Goal) {
	var others []*corev1.Pod
	for _, o := range a.all() {
		if o == p {
			continue
		}
		o.mu.Lock()
		if w := &o.world; w.Admitted && w.Refused == nil && !w.Ended && !w.Final {
			others = append(others, o.spec)
		}
		o.mu.Unlock()
	}
	a.mu.Lock()
	node := a.node
	a.mu.Unlock()
	verdict := AdmitPod(node, others, g.Pod)
	p.update(func(w *World) { w.Admitted, w.Refused = true, verdict })
	if verdict != nil {
		a.events.add(g.Pod, "", corev1.EventTypeWarning, verdict.Reason, verdict.Message)
	}
}

// postStart begins a hook. If it fails the container is ended, as Kubernetes
// has it.
func (a *Agent) postStart(p *pod, g Goal, spec *corev1.Container) error {
	if !hasPostStart(spec) {
		p.update(func(w *World) { w.container(spec.Name).PostStart = HookDone })
		return nil
	}
	var id string
	p.update(func(w *World) {
		c := w.container(spec.Name)
		c.PostStart, id = HookRunning, c.ID
	})
	a.async(p, func(ctx context.Context) func(*World) {
		err := a.runHandler(ctx, p, g.Pod, spec, id, spec.Lifecycle.PostStart)
		return func(w *World) {
			c := w.container(spec.Name)
			if c.ID != id {
				return
			}
			c.PostStart = HookDone
			if err != nil && c.Phase == Running && c.Stop == nil {
				a.events.add(g.Pod, spec.Name, corev1.EventTypeWarning, "FailedPostStartHook", err.Error())
				c.Stop = &Stop{Since: a.now(), Grace: podGrace(g.Pod), PreStop: HookDone, Reason: "FailedPostStartHook"}
			}
		}
	})
	return nil
}

func podGrace(p *corev1.Pod) time.Duration {
	if s := p.Spec.TerminationGracePeriodSeconds; s != nil {
		return time.Duration(*s) * time.Second
	}
	return corev1.DefaultTerminationGracePeriodSeconds * time.Second
}

// preStop begins a hook; its time counts as grace.
func (a *Agent) preStop(p *pod, g Goal, spec *corev1.Container) error {
	var id string
	var left time.Duration
	p.update(func(w *World) {
		c := w.container(spec.Name)
		c.Stop.PreStop, id, left = HookRunning, c.ID, c.Stop.Grace
	})
	a.async(p, func(ctx context.Context) func(*World) {
		ctx, cancel := context.WithTimeout(ctx, left)
		defer cancel()
		if err := a.runHandler(ctx, p, g.Pod, spec, id, spec.Lifecycle.PreStop); err != nil {
			a.events.add(g.Pod, spec.Name, corev1.EventTypeWarning, "FailedPreStopHook", err.Error())
		}
		return func(w *World) {
			if c := w.container(spec.Name); c.ID == id && c.Stop != nil {
				c.Stop.PreStop = HookDone
			}
		}
	})
	return nil
}

// markStop begins a container's end.
func (a *Agent) markStop(p *pod, g Goal, spec *corev1.Container, grace time.Duration, why string) {
	p.update(func(w *World) { w.Stop(spec.Name, grace, why, a.now()) })
	if !g.Gone {
		a.events.add(g.Pod, spec.Name, corev1.EventTypeNormal, "Killing", why)
	}
}

// signal sends what ends a container.
func (a *Agent) signal(ctx context.Context, p *pod, spec *corev1.Container, do Verb) error {
	var id, image string
	p.update(func(w *World) { c := w.container(spec.Name); id, image = c.ID, c.Ref })
	if do == Kill {
		if err := a.rt.Signal(ctx, id, syscall.SIGKILL, true); err != nil {
			return err
		}
		p.update(func(w *World) {
			if c := w.container(spec.Name); c.Stop != nil {
				c.Stop.Killed = a.now()
			}
		})
		return nil
	}
	sig := syscall.SIGTERM
	if l := spec.Lifecycle; l != nil && l.StopSignal != nil {
		sig = stopSignal(string(*l.StopSignal))
	} else if img, err := a.rt.Present(ctx, image); err == nil {
		sig = stopSignal(img.Config.StopSignal)
	}
	if err := a.rt.Signal(ctx, id, sig, false); err != nil {
		return err
	}
	p.update(func(w *World) {
		if c := w.container(spec.Name); c.Stop != nil {
			c.Stop.Termed = a.now()
		}
	})
	return nil
}

// reapContainer takes a container's exit.
func (a *Agent) reapContainer(ctx context.Context, p *pod, g Goal, spec *corev1.Container) error {
	var id string
	var attempt int
	var started time.Time
	p.update(func(w *World) {
		c := w.container(spec.Name)
		id, attempt, started = c.ID, c.Attempt, c.StartedAt
	})
	x, err := a.rt.Reap(ctx, id, a.cgroup(g.Pod, spec.Name))
	if err != nil {
		return err
	}
	last := terminated(x, id, started)
	if last.Message == "" {
		last.Message = a.lastWords(ctx, g.Pod, spec, attempt, x.Code)
	}
	p.update(func(w *World) { w.Exit(spec.Name, last) })
	if c := p.container(spec.Name); heldBack(&c) > 0 && restarts(g.Pod, spec, &c) && !g.Stopping && !g.Gone {
		a.events.add(g.Pod, spec.Name, corev1.EventTypeWarning, "BackOff",
			fmt.Sprintf("Back-off restarting failed container %s in pod %s_%s(%s)", spec.Name, g.Pod.Name, g.Pod.Namespace, g.Pod.UID))
	}
	return nil
}

// container returns a copy of what is known of a container.
func (p *pod) container(name string) Container {
	p.mu.Lock()
	defer p.mu.Unlock()
	return *p.world.peek(name)
}

// terminated puts an exit as Kubernetes does.
func terminated(x runtime.Exit, id string, started time.Time) *corev1.ContainerStateTerminated {
	reason := x.Reason
	switch {
	case reason != "":
	case x.OOM:
		reason = "OOMKilled"
	case x.Code == 0:
		reason = "Completed"
	default:
		reason = "Error"
	}
	return &corev1.ContainerStateTerminated{
		ExitCode: x.Code, Reason: reason, Message: x.Message, StartedAt: metav1.NewTime(started.Truncate(time.Second)),
		FinishedAt: metav1.NewTime(x.FinishedAt.Truncate(time.Second)), ContainerID: "containerd://" + id,
	}
}

// Bounds of a termination message, as kubelet has them.
const (
	messageMax  = 4096 // bytes of a message file
	logMax      = 2048 // bytes of the log, when it stands in
	logMaxLines = 80
)

// lastWords is what a container said about its end.
func (a *Agent) lastWords(ctx context.Context, p *corev1.Pod, spec *corev1.Container, attempt int, code int32) string {
	b, err := os.ReadFile(a.terminationPath(p, spec.Name, attempt))
	if len(b) > messageMax {
		b = b[:messageMax]
	}
	if err == nil && len(b) > 0 {
		return string(b)
	}
	if code != 0 && spec.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError {
		return logs.Tail(ctx, a.logPath(p, spec.Name, attempt), logMaxLines, logMax)
	}
	return ""
}

func (a *Agent) terminationPath(p *corev1.Pod, container string, attempt int) string {
	return filepath.Join(a.podDir(p), "termination", container, fmt.Sprint(attempt))
}

// teardown frees what a pod used. Of one that ran to its end and is still in
// the log the logs stay.
func (a *Agent) teardown(ctx context.Context, p *pod, g Goal) error {
	p.stopProbes()
	var ids []string
	p.update(func(w *World) {
		for _, c := range w.Containers {
			if c.ID != "" {
				ids = append(ids, c.ID)
			}
		}
	})
	for _, id := range ids {
		if err := a.rt.Remove(ctx, id); err != nil {
			return err
		}
	}
	switch n := a.net(); {
	case n != nil:
		if err := n.Detach(ctx, string(g.Pod.UID)); err != nil {
			return err
		}
	case a.hasPodRange():
		return errNoNetwork // in a moment; an agent before this one may have attached the pod
	}
	if err := volumes.Remove(a.podDir(g.Pod)); err != nil {
		return err
	}
	runtime.RemoveCgroup(a.podCgroup(g.Pod))
	p.update(func(w *World) {
		w.Sandbox, w.Volumes, w.IPs = Step{}, Step{}, nil
		w.TornDown = true
	})
	return nil
}

// forget drops a pod's state, and its logs.
func (a *Agent) forget(p *pod, g Goal) error {
	if err := os.RemoveAll(a.logDir(g.Pod)); err != nil {
		return fmt.Errorf("remove logs: %w", err)
	}
	p.stopProbes()
	p.cancel()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pods[p.key] == p {
		delete(a.pods, p.key)
	}
	return nil
}

// pull makes sure that a container's image is here. A fetch from a registry
// runs beside the steps.
func (a *Agent) pull(ctx context.Context, v *kernel.View, p *pod, g Goal, spec *corev1.Container) error {
	if spec.ImagePullPolicy != corev1.PullAlways {
		img, err := a.rt.Present(ctx, spec.Image)
		switch {
		case err == nil:
			p.update(func(w *World) { imageReady(w.container(spec.Name), img) })
			return nil
		case errors.Is(err, runtime.ErrImageName):
			a.pullFailed(p, g, spec, reasonBadImage, fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name: %v", spec.Image, err))
			return nil
		case !errors.Is(err, runtime.ErrNoImage):
			return err
		case spec.ImagePullPolicy == corev1.PullNever:
			a.pullFailed(p, g, spec, reasonNeverPull, fmt.Sprintf("Container image %q is not present with pull policy of Never", spec.Image))
			return nil
		}
	}
	credentials := pullSecrets(v, g.Pod)
	p.update(func(w *World) { w.container(spec.Name).Pulling = true })
	a.events.add(g.Pod, spec.Name, corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", spec.Image))
	a.async(p, func(ctx context.Context) func(*World) {
		begun := a.now()
		img, err := a.rt.Pull(ctx, spec.Image, credentials)
		return func(w *World) {
			c := w.container(spec.Name)
			c.Pulling = false
			switch {
			case err == nil:
				imageReady(c, img)
				a.events.add(g.Pod, spec.Name, corev1.EventTypeNormal, "Pulled",
					fmt.Sprintf("Successfully pulled image %q in %s", spec.Image, a.now().Sub(begun).Round(time.Millisecond)))
			case errors.Is(err, runtime.ErrImageName):
				c.Image.fail(reasonBadImage, err.Error(), a.now(), pullDelayFirst, pullDelayMax)
			default:
				c.Image.fail(reasonPullFailed, err.Error(), a.now(), pullDelayFirst, pullDelayMax)
				a.events.add(g.Pod, spec.Name, corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", spec.Image, err))
			}
		}
	})
	return nil
}

func imageReady(c *Container, img *runtime.Image) {
	c.Image = Step{Done: true}
	c.Ref, c.ImageID = img.Name, img.ID
	if img.RepoDigest != "" {
		c.ImageID = img.RepoDigest
	}
}

func (a *Agent) pullFailed(p *pod, g Goal, spec *corev1.Container, reason, message string) {
	p.update(func(w *World) {
		w.container(spec.Name).Image.fail(reason, message, a.now(), pullDelayFirst, pullDelayMax)
	})
	a.events.add(g.Pod, spec.Name, corev1.EventTypeWarning, "Failed", message)
}

// pullSecrets reads the credentials that a pod brings for its registries.
func pullSecrets(v *kernel.View, p *corev1.Pod) []runtime.Credential {
	var out []runtime.Credential
	for _, ref := range p.Spec.ImagePullSecrets {
		s, ok := secret(v, p.Namespace, ref.Name)
		if !ok {
			continue // as kubelet: the pull may do without
		}
		b, legacy := s.Data[corev1.DockerConfigJsonKey], false
		if len(b) == 0 {
			b, legacy = s.Data[corev1.DockerConfigKey], true
		}
		found, err := runtime.ParseDockerConfig(b, legacy)
		if err == nil {
			out = append(out, found...)
		}
	}
	return out
}

// start runs a container, a new run of it if one has been.
func (a *Agent) start(ctx context.Context, v *kernel.View, p *pod, g Goal, spec *corev1.Container) error {
	was := p.container(spec.Name)
	attempt := was.Attempt
	if was.Phase == Exited {
		attempt++
	}
	k, err := a.containerConfig(ctx, v, p, g, spec, attempt)
	if err != nil {
		reason := reasonConfig
		var start *runtime.StartError
		if errors.As(err, &start) {
			reason = reasonCreate
		}
		a.createFailed(p, g, spec, reason, err)
		return nil
	}
	if was.ID != "" {
		if err := a.rt.Remove(ctx, was.ID); err != nil {
			return err
		}
		a.dropOldLogs(g.Pod, spec.Name, attempt)
	}
	started, err := a.rt.Start(ctx, k)
	var refused *runtime.StartError
	switch {
	case err == nil:
		p.update(func(w *World) { w.Begin(g.Pod, spec, k.ID, attempt, started.At) })
		return a.mayHaveEnded(ctx, p, spec, k.ID)
	case errors.As(err, &refused):
		now := a.now()
		p.update(func(w *World) {
			w.Begin(g.Pod, spec, k.ID, attempt, now)
			w.Exit(spec.Name, terminated(runtime.Exit{Code: 128, Reason: "StartError", Message: err.Error(), FinishedAt: now}, k.ID, time.Unix(0, 0)))
		})
		a.events.add(g.Pod, spec.Name, corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
		return nil
	case errors.Is(err, runtime.ErrRoot), errors.Is(err, runtime.ErrNamedUser), errors.Is(err, runtime.ErrNoCommand):
		a.createFailed(p, g, spec, reasonConfig, err)
		return nil
	case ctx.Err() != nil:
		return err
	}
	a.createFailed(p, g, spec, reasonCreate, err)
	return nil
}

// mayHaveEnded looks at a container that was just started: if its end came
// before the agent knew its id, nobody will tell of it again.
func (a *Agent) mayHaveEnded(ctx context.Context, p *pod, spec *corev1.Container, id string) error {
	up, err := a.rt.Running(ctx, id)
	if err != nil {
		return err
	}
	if !up {
		p.update(func(w *World) {
			if c := w.container(spec.Name); c.ID == id && c.Phase == Running {
				c.Phase = Ended
			}
		})
	}
	return nil
}

func (a *Agent) createFailed(p *pod, g Goal, spec *corev1.Container, reason string, err error) {
	p.update(func(w *World) {
		c := w.container(spec.Name)
		c.Create.fail(reason, err.Error(), a.now(), time.Second, crashDelayMax)
	})
	a.events.add(g.Pod, spec.Name, corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
}

// dropOldLogs keeps the logs of the present run and of the one before it.
func (a *Agent) dropOldLogs(p *corev1.Pod, container string, attempt int) {
	old, _ := filepath.Glob(filepath.Join(a.logDir(p), container, "*.log*"))
	for _, path := range old {
		var n int
		if _, err := fmt.Sscanf(filepath.Base(path), "%d.log", &n); err == nil && n < attempt-1 {
			os.Remove(path)
		}
	}
}

// deletePod takes a pod out of the log: nothing of it is left on the node.
func (a *Agent) deletePod(ctx context.Context, v *kernel.View, p *pod, g Goal) error {
	return a.writeDelete(ctx, v, p, g)
}

// facts are what the node knows of a pod.
func (a *Agent) facts(p *pod) podspec.Facts {
	f := podspec.Facts{HostIPs: a.hostIPs(), Allocatable: a.allocatable()}
	p.mu.Lock()
	defer p.mu.Unlock()
	f.PodIPs = p.world.IPs
	if p.spec.Spec.HostNetwork {
		f.PodIPs = f.HostIPs
	}
	return f
}
