package kernel

import (
	"bytes"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tidwall/btree"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/rutterhq/rutter/events"
)

// The log's words, so that services need not import events for them.
type (
	Seq      = events.Seq
	Key      = events.Key
	Resource = events.Resource
	Record   = events.Record
)

// Object is any Kubernetes API object. One that came out of a View is shared
// and must not be modified; DeepCopyObject first.
type Object interface {
	runtime.Object
	metav1.Object
}

// Entry is one object in a View, or the tombstone of one. It keeps the Record
// as it was read and decodes it at the first Object, once for all Views.
type Entry struct {
	Record
	// Owned is false if the object has no owners: whoever looks for what an
	// object owns need not decode the others.
	Owned  bool
	schema Schema
	object atomic.Pointer[Object]
}

// ownersMember begins the list of owners in a body. A label of that name only
// costs a look.
var ownersMember = []byte(`"ownerReferences":`)

// Object returns the decoded object with its resourceVersion, shared: it must
// not be modified. For a tombstone it is the object as it was last.
// It panics if the body does not decode: nothing enters the log unchecked.
func (e *Entry) Object() Object {
	if o := e.object.Load(); o != nil {
		return *o
	}
	o, err := e.schema.Decode(e.Key, e.Body)
	if err != nil {
		panic(fmt.Sprintf("event %d of %s does not decode, yet it was appended: %v", e.Seq, e.Key, err))
	}
	o.SetResourceVersion(fmt.Sprint(e.Seq))
	e.object.CompareAndSwap(nil, &o)
	return *e.object.Load()
}

// Live returns the decoded object, or nil if there is none: e may be nil, or a
// tombstone.
func (e *Entry) Live() Object {
	if e == nil || e.Delete {
		return nil
	}
	return e.Object()
}

// View is the fold of a prefix of the log: an immutable value. Every View of
// the same log at the same Seq is equal.
type View struct {
	seq     Seq
	schema  Schema
	entries *btree.Map[string, *Entry] // by Key.String(), tombstones included
	allowed []Resource                 // what may be read; nil: everything
}

// NewView returns the View of the empty log.
func NewView(s Schema) *View { return &View{schema: s, entries: new(btree.Map[string, *Entry])} }

// copying serialises btree copies: a copy writes a generation number into the
// map it is taken from, and Views are shared between goroutines.
var copying sync.Mutex

func (v *View) clone() *View {
	copying.Lock()
	defer copying.Unlock()
	return &View{v.seq, v.schema, v.entries.Copy(), v.allowed}
}

// Event is a Record at the moment it was folded: with what it replaced.
type Event struct {
	*Entry
	Before *Entry // nil if the Key had never been seen; may be a tombstone
}

// Old returns the live object that the event replaced or removed, or nil.
func (e Event) Old() Object { return e.Before.Live() }

// Fold returns the View after the records, which continue the log from v, and
// what each of them was. v itself stays as it is. A record without a Key is a
// bookmark: the log has been read up to its Seq, and nothing happened.
func (v *View) Fold(records ...Record) (next *View, folded []Event) {
	next, folded = v.clone(), make([]Event, 0, len(records))
	for _, r := range records {
		next.seq = max(next.seq, r.Seq)
		if r.Key == (Key{}) {
			continue
		}
		e := &Entry{Record: r, Owned: bytes.Contains(r.Body, ownersMember), schema: v.schema}
		before, _ := next.entries.Set(r.Key.String(), e)
		if before != nil && r.Seq <= before.Seq {
			panic(fmt.Sprintf("event %d of %s folded after its event %d: the log is read in order, each event once", r.Seq, r.Key, before.Seq))
		}
		folded = append(folded, Event{Entry: e, Before: before})
		if h, ok := events.HorizonOf(r); ok {
			next.forget(h)
		}
	}
	return next, folded
}

// forget drops the tombstones below a horizon from a View that is being made.
func (v *View) forget(horizon Seq) {
	for e := range v.Records() {
		if e.Delete && e.Seq < horizon {
			v.entries.Delete(e.Key.String())
		}
	}
}

// With returns a scratch View in which the objects are as given, for a decider
// that must see its own proposals. Their Seqs are invented: they never become
// an Expect, for the kernel takes that from the View a decision was made on.
func (v *View) With(objects ...Object) *View {
	next := v.clone()
	for _, o := range objects {
		e := &Entry{Record: Record{Key: v.schema.KeyOf(o), Seq: v.seq}, Owned: len(o.GetOwnerReferences()) > 0, schema: v.schema}
		e.object.Store(&o)
		next.entries.Set(e.Key.String(), e)
	}
	return next
}

// Only returns a View that panics when anything but the resources is read: a
// decider sees what it declared, or its declaration is a lie.
func (v *View) Only(resources []Resource) *View { return &View{v.seq, v.schema, v.entries, resources} }

func (v *View) check(r Resource) {
	if v.allowed != nil && !slices.Contains(v.allowed, r) {
		panic(fmt.Sprintf("%s was read, but is not declared in Reads", r))
	}
}

// Seq is the Seq of the last event folded.
func (v *View) Seq() Seq { return v.seq }

// Get returns the live object at k, shared.
func (v *View) Get(k Key) (Object, bool) {
	o := v.Entry(k).Live()
	return o, o != nil
}

// Entry returns what the log says last about k, a tombstone too, or nil.
func (v *View) Entry(k Key) *Entry {
	v.check(k.Resource)
	e, _ := v.entries.Get(k.String())
	return e
}

// Entries yields the live objects of a resource in the order of their Keys,
// of one namespace or, for "", of all.
func (v *View) Entries(r Resource, namespace string) iter.Seq[*Entry] {
	return v.EntriesFrom(r, namespace, "")
}

// EntriesFrom is Entries for the Keys that come after the given one.
func (v *View) EntriesFrom(r Resource, namespace, after string) iter.Seq[*Entry] {
	v.check(r)
	prefix := Key{Resource: r, Namespace: namespace}.String()
	return func(yield func(*Entry) bool) {
		v.entries.Ascend(max(prefix, after), func(k string, e *Entry) bool {
			return strings.HasPrefix(k, prefix) && (e.Delete || k == after || yield(e))
		})
	}
}

// events returns an event for every live object, as for somebody who has seen
// none of them.
func (v *View) events() (es []Event) {
	for e := range v.All() {
		es = append(es, Event{Entry: e})
	}
	return es
}

// All yields every live object in the order of their Keys.
func (v *View) All() iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		v.entries.Scan(func(_ string, e *Entry) bool { return e.Delete || e.Key == events.HorizonKey || yield(e) })
	}
}

// Records yields all that the View is made of in the order of their Keys:
// tombstones and the log's own objects, too.
func (v *View) Records() iter.Seq[*Entry] { return slices.Values(v.entries.Values()) }
