package nodeagent

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/kernel"
)

// resolve finds the state of a pod and its goal. A pod whose name was given
// to another one is first brought to its end.
func (a *Agent) resolve(ctx context.Context, v *kernel.View, k kernel.Key) (*pod, Goal, bool) {
	goal := GoalOf(v, a.cfg.Node, k, a.cfg.DrainedAt)
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.pods[k]
	if p == nil {
		if goal == nil {
			return nil, Goal{}, false
		}
		p = a.newPod(ctx, goal.Pod)
		a.pods[k] = p
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if goal == nil || goal.Pod.UID != p.world.UID {
		return p, Goal{Pod: p.spec, Seq: v.Seq(), Gone: true}, true
	}
	p.spec = goal.Pod
	if goal.Stopping && p.world.StopSince.IsZero() {
		p.world.StopSince = a.now()
	}
	return p, *goal, true
}

// newPod is the state of a pod of which nothing is known yet. Its work ends
// when the pod is forgotten, or the agent ends.
func (a *Agent) newPod(ctx context.Context, spec *corev1.Pod) *pod {
	p := &pod{key: kernel.Key{Resource: podsResource, Namespace: spec.Namespace, Name: spec.Name}, spec: spec, probes: map[string]context.CancelFunc{}}
	p.ctx, p.cancel = context.WithCancel(ctx)
	p.world = World{UID: spec.UID, Since: a.now(), Ended: ended(spec.Status.Phase)}
	// What the log says of earlier runs counts, if the machine was restarted and
	// containerd knows nothing of them.
	AdoptStatuses(&p.world, spec)
	return p
}

func ended(phase corev1.PodPhase) bool {
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}

var podsResource = kernel.Resource{Plural: "pods"}

// step does the next thing for one pod: kernel.Stepper calls it.
func (a *Agent) step(ctx context.Context, v *kernel.View, k kernel.Key) (time.Time, error) {
	p, goal, ok := a.resolve(ctx, v, k)
	if !ok {
		return time.Time{}, nil
	}
	now := a.now()
	p.mu.Lock()
	if !goal.Gone && goal.Seq < p.wrote {
		p.mu.Unlock()
		return time.Time{}, nil // the view does not have our last write yet; it will wake us
	}
	action := Decide(goal, &p.world, now)
	p.mu.Unlock()
	if err := a.act(ctx, v, p, goal, action); err != nil {
		return time.Time{}, err
	}
	if action.Do == Forget {
		return a.now(), nil // its name may belong to a new pod by now
	}
	a.watchHealth(p)
	again, err := a.reportStatus(ctx, v, p, goal, action)
	if err != nil {
		return time.Time{}, err
	}
	if action.Do != Wait {
		return a.now(), nil
	}
	return earlier(again, action.Until), nil
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// async runs what takes longer than a step. done is called with the pod's
// state locked, unless the pod was forgotten meanwhile; then the pod is looked
// at again.
func (a *Agent) async(p *pod, do func(ctx context.Context) (done func(w *World))) {
	a.work.Go(func() error {
		done := do(p.ctx)
		if p.ctx.Err() != nil {
			return nil
		}
		p.mu.Lock()
		done(&p.world)
		p.mu.Unlock()
		a.poke(p.ctx, p.key)
		return nil
	})
}

// update changes a pod's state.
func (p *pod) update(change func(w *World)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.world)
}
