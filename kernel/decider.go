package kernel

import (
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Decider is a pure function from a View to Changes, and what the kernel must
// know to call it. Determinism is a law: Wakes and Decide read no clock, no
// random source, no map order, no environment, no network, no
// resourceVersion and no managedFields, and use no floating point. What they
// need to know comes from the View and from now.
type Decider struct {
	Name string // the actor in the log, such as "controllers/replicaset"
	// Reads and Writes declare what the decider touches. The kernel enforces
	// both.
	Reads, Writes []Resource
	// Wakes returns the keys whose decision may differ after the event. v is
	// the View that has it. Keys need not be objects: "queue" is one, too.
	Wakes func(v *View, e Event) []Key
	// Decide looks at all that it needs to see and returns what should
	// change. It is level-triggered: it does not know what woke it, and is
	// called again whenever it might decide otherwise.
	Decide func(v *View, k Key, now time.Time) Decision
}

// Decision is what a decider wants. The zero Decision wants nothing.
type Decision struct {
	Changes []Change
	Revisit time.Time // decide this key again then, even if nothing happens; zero: not needed
}

// Change is a proposed event. An object appears at most once in a Decision.
// The Seq that it expects its object to be at is the kernel's to fill in.
type Change struct {
	Key    Key
	Type   string // what happened, such as "pod.bound"; empty: the kind names it
	Object Object // as it shall be; the proposer's own copy. For a delete nil
	Delete bool
	Note   string // the decider's explanation, at most a few KiB
}

// Verb is what a Write does to its object.
type Verb string

// The verbs of a Write. An apply or a patch is a Create or an Update by the
// time it is finished.
const Create, Update, Delete Verb = "create", "update", "delete"

// Whole is the Subresource of a Write that may change any part of the object,
// spec and status alike: deciders and the node door write so.
const Whole = "*"

// Write is an intended change of one object, before the rules of Kubernetes
// have been applied to it.
type Write struct {
	Key         Key
	Verb        Verb
	Subresource string // "", "status", "scale", ... or Whole
	Old         Object // what is there, shared; nil for a create
	New         Object // what shall be, the writer's own copy; nil for a delete
	By          string // the actor: "user:admin", "controllers/deployment"
	Groups      []string
	Manager     string // the field manager; empty: none is recorded
	Apply       bool   // a server-side apply: managedFields were merged before
	UID         string // for a create: the uid to give; empty: derived from (cluster, Key, Seen, now)
	Seen        Seq
	// For deletes.
	Grace         *int64 // seconds
	Propagation   *metav1.DeletionPropagation
	Preconditions *metav1.Preconditions
}

// Refusal says in Kubernetes' own terms why a write must not be.
type Refusal = apierrors.StatusError

// Schema is what the kernel must know about objects, and does not.
type Schema interface {
	KeyOf(Object) Key
	// Encode gives the body of a Record: JSON without resourceVersion.
	Encode(Object) ([]byte, error)
	// Decode reads what Encode wrote.
	Decode(Key, []byte) (Object, error)
	// Finish turns an intended write into the object as it shall stand in the
	// log, by all the rules that need only the View. It returns (nil, nil) for
	// a write that changes nothing. It is pure. An object that it returns and
	// for which Gone is true is to be written as a tombstone.
	Finish(v *View, w Write, now time.Time) (Object, *Refusal)
	// TypeOf names a write for ce-type.
	TypeOf(old, finished Object) string
}

// Gone tells whether nothing keeps a deleted object any longer: no finalizer
// and no grace period.
func Gone(o Object) bool {
	grace := o.GetDeletionGracePeriodSeconds()
	return o.GetDeletionTimestamp() != nil && len(o.GetFinalizers()) == 0 && (grace == nil || *grace == 0)
}
