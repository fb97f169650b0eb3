package kinds

import (
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
)

// The verbs of a Write. An apply or a patch is a Create or an Update by the
// time it is finished.
const Create, Update, Delete = "create", "update", "delete"

// Proposal is a write after all rules that need only the View: what is to be
// appended. Its Record lacks an ID, and what else its writer knows.
type Proposal struct {
	kernel.Record
	Verb   string
	Object kernel.Object // as it shall stand, or as it is at last; the caller's own
}

// Make applies the rules of Kubernetes to a write of what the View has, and
// makes the proposal of it: nil for a write that changes nothing. It fills in
// the Write's Verb, Old and Seen. It is where every write passes: users',
// nodes' and deciders'.
func (s Schema) Make(v *kernel.View, w kernel.Write, now time.Time) (*Proposal, *kernel.Refusal) {
	w.Old, w.Seen = v.Entry(w.Key).Live(), v.Seq()
	switch {
	case w.New != nil && w.Old != nil:
		w.Verb = Update
	case w.New != nil:
		w.Verb = Create
	case w.Old != nil:
		w.Verb = Delete
	default:
		return nil, nil
	}
	o, refused := s.Finish(v, w, now)
	if o == nil || refused != nil {
		return nil, refused
	}
	body, err := s.Encode(o)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	p := &Proposal{Verb: w.Verb, Object: o, Record: kernel.Record{Key: s.KeyOf(o), Delete: Gone(o), Body: body,
		Envelope: events.Envelope{Source: w.By, Type: TypeOf(w.Old, o), Time: now, Seen: w.Seen}}}
	if before := v.Entry(p.Key); before != nil {
		p.Expect = before.Seq
	}
	return p, nil
}

// Propose implements kernel.Schema: it is Make without the object.
func (s Schema) Propose(v *kernel.View, w kernel.Write, now time.Time) (*kernel.Record, *kernel.Refusal) {
	p, refused := s.Make(v, w, now)
	if p == nil {
		return nil, refused
	}
	return &p.Record, nil
}

// Gone tells whether nothing keeps a deleted object any longer: no finalizer
// and no grace period. It is then to be written as a tombstone.
func Gone(o kernel.Object) bool {
	grace := o.GetDeletionGracePeriodSeconds()
	return o.GetDeletionTimestamp() != nil && len(o.GetFinalizers()) == 0 && (grace == nil || *grace == 0)
}

// TypeOf names a change for ce-type, such as "pod.bound". old is nil for a
// create.
func TypeOf(old, now kernel.Object) string { return mustRowOf(now).TypeOfChange(now, old) }
