package sim

import (
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// podStep is one step in the life of a pod on its node.
type podStep struct {
	name        string
	when        func(*corev1.Pod) bool
	least, most time.Duration // how long it takes
	faulty      bool          // a fault: not while the world settles
	do          func(p *corev1.Pod, w *World)
}

// podLife are the steps; the first that fits is the pod's next. A step without
// do ends the pod.
var podLife = []podStep{
	{"end", deleted, 10 * time.Millisecond, 3 * time.Second, false, nil},
	{"start", pending, 50 * time.Millisecond, 2 * time.Second, false, startPod},
	{"become ready", unready, 10 * time.Millisecond, 3 * time.Second, false, func(p *corev1.Pod, w *World) { setReady(p, true, w.now) }},
	{"fail its probe", always, 5 * time.Second, 5 * time.Minute, true, func(p *corev1.Pod, w *World) { setReady(p, false, w.now) }},
}

func deleted(p *corev1.Pod) bool { return p.DeletionTimestamp != nil }
func pending(p *corev1.Pod) bool { return p.Status.Phase == "" || p.Status.Phase == corev1.PodPending }
func unready(p *corev1.Pod) bool { return !isReady(p) }
func always(*corev1.Pod) bool    { return true }

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func startPod(p *corev1.Pod, w *World) {
	n := len(w.records)
	p.Status.Phase = corev1.PodRunning
	p.Status.PodIP = fmt.Sprintf("10.42.%d.%d", n/250%250, n%250+1)
	p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
	at := metav1.NewTime(w.now)
	p.Status.StartTime = &at
	setReady(p, false, w.now)
}

func setReady(p *corev1.Pod, ready bool, now time.Time) {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	for _, t := range []corev1.PodConditionType{corev1.ContainersReady, corev1.PodReady} {
		c := corev1.PodCondition{Type: t, Status: status, LastTransitionTime: metav1.NewTime(now)}
		found := false
		for i := range p.Status.Conditions {
			if p.Status.Conditions[i].Type == t {
				p.Status.Conditions[i], found = c, true
			}
		}
		if !found {
			p.Status.Conditions = append(p.Status.Conditions, c)
		}
	}
}

// node is a model of a node and its agent, which reads the log late, too.
type node struct {
	w    *World
	name string
	view *kernel.View
	due  map[string]time.Time // of each pod's next step, by uid and step
	mute bool                 // nobody hears of it, and it hears of nobody
}

func newNode(w *World, name string) *node {
	return &node{w: w, name: name, view: w.view(), due: map[string]time.Time{}}
}

// silence takes the node from the cluster, or brings it back: the door tells.
func (n *node) silence(mute bool) {
	o, ok := kinds.Nodes.Get(n.w.view(), "", n.name)
	if !ok || n.mute == mute {
		return
	}
	n.mute = mute
	changed := o.DeepCopy()
	for i := range changed.Status.Conditions {
		if c := &changed.Status.Conditions[i]; c.Type == corev1.NodeReady {
			c.LastTransitionTime = metav1.NewTime(n.w.now)
			if c.Status = corev1.ConditionTrue; mute {
				c.Status = corev1.ConditionUnknown
			}
		}
	}
	wr := kernel.Write{Key: kinds.Nodes.Key("", n.name), Subresource: kernel.Whole, New: changed}
	if err := n.w.write("door", n.w.view(), wr); err != nil {
		n.w.fail(err)
	}
}

// step reads, and does one step of one pod that is due.
func (n *node) step() bool {
	if n.mute {
		return false
	}
	read := n.view.Seq() < n.w.view().Seq()
	if !n.w.chance(3) {
		n.view = n.w.view()
	}
	if n.w.chance(200) {
		n.due = map[string]time.Time{} // the agent was killed; what runs goes on running
	}
	for _, p := range kinds.Pods.List(n.view, "") {
		s := n.nextOf(p)
		if s == nil {
			continue
		}
		at, known := n.due[string(p.UID)+s.name]
		if !known {
			at = n.w.now.Add(n.w.between(s.least, s.most))
			n.due[string(p.UID)+s.name] = at
		}
		if !at.After(n.w.now) {
			delete(n.due, string(p.UID)+s.name)
			n.do(p, s)
			return true
		}
	}
	return read
}

// nextOf returns the pod's next step on this node, or nil.
func (n *node) nextOf(p *corev1.Pod) *podStep {
	if p.Spec.NodeName != n.name {
		return nil
	}
	for i := range podLife {
		if s := &podLife[i]; s.when(p) && (n.w.faulty || !s.faulty) {
			return s
		}
	}
	return nil
}

// do writes what became of the pod. If it has changed meanwhile, nothing.
func (n *node) do(p *corev1.Pod, s *podStep) {
	wr := kernel.Write{Key: kinds.Pods.Key(p.Namespace, p.Name), Grace: new(int64)}
	if s.do != nil {
		changed := p.DeepCopy()
		s.do(changed, n.w)
		wr = kernel.Write{Key: wr.Key, Subresource: kernel.Whole, New: changed}
	}
	if err := n.w.write("nodeagent/"+n.name, n.view, wr); err != nil && !errors.Is(err, events.ErrConflict) {
		n.w.fail(err)
	}
}

// next is when the next step of a pod is due.
func (n *node) next() time.Time {
	var next time.Time
	for _, p := range kinds.Pods.List(n.view, "") {
		if s := n.nextOf(p); s != nil {
			if at, ok := n.due[string(p.UID)+s.name]; ok && (next.IsZero() || at.Before(next)) {
				next = at
			}
		}
	}
	return next
}
