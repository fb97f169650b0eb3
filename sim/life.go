package sim

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/nodeagent"
)

// missingImage begins the names of images that nobody has.
const missingImage = "missing"

// lifeStep is one thing that an agent does for a pod: how long it takes, and
// how often it fails.
type lifeStep struct {
	do          nodeagent.Verb
	least, most time.Duration
	fails       int // once in so many times, while there are faults; 0: never
}

// life are the steps in the life of a pod that take time or may fail. All
// others happen at once.
var life = []lifeStep{
	{nodeagent.Sandbox, 20 * time.Millisecond, 400 * time.Millisecond, 20},
	{nodeagent.Mount, time.Millisecond, 50 * time.Millisecond, 30},
	{nodeagent.Pull, 50 * time.Millisecond, 20 * time.Second, 20},
	{nodeagent.Start, 50 * time.Millisecond, 2 * time.Second, 30},
	{nodeagent.Teardown, 10 * time.Millisecond, time.Second, 0},
}

// incident is what befalls a container while it runs and there are faults.
type incident struct {
	name        string
	inRuns      int // befalls one run in so many
	least, most time.Duration
	code        int32 // with which its process ends; 0: it is stopped as unwell
	reason      string
}

// incidents are tried in order; the first that befalls a run is its only one.
var incidents = []incident{
	{"crash", 12, 100 * time.Millisecond, 20 * time.Minute, 1, "Error"},
	{"out of memory", 25, time.Second, 20 * time.Minute, 137, "OOMKilled"},
	{"liveness probe fails", 25, 5 * time.Second, 20 * time.Minute, 0, ""},
}

// takes is how long an operation takes.
func (m *machine) takes(p *podState, a nodeagent.Action) time.Duration {
	for _, s := range life {
		if s.do == a.Do {
			return m.w.between(s.least, s.most, "takes", p.world.UID, m.name, m.boots, a.Do, a.Container, attempts(p, a))
		}
	}
	return 0
}

// attempts tells one try of an operation from the next.
func attempts(p *podState, a nodeagent.Action) string {
	fails := p.world.Sandbox.Fails + p.world.Volumes.Fails
	n := 0
	if c := p.world.Containers[a.Container]; c != nil {
		fails, n = fails+c.Image.Fails+c.Create.Fails, c.Attempt
	}
	return fmt.Sprint(n, " ", fails)
}

func (m *machine) fails(p *podState, a nodeagent.Action) bool {
	if !m.w.faulty {
		return false
	}
	for _, s := range life {
		if s.do == a.Do && s.fails > 0 && m.w.hash("fails", p.world.UID, m.name, m.boots, a.Do, a.Container, attempts(p, a))%uint64(s.fails) == 0 {
			m.w.count("node: " + string(a.Do) + " failed")
			return true
		}
	}
	return false
}

// failed is a step after another failure.
func failed(s nodeagent.Step, reason, message string, now time.Time, first, most time.Duration) nodeagent.Step {
	s.Fails++
	s.Done, s.Reason, s.Message, s.Failed = false, reason, message, now
	wait := first
	for range s.Fails - 1 {
		wait = min(2*wait, most)
	}
	s.RetryAt = now.Add(wait)
	return s
}

// done is what becomes of the machine by an operation.
func (m *machine) done(p *podState, a nodeagent.Action, g nodeagent.Goal, v *kernel.View) {
	w, now, bad := &p.world, m.clock(), m.fails(p, a)
	spec, c := containerOf(p, a.Container)
	switch a.Do {
	case nodeagent.Admit:
		m.admit(p, v)
	case nodeagent.Sandbox:
		ip, ok := m.address(v)
		if bad || !ok {
			w.Sandbox = failed(w.Sandbox, "FailedCreatePodSandBox", "no network", now, 500*time.Millisecond, 10*time.Second)
			return
		}
		w.Sandbox, w.IPs = nodeagent.Step{Done: true}, []string{ip}
	case nodeagent.Mount:
		if bad {
			w.Volumes = failed(w.Volumes, "FailedMount", "not found", now, 500*time.Millisecond, 10*time.Second)
			return
		}
		w.Volumes, w.VolumesAt = nodeagent.Step{Done: true}, g.Sources
	case nodeagent.Pull:
		if bad || strings.HasPrefix(spec.Image, missingImage) {
			c.Image = failed(c.Image, "ErrImagePull", "not found", now, 10*time.Second, 5*time.Minute)
			return
		}
		c.Image = nodeagent.Step{Done: true}
	case nodeagent.Start:
		if bad {
			c.Create = failed(c.Create, "CreateContainerError", "no room", now, time.Second, 5*time.Minute)
			return
		}
		attempt := c.Attempt
		if c.Phase == nodeagent.Exited {
			attempt++
		}
		id := fmt.Sprintf("%s-%d-%s-%d", m.name, m.boots, w.UID, attempt)
		w.Begin(g.Pod, spec, id, attempt, now)
		p.began[id] = m.w.now
		m.w.count("node: container started")
		m.w.told.room.started(m, p)
	case nodeagent.PostStart:
		c.PostStart = nodeagent.HookDone
	case nodeagent.Stopping:
		w.Stop(a.Container, a.Grace, a.Reason, now)
	case nodeagent.PreStop:
		c.Stop.PreStop = nodeagent.HookDone
	case nodeagent.Term:
		c.Stop.Termed, p.termed[c.ID] = now, m.w.now
	case nodeagent.Kill:
		c.Stop.Killed, p.killed[c.ID] = now, m.w.now
	case nodeagent.Reap:
		w.Exit(a.Container, c.Last)
	case nodeagent.Teardown:
		w.Sandbox, w.Volumes, w.IPs, w.TornDown = nodeagent.Step{}, nodeagent.Step{}, nil, true
	default:
		panic(fmt.Sprintf("nobody can do %s", a.Do))
	}
}

// containerOf is a container of a pod, and what there is of it.
func containerOf(p *podState, name string) (*corev1.Container, *nodeagent.Container) {
	for i := range p.spec.Spec.Containers {
		if spec := &p.spec.Spec.Containers[i]; spec.Name == name {
			if p.world.Containers == nil {
				p.world.Containers = map[string]*nodeagent.Container{}
			}
			if p.world.Containers[name] == nil {
				p.world.Containers[name] = &nodeagent.Container{}
			}
			return spec, p.world.Containers[name]
		}
	}
	return nil, nil
}

// admit asks the node's own judgement.
func (m *machine) admit(p *podState, v *kernel.View) {
	node, _ := kinds.Nodes.Get(v, "", m.name)
	var others []*corev1.Pod
	for _, o := range m.pods {
		if w := &o.world; o != p && w.Admitted && w.Refused == nil && !w.Ended && !w.Final {
			others = append(others, o.spec)
		}
	}
	p.world.Admitted, p.world.Refused = true, nodeagent.AdmitPod(node, others, p.spec)
	if p.world.Refused != nil {
		m.w.count("node: pod refused, " + p.world.Refused.Reason)
	}
}

// address gives the next pod an address of the node's range.
func (m *machine) address(v *kernel.View) (string, bool) {
	node, ok := kinds.Nodes.Get(v, "", m.name)
	if !ok || node.Spec.PodCIDR == "" {
		return "", false
	}
	first, found := strings.CutSuffix(node.Spec.PodCIDR, ".0/24")
	if !found {
		panic("a node's range is not a /24: " + node.Spec.PodCIDR)
	}
	m.ips++
	return fmt.Sprintf("%s.%d", first, m.ips%250+2), true
}

// happens lets all happen that does by itself, and returns when more will.
func (m *machine) happens(p *podState, now time.Time) time.Time {
	var next time.Time
	due := func(at time.Time) bool {
		if at.After(now) {
			if next.IsZero() || at.Before(next) {
				next = at
			}
			return false
		}
		return true
	}
	for i := range p.spec.Spec.Containers {
		spec := &p.spec.Spec.Containers[i]
		c := p.world.Containers[spec.Name]
		if c == nil || c.Phase != nodeagent.Running {
			continue
		}
		part := func(what string, least, most time.Duration) time.Duration {
			return m.w.between(least, most, what, c.ID)
		}
		ends := func(code int32, reason string) {
			c.Phase = nodeagent.Ended
			c.Last = &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, FinishedAt: metav1.NewTime(m.clock().Truncate(time.Second)), ContainerID: "containerd://" + c.ID}
		}
		if s := c.Stop; s != nil {
			// One in six does not listen to SIGTERM.
			if !s.Killed.IsZero() && due(p.killed[c.ID].Add(part("killed", time.Millisecond, 50*time.Millisecond))) {
				ends(137, "Error")
			} else if !s.Termed.IsZero() && m.w.hash("deaf", c.ID)%6 > 0 && due(p.termed[c.ID].Add(part("termed", time.Millisecond, 5*time.Second))) {
				ends(0, "Completed")
			}
			continue
		}
		m.befalls(p, spec, c, due, ends)
		if spec.ReadinessProbe != nil && c.Phase == nodeagent.Running {
			from := p.began[c.ID].Add(part("ready", 10*time.Millisecond, 3*time.Second))
			sick := from.Add(part("sick", 5*time.Second, 10*time.Minute))
			well := sick.Add(part("well", time.Second, time.Minute))
			c.Ready = due(from) && !(m.w.faulty && due(sick) && !due(well))
		}
	}
	return next
}

// befalls brings incidents on a container that runs.
func (m *machine) befalls(p *podState, spec *corev1.Container, c *nodeagent.Container, due func(time.Time) bool, ends func(int32, string)) {
	if !m.w.faulty {
		return
	}
	for _, one := range incidents {
		if m.w.hash(one.name, c.ID)%uint64(one.inRuns) > 0 {
			continue
		}
		if !due(p.began[c.ID].Add(m.w.between(one.least, one.most, "when", one.name, c.ID))) {
			return
		}
		m.w.count("node: " + one.name)
		if one.code == 0 {
			p.world.Stop(spec.Name, 5*time.Second, "Unhealthy", m.clock())
		} else {
			ends(one.code, one.reason)
		}
		return
	}
}
