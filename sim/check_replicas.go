package sim

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// replicas: a ReplicaSet never has more active pods than it ever asked for,
// however many leaders race.
//
// Why that holds although their Views lag: a pod's name derives from (set, n),
// n being the smallest that was never used in the View. So every name that is
// proposed has an n below (pods that are no longer active) + (pods that are
// asked for) of some View, and the first of these only grows. Of two proposals
// for one n one wins.
//
// A horizon breaks that for a moment: it frees names, so that a leader who has
// read it proposes another n than one who has not. So every pod that was decided
// on before a horizon and lands after it may be one too many.
type replicas struct {
	w      *World
	most   map[string]int32           // the largest spec.replicas so far, by the set's uid
	active map[string]map[string]bool // uids of active pods, by the set's uid
	set    map[string]string          // set's uid by pod's uid

	horizon kernel.Seq     // the newest event of it
	across  map[string]int // pods that landed after a horizon that their decision had not seen, by the set's uid
}

func newReplicas(w *World) *replicas {
	return &replicas{w: w, most: map[string]int32{}, active: map[string]map[string]bool{}, set: map[string]string{}, across: map[string]int{}}
}

func (c *replicas) see(e kernel.Event) error {
	if e.Key == events.HorizonKey {
		c.horizon = e.Seq
	}
	if rs, _, ok := kinds.ReplicaSets.Of(e); ok && rs != nil {
		c.most[string(rs.UID)] = max(c.most[string(rs.UID)], *rs.Spec.Replicas)
	}
	p, old, ok := kinds.Pods.Of(e)
	if !ok {
		return nil
	}
	if p == nil {
		if old != nil {
			delete(c.active[c.set[string(old.UID)]], string(old.UID))
		}
		return nil
	}
	ref := metav1.GetControllerOf(p)
	if ref == nil {
		return fmt.Errorf("event %d: pod %s has no controller", e.Seq, p.Name)
	}
	pod, set := string(p.UID), string(ref.UID)
	c.set[pod] = set
	if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		delete(c.active[set], pod)
		return nil
	}
	if c.active[set] == nil {
		c.active[set] = map[string]bool{}
	}
	c.active[set][pod] = true
	if _, before := e.Old().(*corev1.Pod); !before && e.Seen < c.horizon {
		c.across[set]++
	}
	if n := len(c.active[set]); n > int(c.most[set])+c.across[set] {
		return fmt.Errorf("event %d: replicaset %s has %d active pods, it never asked for more than %d", e.Seq, ref.Name, n, c.most[set])
	}
	return nil
}

func (c *replicas) end() error { return nil }
