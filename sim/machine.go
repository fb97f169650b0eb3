package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/google/uuid"
	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/nodeagent"
)

const (
	// settleStatus is how long a status that only says "on its way" waits for
	// a more telling one: the agent's own.
	settleStatus = time.Second
	// agentRetry is how long an agent waits after the door gave an error.
	agentRetry = time.Second
	// machinePods is for how many pods a machine has room.
	machinePods = 9
)

// machine is a model of a node: containers that run on it, and the agents that
// mind them, of which there should be one. What an agent decides is the real
// one's; what comes of it is in life.go.
type machine struct {
	w      *World
	name   string
	ip     string
	dead   bool          // no power
	lost   bool          // dead, for good
	off    time.Duration // its clock
	cut    bool          // no network
	boots  int
	lives  int // of agents
	ips    int
	shown  kernel.Seq // to any agent
	pods   map[kernel.Key]*podState
	agents []*agent
}

// podState is what a machine has of one pod. What its world says of times is
// by the machine's clock (see skew), all else by none.
type podState struct {
	world  nodeagent.World
	spec   *corev1.Pod
	op     *operation
	behind time.Time            // since when the log says something else
	began  map[string]time.Time // of containers, by their ids
	termed map[string]time.Time
	killed map[string]time.Time
}

func newPodState(spec *corev1.Pod, w nodeagent.World) *podState {
	return &podState{spec: spec, world: w, began: map[string]time.Time{}, termed: map[string]time.Time{}, killed: map[string]time.Time{}}
}

func (m *machine) clock() time.Time { return m.w.now.Add(m.off) }

// skew has the machine's clock be wrong. Its agents look at it once a minute.
// Between two times that an agent took itself it sees no jump, as the real one
// does not: both have a monotonic part.
func (m *machine) skew(by time.Duration) {
	jump := by - m.off
	m.off = by
	for _, p := range m.pods {
		all := []*time.Time{&p.world.StopSince}
		steps := []*nodeagent.Step{&p.world.Sandbox, &p.world.Volumes}
		for _, c := range p.world.Containers {
			steps = append(steps, &c.Image, &c.Create)
			if c.Stop != nil {
				all = append(all, &c.Stop.Since, &c.Stop.Termed, &c.Stop.Killed)
			}
		}
		for _, s := range steps {
			all = append(all, &s.Failed, &s.RetryAt)
		}
		for _, t := range all {
			if !t.IsZero() {
				*t = t.Add(jump)
			}
		}
	}
	for _, a := range m.agents {
		for k := range a.due {
			a.look(k, m.w.now.Add(time.Minute))
		}
	}
}

// operation is something that is being done for a pod.
type operation struct {
	nodeagent.Action
	at time.Time // when it is over
}

func newMachine(w *World, i int) *machine {
	m := &machine{w: w, name: fmt.Sprintf("n%d", i+1), ip: fmt.Sprintf("192.0.2.%d", i+11), pods: map[kernel.Key]*podState{}}
	m.agents = []*agent{m.newAgent()}
	return m
}

// die takes the power away: nothing of what ran is left.
func (m *machine) die() {
	if m.dead || m.cut {
		return
	}
	m.w.count("death of a node")
	m.dead, m.pods = true, map[kernel.Key]*podState{}
	m.boots++
	m.hangUp(m.w.now.Add(noticeAfter))
	m.agents = nil
}

// lose takes the power away for good, and the users want its Node to be gone.
// The others have room for all that is wanted.
func (m *machine) lose() {
	for _, o := range m.w.machines {
		if o.lost {
			return
		}
	}
	m.dead, m.cut = false, false
	m.die()
	m.lost = true
	m.w.count("node lost for good")
	m.w.users.discard(kinds.Nodes.Key("", m.name))
}

// cutOff takes the network away: what runs runs on.
func (m *machine) cutOff() {
	if m.dead || m.cut {
		return
	}
	m.w.count("node cut off")
	m.cut = true
	m.hangUp(m.w.now.Add(noticeAfter))
}

// comeBack undoes what happened to a machine.
func (m *machine) comeBack() {
	if m.lost {
		return
	}
	if m.dead || m.cut {
		m.w.count("return of a node")
	}
	m.dead, m.cut = false, false
	if len(m.agents) == 0 {
		m.agents = []*agent{m.newAgent()}
	}
	if n := len(m.agents); n > 1 {
		for _, a := range m.agents[:n-1] {
			a.hangUp(m.w.now)
		}
		m.agents = m.agents[n-1:]
	}
}

// hangUp ends the streams of all agents; the apiserver notices at a time.
func (m *machine) hangUp(noticed time.Time) {
	for _, a := range m.agents {
		a.hangUp(noticed)
	}
}

func (m *machine) breakStream(d *dice) {
	if len(m.agents) > 0 {
		m.w.count("cut stream")
		m.agents[d.below(len(m.agents))].hangUp(m.w.now)
	}
}

// restartAgent kills an agent; containers run on, and the next adopts them.
func (m *machine) restartAgent(d *dice) {
	if len(m.agents) == 0 {
		return
	}
	m.w.count("restart of an agent")
	i := d.below(len(m.agents))
	m.agents[i].hangUp(m.w.now)
	m.agents[i] = m.newAgent()
}

// duplicate starts a second agent beside the first.
func (m *machine) duplicate() {
	if len(m.agents) != 1 {
		return
	}
	m.w.count("second agent of a node")
	m.agents = append(m.agents, m.newAgent())
}

func (m *machine) step(d *dice) {
	if len(m.agents) > 0 && !m.dead {
		m.agents[d.below(len(m.agents))].step(d)
	}
}

func (m *machine) round() bool {
	busy := false
	for _, a := range m.agents {
		busy = a.step(nil) || busy
	}
	return busy
}

func (m *machine) next() time.Time {
	var next time.Time
	for _, a := range m.agents {
		for _, at := range a.due {
			if !at.IsZero() && (next.IsZero() || at.Before(next)) {
				next = at
			}
		}
	}
	return next
}

// agent is one process of a node agent: its View as the door gave it, and its
// writes on their way.
type agent struct {
	m       *machine
	life    int
	ids     int
	pods    map[kernel.Key]bool // that it found when it began, or was shown since
	view    *kernel.View
	stream  *stream
	last    kernel.Seq               // of the line that was read last
	begun   bool                     // the stream's first part was read
	due     map[kernel.Key]time.Time // when to look at each pod again; zero: at once
	writing map[kernel.Key]bool
	wrote   map[kernel.Key]kernel.Seq
	epoch   int // of the stream: what was sent in another is not waited for
}

func (m *machine) newAgent() *agent {
	m.lives++
	a := &agent{m: m, life: m.lives, pods: map[kernel.Key]bool{}}
	for k := range m.pods {
		a.pods[k] = true
	}
	a.forget()
	return a
}

// forget is what an agent does when its stream breaks: it reads anew.
func (a *agent) forget() {
	a.epoch++
	a.view, a.last, a.begun = kernel.NewView(a.m.w.rules), 0, false
	a.due, a.writing, a.wrote = map[kernel.Key]time.Time{}, map[kernel.Key]bool{}, map[kernel.Key]kernel.Seq{}
}

// hangUp ends the agent's stream.
func (a *agent) hangUp(noticed time.Time) {
	if a.stream != nil {
		a.stream.broken, a.stream.noticed = true, noticed
		a.stream = nil
	}
	a.forget()
	a.m.w.watchPresence()
}

// step reads of the stream, then does one thing for every pod that is due.
func (a *agent) step(d *dice) bool {
	m := a.m
	if m.cut {
		return false
	}
	if a.stream != nil && a.stream.broken {
		a.hangUp(m.w.now)
	}
	if a.stream == nil {
		a.stream = m.w.serverFor(m.w.hash("stream", m.name, m.boots, a.life, a.epoch)).open(m.name, m.shown)
	}
	n := len(a.stream.inbox)
	if d.once(2) {
		n = d.below(n + 1)
	}
	busy := n > 0
	a.read(a.stream.inbox[:n])
	a.stream.inbox = slices.Clone(a.stream.inbox[n:])
	if !a.begun {
		return busy
	}
	busy = a.register() || busy
	for _, k := range a.dueKeys() {
		delete(a.due, k)
		a.pod(k)
		busy = true
	}
	return busy
}

// dueKeys are the pods that are due, in the order of their keys.
func (a *agent) dueKeys() []kernel.Key {
	var keys []kernel.Key
	for k, at := range a.due {
		if !at.After(a.m.w.now) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(x, y kernel.Key) int { return strings.Compare(x.String(), y.String()) })
	return keys
}

// read folds lines of the stream. Each names the one before it.
func (a *agent) read(lines []line) {
	for _, l := range lines {
		if l.prev != a.last {
			a.m.w.fail(fmt.Errorf("the door's stream to %s lacks a line between %d and %d", a.m.name, a.last, l.Seq))
		}
		a.last, a.m.shown = l.Seq, max(a.m.shown, l.Seq)
		var es []kernel.Event
		a.view, es = a.view.Fold(l.Record)
		if l.Key == (kernel.Key{}) && !a.begun {
			a.begun = true
			a.m.w.told.door.begins(a.m.name, l.Seq, a.stream.shown)
			for k := range a.pods {
				a.due[k] = time.Time{}
			}
		}
		for _, e := range es {
			a.m.w.told.door.sees(a.m.name, a.view, e)
			if e.Key.Resource == kinds.Pods.Resource {
				a.due[e.Key] = time.Time{}
			}
		}
	}
}

// register makes the Node, if there is none.
func (a *agent) register() bool {
	k := kinds.Nodes.Key("", a.m.name)
	if _, ok := kinds.Nodes.Get(a.view, "", a.m.name); ok || a.writing[k] || a.due[k].After(a.m.w.now) {
		return false
	}
	room := corev1.ResourceList{
		corev1.ResourceCPU: *resource.NewQuantity(machinePods, resource.DecimalSI), corev1.ResourceMemory: resource.MustParse("64Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	at := metav1.NewTime(a.m.clock().Truncate(time.Second))
	a.write(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: a.m.name}, Status: corev1.NodeStatus{
		Capacity: room, Allocatable: room, Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: a.m.ip}},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: at, LastTransitionTime: at}},
	}}, 0, false, "", nil)
	return true
}

// pod does what is to be done next for one pod, and reports.
func (a *agent) pod(k kernel.Key) {
	if k.Resource != kinds.Pods.Resource {
		return
	}
	m := a.m
	goal := nodeagent.GoalOf(a.view, m.name, k, nil)
	if goal != nil {
		a.pods[k] = true
	}
	p := m.pods[k]
	if !a.pods[k] || p == nil && goal == nil {
		return
	}
	if p == nil {
		p = newPodState(goal.Pod, nodeagent.World{UID: goal.Pod.UID, Since: m.clock(),
			Ended: goal.Pod.Status.Phase == corev1.PodSucceeded || goal.Pod.Status.Phase == corev1.PodFailed})
		nodeagent.AdoptStatuses(&p.world, goal.Pod)
		m.pods[k] = p
	}
	if goal == nil || goal.Pod.UID != p.world.UID {
		goal = &nodeagent.Goal{Pod: p.spec, Seq: a.view.Seq(), Gone: true}
		m.w.told.door.ends(a, k, p.world.UID)
	} else {
		p.spec = goal.Pod
		if goal.Stopping && p.world.StopSince.IsZero() {
			p.world.StopSince = m.clock()
		}
	}
	for n := 0; ; n++ {
		if n > 100 {
			panic("a pod's next step is always the same")
		}
		if p.op != nil {
			if p.op.at.After(m.w.now) {
				a.look(k, p.op.at)
				break
			}
			op := p.op
			p.op = nil
			m.done(p, op.Action, *goal, a.view)
		}
		a.look(k, m.happens(p, m.w.now))
		did := nodeagent.Decide(*goal, &p.world, m.clock())
		switch did.Do {
		case nodeagent.Wait:
			if !did.Until.IsZero() {
				a.look(k, did.Until.Add(-m.off))
			}
			a.report(k, p, *goal, did)
			return
		case nodeagent.Finish:
			a.report(k, p, *goal, did)
			if !p.world.Final {
				return
			}
		case nodeagent.Delete:
			a.remove(k, *goal)
			return
		case nodeagent.Forget:
			delete(m.pods, k)
			delete(a.pods, k)
			a.due[k] = time.Time{} // perhaps there is another of that name
			if goal := nodeagent.GoalOf(a.view, m.name, k, nil); goal == nil {
				delete(a.due, k)
			}
			return
		default:
			p.op = &operation{did, m.w.now.Add(m.takes(p, did))}
		}
	}
	a.report(k, p, *goal, nodeagent.Action{Do: nodeagent.Wait})
}

// look has the agent look at a pod at a time, or earlier.
func (a *agent) look(k kernel.Key, at time.Time) {
	if was, ok := a.due[k]; !at.IsZero() && (!ok || at.Before(was)) {
		a.due[k] = at
	}
}

// behindOwn tells whether the agent has not yet read what it wrote itself.
func (a *agent) behindOwn(k kernel.Key) bool {
	e := a.view.Entry(k)
	return a.writing[k] || e != nil && e.Seq < a.wrote[k]
}

// report writes the pod's status if the log says another one, as the agent does.
func (a *agent) report(k kernel.Key, p *podState, g nodeagent.Goal, did nodeagent.Action) {
	w := &p.world
	if g.Gone || a.behindOwn(k) {
		return
	}
	if w.Ended || w.TornDown && w.Final {
		w.Final = true
		return
	}
	now := a.m.w.now
	status := nodeagent.StatusOf(g.Pod, w, []string{a.m.ip}, a.m.clock())
	if w.Overruled(&g.Pod.Status, &status) {
		a.look(k, now)
		return
	}
	if nodeagent.Same(&g.Pod.Status, &status) {
		p.behind = time.Time{}
		w.Final = w.Final || did.Do == nodeagent.Finish
		return
	}
	if p.behind.IsZero() {
		p.behind = now
	}
	due := p.behind.Add(settleStatus)
	if did.Do == nodeagent.Finish || nodeagent.Telling(&g.Pod.Status, &status) {
		due = now
	}
	if now.Before(due) {
		a.look(k, due)
		return
	}
	next := g.Pod.DeepCopy()
	next.Status = status
	a.write(next, g.Seq, false, nodeagent.NoteOf(&g.Pod.Status, &status), func() {
		p.behind = time.Time{}
		w.Final = w.Final || did.Do == nodeagent.Finish
	})
}

// remove takes a pod out of the log.
func (a *agent) remove(k kernel.Key, g nodeagent.Goal) {
	if !a.behindOwn(k) && !g.Gone && (g.Pod.DeletionGracePeriodSeconds == nil || *g.Pod.DeletionGracePeriodSeconds > 0 || len(g.Pod.Finalizers) == 0) {
		a.write(g.Pod, g.Seq, true, "", nil)
	}
}

// write sends an object as the node sees it to the door. done is called when
// it is known to be in the log.
func (a *agent) write(o kernel.Object, cause kernel.Seq, remove bool, note string, done func()) {
	w := a.m.w
	k := w.schema.KeyOf(o)
	body, err := w.schema.Encode(o)
	if err != nil {
		panic(err)
	}
	a.ids++
	r := kernel.Record{Key: k, Delete: remove, Body: body, Envelope: events.Envelope{
		ID:     uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "%s.%d.%d.%d", a.m.name, a.m.boots, a.life, a.ids)).String(),
		Source: "nodeagent/" + a.m.name, Time: a.m.clock(), Seen: a.view.Seq(), Note: note,
	}}
	if e := a.view.Entry(k); e != nil {
		r.Expect = e.Seq
	}
	if cause > 0 {
		r.Cause = []kernel.Seq{cause}
	}
	a.writing[k] = true
	epoch := a.epoch
	a.send(k, r, true, func(seq kernel.Seq, err error) {
		if a.epoch != epoch {
			return
		}
		delete(a.writing, k)
		switch {
		case err == nil:
			a.wrote[k] = seq
			if done != nil {
				done()
			}
			a.due[k] = time.Time{}
		case errors.Is(err, events.ErrConflict), apierrors.IsNotFound(err):
			a.look(k, w.now.Add(agentRetry)) // what is newer is on its way and wakes us before
		default:
			a.look(k, w.now.Add(agentRetry))
		}
	})
}

// send asks the door, and once more if the answer is lost.
func (a *agent) send(k kernel.Key, r kernel.Record, again bool, answer func(kernel.Seq, error)) {
	w := a.m.w
	s := w.serverFor(w.hash("door", r.ID, again))
	var seq kernel.Seq
	s.call(func(ctx context.Context) (err error) {
		seq, err = s.writer.NodeAppend(ctx, a.m.name, r)
		return err
	}, func(err error) {
		switch unknown := errors.Is(err, errNoAnswer) || errors.Is(err, errKilled) || a.m.cut || a.m.dead; {
		case unknown && again && !a.m.dead && !a.m.cut:
			a.send(k, r, false, answer)
		case unknown:
			answer(0, errNoAnswer)
		default:
			if err == nil {
				w.told.acks.toldNode(k, r.ID, seq)
			}
			answer(seq, err)
		}
	})
}
