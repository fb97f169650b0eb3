package nodeagent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/nodeagent/runtime"
	"github.com/rutterhq/rutter/services/nodeagent/volumes"
)

func metaTime(t time.Time) metav1.Time { return metav1.NewTime(t.Truncate(time.Second)) }

// restore takes over what an agent before this one has started: the pods of
// the log with their containers, and those that are no longer in the log, which
// are then brought to their end.
func (a *Agent) restore(ctx context.Context) error {
	infos, err := a.list(ctx)
	if err != nil {
		return err
	}
	byPod := map[types.UID][]runtime.Info{}
	for _, i := range infos {
		uid := types.UID(i.Labels[runtime.LabelPodUID])
		byPod[uid] = append(byPod[uid], i)
	}
	v := a.mirror.View()
	for uid, list := range byPod {
		key := kinds.Pods.Key(list[0].Labels[runtime.LabelPodNamespace], list[0].Labels[runtime.LabelPodName])
		spec, ok := kinds.Pods.Get(v, key.Namespace, key.Name)
		live := ok && spec.UID == uid && spec.Spec.NodeName == a.cfg.Node
		if ok && !live {
			// Its name belongs to another pod now, which must not wait for it.
			if err := a.removeNow(ctx, idsOf(list)); err != nil {
				return err
			}
			continue
		}
		if !live {
			spec = stub(uid, key, list)
		}
		p := a.newPod(ctx, spec)
		if stale := adopt(&p.world, spec, list); len(stale) > 0 {
			if err := a.removeNow(ctx, stale); err != nil {
				return err
			}
		}
		a.mu.Lock()
		a.pods[key] = p
		a.mu.Unlock()
	}
	return a.sweep()
}

// list returns the containers of this node.
func (a *Agent) list(ctx context.Context) ([]runtime.Info, error) {
	infos, err := a.rt.List(ctx)
	return slices.DeleteFunc(infos, func(i runtime.Info) bool { return i.Labels[runtime.LabelNode] != a.cfg.Node }), err
}

// removeNow removes containers without further ado.
func (a *Agent) removeNow(ctx context.Context, ids []string) error {
	for _, id := range ids {
		if err := a.rt.Remove(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

func idsOf(list []runtime.Info) []string {
	ids := make([]string, len(list))
	for i := range list {
		ids[i] = list[i].ID
	}
	return ids
}

// stub stands for a pod that is gone: enough of a spec to end its containers.
func stub(uid types.UID, key kernel.Key, list []runtime.Info) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, UID: uid}}
	seen := map[string]bool{}
	for _, i := range list {
		if name := i.Labels[runtime.LabelContainer]; !seen[name] {
			seen[name] = true
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: name})
		}
	}
	return p
}

// adopt fills a World from containerd, and from the status in the log what
// containerd does not know. It returns the ids of runs that are over and whose
// removal was cut off.
func adopt(w *World, p *corev1.Pod, list []runtime.Info) (stale []string) {
	*w = World{UID: p.UID, Since: w.Since, Admitted: true, Ended: ended(p.Status.Phase)}
	if p.Status.StartTime != nil {
		w.Since = p.Status.StartTime.Time
	}
	for _, ip := range p.Status.PodIPs {
		w.IPs = append(w.IPs, ip.IP)
	}
	w.Volumes.Done = true // they are written again, and were there when the containers started
	statuses := statusesOf(p)
	for _, i := range list {
		name := i.Labels[runtime.LabelContainer]
		attempt, _ := strconv.Atoi(i.Labels[runtime.LabelAttempt])
		if c := w.peek(name); c.ID != "" {
			if c.Attempt > attempt {
				stale = append(stale, i.ID)
				continue
			}
			stale = append(stale, c.ID)
		}
		adoptContainer(w.container(name), p, name, attempt, i, statuses[name])
		// Namespaces live as long as a process is in them. If none is, they are
		// looked after before the next container starts.
		w.Sandbox.Done = w.Sandbox.Done || i.Running
	}
	AdoptStatuses(w, p)
	return stale
}

func statusesOf(p *corev1.Pod) map[string]*corev1.ContainerStatus {
	out := map[string]*corev1.ContainerStatus{}
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for i := range list {
			out[list[i].Name] = &list[i]
		}
	}
	return out
}

// AdoptStatuses takes from the log what is known of containers of which there
// is no trace.
func AdoptStatuses(w *World, p *corev1.Pod) {
	for name, s := range statusesOf(p) {
		if w.peek(name).ID == "" {
			adoptStatus(w.container(name), s)
		}
	}
	for i := range p.Spec.Containers {
		c := w.peek(p.Spec.Containers[i].Name)
		w.Initialized = w.Initialized || c.ID != "" || c.Phase == Exited
	}
}

// adoptContainer is for a container that containerd has.
func adoptContainer(c *Container, p *corev1.Pod, name string, attempt int, i runtime.Info, s *corev1.ContainerStatus) {
	*c = Container{ID: i.ID, Attempt: attempt, StartedAt: i.CreatedAt.Truncate(time.Second), Ref: i.ImageRef, PostStart: HookDone}
	c.Image.Done = true
	spec := findContainer(p, name)
	if spec == nil {
		spec = &corev1.Container{Name: name}
	}
	c.Started, c.Ready = spec.StartupProbe == nil, spec.ReadinessProbe == nil
	if s != nil {
		c.ImageID = s.ImageID
		c.Before = s.LastTerminationState.Terminated
		if s.ContainerID == "containerd://"+i.ID {
			if run := s.State.Running; run != nil {
				c.StartedAt = run.StartedAt.Time
			}
			// What its probes said last holds until they say otherwise.
			c.Started = c.Started || s.Started != nil && *s.Started
			c.Ready = c.Ready || s.Ready
		} else if t := s.State.Terminated; t != nil {
			c.Before = t
		}
	}
	if attempt > 0 {
		c.Delay, c.Restarted = delay(attempt, crashDelayFirst, crashDelayMax), c.StartedAt
	}
	switch {
	case i.Exit != nil:
		c.Phase, c.Last = Exited, terminated(*i.Exit, i.ID, c.StartedAt)
		c.Started, c.Ready = false, false
	case i.Running:
		c.Phase = Running
	default:
		c.Phase = Ended
	}
}

// adoptStatus is for a container of which only the log tells: its run was
// removed, or containerd lost it.
func adoptStatus(c *Container, s *corev1.ContainerStatus) {
	c.Attempt, c.ImageID, c.Ref = int(s.RestartCount), s.ImageID, ""
	last := s.State.Terminated
	if last == nil {
		last = s.LastTerminationState.Terminated
	}
	if s.State.Running != nil {
		last = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "ContainerStatusUnknown", ContainerID: s.ContainerID,
			StartedAt: s.State.Running.StartedAt, FinishedAt: metav1.Now().Rfc3339Copy(),
			Message: "The container could not be located when the node was looked at"}
	}
	if last != nil {
		c.Phase, c.Last = Exited, last
	}
}

// sweep removes the folders and cgroups of pods that nobody knows any more.
func (a *Agent) sweep() error {
	known := a.known()
	entries, err := os.ReadDir(filepath.Join(a.cfg.DataDir, "pods"))
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("pods' folders: %w", err)
	}
	for _, e := range entries {
		if slices.Contains(known, e.Name()) {
			continue
		}
		if err := volumes.Remove(filepath.Join(a.cfg.DataDir, "pods", e.Name())); err != nil {
			return err
		}
		runtime.RemoveCgroup(NodeCgroup(a.cfg.Node) + "/" + e.Name())
	}
	return nil
}
