package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// settle is how long a status that only says "on its way" waits for a more
// telling one, so that a pod which starts at once costs one event.
const settle = time.Second

// reportStatus writes a pod's status if the log says another one. It returns
// when it should be called again.
func (a *Agent) reportStatus(ctx context.Context, v *kernel.View, p *pod, g Goal, did Action) (time.Time, error) {
	if g.Gone || did.Do == Delete || did.Do == Forget {
		return time.Time{}, nil
	}
	now, ips := a.now(), a.hostIPs()
	p.mu.Lock()
	w := &p.world
	if w.Ended || w.TornDown && w.Final {
		w.Final = true
		p.mu.Unlock()
		return time.Time{}, nil
	}
	status := StatusOf(g.Pod, w, ips, now)
	if w.Overruled(&g.Pod.Status, &status) {
		p.mu.Unlock()
		return now, nil
	}
	same := Same(&g.Pod.Status, &status)
	if same {
		p.behind = time.Time{}
		w.Final = w.Final || did.Do == Finish
		p.mu.Unlock()
		return time.Time{}, nil
	}
	if p.behind.IsZero() {
		p.behind = now
	}
	due := p.behind.Add(settle)
	if did.Do == Finish || Telling(&g.Pod.Status, &status) {
		due = now
	}
	p.mu.Unlock()
	if now.Before(due) {
		return due, nil
	}
	next := g.Pod.DeepCopy()
	next.Status = status
	seq, err := a.write(ctx, v, next, g.Seq, false, NoteOf(&g.Pod.Status, &status))
	if errors.Is(err, events.ErrConflict) {
		return time.Time{}, nil // a newer pod is on its way to us, and will wake us
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("status of %s: %w", p.key, err)
	}
	p.mu.Lock()
	p.wrote, p.behind = seq, time.Time{}
	w.Final = w.Final || did.Do == Finish
	p.mu.Unlock()
	return time.Time{}, nil
}

// writeDelete takes a pod out of the log.
func (a *Agent) writeDelete(ctx context.Context, v *kernel.View, p *pod, g Goal) error {
	if g.Pod.DeletionGracePeriodSeconds != nil && *g.Pod.DeletionGracePeriodSeconds == 0 && len(g.Pod.Finalizers) > 0 {
		return nil // only its finalizers keep it now
	}
	seq, err := a.write(ctx, v, g.Pod, g.Seq, true, "")
	if errors.Is(err, events.ErrConflict) || apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", p.key, err)
	}
	p.mu.Lock()
	p.wrote = seq
	p.mu.Unlock()
	return nil
}

// write appends an object as the node sees it. The door applies the rules of a
// write and takes nothing that is not the node's.
func (a *Agent) write(ctx context.Context, v *kernel.View, o kernel.Object, cause kernel.Seq, remove bool, note string) (kernel.Seq, error) {
	k := a.cfg.Schema.KeyOf(o)
	body, err := a.cfg.Schema.Encode(o)
	if err != nil {
		return 0, fmt.Errorf("encode %s: %w", k, err)
	}
	r := kernel.Record{Key: k, Delete: remove, Body: body}
	if e := v.Entry(k); e != nil {
		r.Expect = e.Seq
	}
	r.Envelope = events.Envelope{ID: uuid.NewString(), Source: a.actor, Time: a.now().UTC(), Seen: v.Seq(), Note: note}
	if cause > 0 {
		r.Cause = []kernel.Seq{cause}
	}
	var old kernel.Object
	if got, ok := v.Get(k); ok {
		old = got
	}
	r.Type = kinds.TypeOf(old, o)
	return a.cfg.Log.Append(ctx, r)
}

// eventEvery bounds how often the count of an Event object is raised.
const eventEvery = 10 * time.Second

// eventForget is how long a repeated event counts on as the same object, the
// time that such objects live.
const eventForget = time.Hour

// pendingMax bounds the events that wait to be written; further new ones are
// dropped, for they tell and decide nothing.
const pendingMax = 1024

// reporter writes what happens to pods without changing them: one Event object
// per pod, container and reason, whose count is raised at most every ten
// seconds.
type reporter struct {
	a    *Agent
	told map[string]*told
	in   chan happened
}

// happened is one thing that happened.
type happened struct {
	about         corev1.ObjectReference
	kind          string
	reason, words string
	at            time.Time
}

// told is one Event object.
type told struct {
	event   *corev1.Event
	written time.Time
	dirty   bool
}

func newReporter(a *Agent) *reporter {
	return &reporter{a: a, told: map[string]*told{}, in: make(chan happened, pendingMax)}
}

// add notes an event about a pod, or one container of it.
func (r *reporter) add(p *corev1.Pod, container, kind, reason, words string) {
	about := corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion}
	if container != "" {
		field := "containers"
		for i := range p.Spec.InitContainers {
			if p.Spec.InitContainers[i].Name == container {
				field = "initContainers"
			}
		}
		about.FieldPath = fmt.Sprintf("spec.%s{%s}", field, container)
	}
	select {
	case r.in <- happened{about: about, kind: kind, reason: reason, words: words, at: r.a.now()}:
	default: // see pendingMax
	}
}

// run writes events until ctx ends.
func (r *reporter) run(ctx context.Context) error {
	tick := time.NewTicker(eventEvery)
	defer tick.Stop()
	for {
		select {
		case h := <-r.in:
			r.note(h)
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		for len(r.in) > 0 {
			r.note(<-r.in)
		}
		r.flush(ctx)
	}
}

func (r *reporter) note(h happened) {
	key := string(h.about.UID) + "/" + h.about.FieldPath + "/" + h.reason
	t := r.told[key]
	stamp := metaTime(h.at)
	if t == nil {
		t = &told{event: &corev1.Event{
			InvolvedObject: h.about, Reason: h.reason, Type: h.kind, FirstTimestamp: stamp,
			Source:              corev1.EventSource{Component: "kubelet", Host: r.a.cfg.Node},
			ReportingController: "kubelet", ReportingInstance: r.a.cfg.Node,
		}}
		t.event.Namespace = h.about.Namespace
		t.event.Name = fmt.Sprintf("%s.%x", h.about.Name, h.at.UnixNano())
		r.told[key] = t
	}
	t.event.Message, t.event.LastTimestamp, t.dirty = h.words, stamp, true
	t.event.Count++
}

// flush writes what is due. An event that is refused is dropped: its
// namespace or its pod may be gone.
func (r *reporter) flush(ctx context.Context) {
	now := r.a.now()
	v := r.a.mirror.View()
	for key, t := range r.told {
		if !t.dirty {
			if now.Sub(t.event.LastTimestamp.Time) > eventForget {
				delete(r.told, key)
			}
			continue
		}
		if now.Sub(t.written) < eventEvery {
			continue
		}
		seq, err := r.a.writeEvent(ctx, v, t.event)
		switch {
		case err == nil:
			t.event.ResourceVersion = fmt.Sprint(seq)
			t.written, t.dirty = now, false
		case ctx.Err() != nil:
			return
		case apierrors.IsForbidden(err), apierrors.IsNotFound(err), apierrors.IsInvalid(err), errors.Is(err, events.ErrConflict):
			delete(r.told, key)
		default:
			t.written = now // the door is not there; in a while again
		}
	}
}

// writeEvent appends an Event object. The agent's view does not hold Events;
// what it expects it knows from its own last write.
func (a *Agent) writeEvent(ctx context.Context, v *kernel.View, e *corev1.Event) (kernel.Seq, error) {
	o := e.DeepCopy()
	var expect kernel.Seq
	fmt.Sscan(o.ResourceVersion, &expect)
	o.ResourceVersion = ""
	body, err := a.cfg.Schema.Encode(o)
	if err != nil {
		return 0, fmt.Errorf("encode event: %w", err)
	}
	r := kernel.Record{Key: a.cfg.Schema.KeyOf(o), Expect: expect, Body: body, Envelope: events.Envelope{
		ID: uuid.NewString(), Source: a.actor, Type: "event.created", Time: a.now().UTC(), Seen: max(v.Seq(), expect),
	}}
	if expect > 0 {
		r.Type = "event.updated"
	}
	var about kernel.Seq
	if fmt.Sscan(o.InvolvedObject.ResourceVersion, &about); about > 0 {
		r.Cause = []kernel.Seq{about}
	}
	return a.cfg.Log.Append(ctx, r)
}
