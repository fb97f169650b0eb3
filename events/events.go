package events

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"
)

// Seq is a position in the log. It is also an object's
// metadata.resourceVersion: the Seq of the event that last changed it. The
// first event of a log has Seq 1; 0 means "none" or "before everything".
type Seq uint64

// Resource names one kind of object the way the Kubernetes API does: the
// plural and its API group, which is empty for the core group.
type Resource struct {
	Group  string
	Plural string
}

// String gives the form that kubectl and RBAC use: "pods", "deployments.apps".
func (r Resource) String() string {
	if r.Group == "" {
		return r.Plural
	}
	return r.Plural + "." + r.Group
}

// ParseResource reads what Resource.String wrote.
func ParseResource(s string) Resource {
	plural, group, _ := strings.Cut(s, ".")
	return Resource{Group: group, Plural: plural}
}

// Key names one object for the whole of its life and beyond: a deleted and
// re-created object has the same Key.
type Key struct {
	Resource
	Namespace string // empty for cluster-scoped resources
	Name      string
}

// String gives "pods/default/web-1" for namespaced and "nodes/n1" for
// cluster-scoped objects.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Resource.String() + "/" + k.Name
	}
	return k.Resource.String() + "/" + k.Namespace + "/" + k.Name
}

// ParseKey reads what Key.String wrote.
func ParseKey(s string) (Key, error) {
	parts := strings.Split(s, "/")
	for _, p := range parts {
		if p == "" {
			return Key{}, fmt.Errorf("key %q: has an empty part; expected resource/name or resource/namespace/name", s)
		}
	}
	switch len(parts) {
	case 2:
		return Key{Resource: ParseResource(parts[0]), Name: parts[1]}, nil
	case 3:
		return Key{Resource: ParseResource(parts[0]), Namespace: parts[1], Name: parts[2]}, nil
	}
	return Key{}, fmt.Errorf("key %q: expected resource/name or resource/namespace/name", s)
}

// Envelope says what an event is about, in the terms of CloudEvents 1.0.
type Envelope struct {
	ID     string    // ce-id: unique to this write, so that a writer whose answer was lost finds it again
	Source string    // ce-source: the actor, such as "user:admin" or "controllers/deployment"
	Type   string    // ce-type: what happened, such as "pod.bound"
	Time   time.Time // ce-time: the decision's own now
	Seen   Seq       // ce-seen: up to where the actor had read when it decided
	Cause  []Seq     // ce-cause: the events that woke the decision, ascending, at most MaxCauses; none from outside
	// Decision is set on every event that a decider made, and only there.
	Decision *DecisionRef
	Trace    string // traceparent (W3C) of the outside request at the root of the chain
	Note     string // ce-note: the decider's explanation, small
}

// MaxCauses bounds Envelope.Cause.
const MaxCauses = 8

// DecisionRef is ce-decision: with Envelope.Seen and Envelope.Time it is all
// that is needed to make the decision again.
type DecisionRef struct {
	Decider string
	Key     string // what was decided upon; not always the object that changed
	Index   int    // this is change Index (from 0) ...
	Count   int    // ... of Count
	Build   string // of the program that decided
}

// Record is one event: the whole object after the change, and the envelope.
// A Record that was read must not be modified: readers share it.
type Record struct {
	Key    Key
	Seq    Seq  // where it stands; 0 in a record that is still to be appended
	Expect Seq  // the Seq of the object's event before this one, its tombstone's too; 0: there was none
	Delete bool // a tombstone: the object is gone, and Body is what it was last
	Envelope
	Body []byte // JSON without metadata.resourceVersion
}

// Errors that callers branch on; test with errors.Is.
var (
	// ErrConflict: the object's last event was not the expected one.
	// Nothing was written.
	ErrConflict = errors.New("conflict: the object has changed")
	// ErrGone: the log no longer holds what was asked for. The reader must
	// start again from a state that it trusts.
	ErrGone = errors.New("gone: the log no longer holds this position")
	// ErrFull: the log has no room left for this write. Nothing was written.
	ErrFull = errors.New("the log is full")
	// ErrUnavailable: too few of the log's servers can be reached. Whether a
	// write was made is not known.
	ErrUnavailable = errors.New("the log is not available: too few of its servers can be reached")
	// ErrTooLarge: the record is larger than MaxRecord. Nothing was written.
	ErrTooLarge = errors.New("the object is too large")
)

// MaxRecord bounds a record's body in bytes (etcd's request limit is 1.5 MiB).
const MaxRecord = 3 << 19

// Log is the one order of everything that happened.
type Log interface {
	// Append writes one event if the object's last event is still r.Expect
	// and returns the event's Seq once it is durable. On ErrConflict nothing
	// was written. After any other error the outcome may be unknown even to
	// the log; an implementation first looks for r.ID and only gives up when
	// it cannot find out. Many Appends may be in flight at once.
	Append(ctx context.Context, r Record) (Seq, error)

	// Follow yields every event after the given Seq, once each and in order,
	// then waits for more until ctx ends. It yields only what is durable. A
	// position that the log does not hold, or a gap, yields ErrGone and ends.
	//
	// After 0 it may begin with a state that was kept: the last Record of every
	// object then, in the order of their Seqs, and a bookmark, which is a Record
	// with the state's Seq and nothing else. What has been read before the
	// bookmark comes is a part of that state; Position tells. The state may be
	// newer than what Last returned before.
	Follow(ctx context.Context, after Seq) iter.Seq2[Record, error]

	// Last returns the Seq of the last durable event, 0 in an empty log.
	Last(ctx context.Context) (Seq, error)
}
