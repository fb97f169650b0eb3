package sim

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// replicas: when a pod lands, its ReplicaSet has no more active pods than it
// asked for at some time since the oldest decision that still matters, however
// many leaders race.
//
// Why that holds although their Views lag: a pod's name derives from (set, n),
// and a decision proposes the smallest n that were never used in its View. So
// the names that are used in its View, with all up to the n that it proposes,
// are no more than the pods of the View that are no longer active and those that
// are asked for there; and the first of these only grow. Of two proposals for
// one n one wins.
//
// Which decisions matter: that of the pod, those of all pods that landed after
// the state that it had seen, those of all that landed after what these had
// seen, and so on. Of what was asked for before, nothing is left: a set that is
// scaled from five to one may keep five pods until it has removed them, but who
// has seen the one makes no pod more.
//
// A horizon breaks that for a moment: it frees names, so that a leader who has
// read it proposes another n than one who has not. So every pod that was decided
// on before a horizon and lands after it may be one too many, for as long as it
// is active and decisions matter that had not seen it.
type replicas struct {
	sets    map[string]*replicaSet // by uid
	of      map[string]string      // set's uid by pod's uid
	horizon kernel.Seq             // the newest event of it
}

// replicaSet is what the log said of one ReplicaSet.
type replicaSet struct {
	asked  []ask // in the order of the log
	births []birth
	active map[string]bool // by uid
}

type ask struct {
	at       kernel.Seq
	replicas int
}

// birth is a pod at its first event, or at one that makes it active again.
type birth struct {
	uid      string
	at, seen kernel.Seq
	across   bool // a horizon came between
}

func newReplicas() *replicas {
	return &replicas{sets: map[string]*replicaSet{}, of: map[string]string{}}
}

func (c *replicas) set(uid string) *replicaSet {
	if c.sets[uid] == nil {
		c.sets[uid] = &replicaSet{active: map[string]bool{}}
	}
	return c.sets[uid]
}

func (c *replicas) see(e kernel.Event) error {
	if e.Key == events.HorizonKey {
		c.horizon = e.Seq
	}
	if rs, _, ok := kinds.ReplicaSets.Of(e); ok && rs != nil {
		s := c.set(string(rs.UID))
		s.asked = append(s.asked, ask{e.Seq, int(*rs.Spec.Replicas)})
	}
	p, old, ok := kinds.Pods.Of(e)
	if !ok {
		return nil
	}
	if p == nil {
		if old != nil {
			delete(c.set(c.of[string(old.UID)]).active, string(old.UID))
		}
		return nil
	}
	ref := metav1.GetControllerOf(p)
	if ref == nil {
		return fmt.Errorf("event %d: pod %s has no controller", e.Seq, p.Name)
	}
	pod, s := string(p.UID), c.set(string(ref.UID))
	c.of[pod] = string(ref.UID)
	if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		delete(s.active, pod)
		return nil
	}
	if s.active[pod] {
		return nil
	}
	s.active[pod] = true
	s.births = append(s.births, birth{pod, e.Seq, e.Seen, e.Seen < c.horizon})
	most, across := s.may(e.Seen)
	if n := len(s.active); n > most+across {
		return fmt.Errorf("event %d: replicaset %s has %d active pods, it never asked for more than %d by what was seen of it (and %d decided across a horizon)", e.Seq, ref.Name, n, most, across)
	}
	return nil
}

// may is how many pods the decisions that matter may have made together, for a
// pod that has just landed and whose decision had seen so much: the most that
// was asked for since, and how many pods landed across a horizon since.
func (s *replicaSet) may(since kernel.Seq) (most, across int) {
	for i := len(s.births) - 1; i >= 0 && s.births[i].at > since; i-- {
		switch b := s.births[i]; {
		case !b.across:
			since = min(since, b.seen)
		case s.active[b.uid]:
			across++
		}
	}
	for i := len(s.asked) - 1; i >= 0; i-- {
		most = max(most, s.asked[i].replicas)
		if s.asked[i].at <= since {
			break
		}
	}
	return most, across
}

func (c *replicas) end() error { return nil }
