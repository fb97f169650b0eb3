package apiserver

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// Writer is the half of a Server that writes, without HTTP, goroutines, clock
// or chance: what a request does once it has been decoded, what a node's Record
// does at the door, and who is called silent. The simulator drives it.
type Writer struct {
	s    *Server
	door *door
}

// Written is what a client is told of its write.
type Written struct {
	Object  kernel.Object
	Seq     kernel.Seq // of the event, or of the object if nothing had to be written
	Body    []byte     // as it stands in the log; nil if nothing had to be written
	Deleted bool       // it is gone: a tombstone was written
}

// NewWriter uses of a Config the Log, the Schema, the Logger and the addresses
// of services.
func NewWriter(cfg Config, out Surroundings) *Writer {
	s := &Server{cfg: cfg, out: out}
	s.presence = newPresence(s)
	return &Writer{s: s, door: &door{s, s.presence}}
}

// Create writes a new object, as a POST does.
func (w *Writer) Create(ctx context.Context, u *User, o kernel.Object) (Written, error) {
	row, ok := kinds.RowOf(o)
	if !ok {
		return Written{}, errNotFoundPath
	}
	again := func() (kernel.Object, error) { return o.DeepCopyObject().(kernel.Object), nil }
	return told(w.s.create(ctx, u, row, o.GetNamespace(), o, again, by(u), false))
}

// Update writes a new form of an object, as a PUT or a PATCH does. change makes
// it from the live one, and may be called more than once. What it makes has the
// resourceVersion of what it is based on, or none if it may follow anything.
func (w *Writer) Update(ctx context.Context, u *User, k kernel.Key, subresource string, change func(live kernel.Object) (kernel.Object, error)) (Written, error) {
	r, ok := w.request(u, k)
	if !ok {
		return Written{}, errNotFoundPath
	}
	return told(w.s.write(ctx, write{row: r.row, key: k, by: by(u), propose: r.proposeReplace(ctx, subresource, false, by(u),
		func(_ *kernel.View, live *kernel.Entry) (kernel.Object, error) { return change(live.Object()) })}))
}

// Patch is Update by a patch of a content type that is not apply's.
func (w *Writer) Patch(ctx context.Context, u *User, k kernel.Key, contentType string, patch []byte) (Written, error) {
	r, ok := w.request(u, k)
	p := patchers[contentType]
	if !ok || p == nil {
		return Written{}, errNotFoundPath
	}
	return told(w.s.write(ctx, write{row: r.row, key: k, by: by(u), propose: r.proposeReplace(ctx, "", false, by(u), r.patched(p, patch, "", nil))}))
}

// Apply makes an object as a manager wants it, as a server-side apply does: it
// is created if need be.
func (w *Writer) Apply(ctx context.Context, u *User, k kernel.Key, manager string, force bool, patch []byte) (Written, error) {
	r, ok := w.request(u, k)
	if !ok {
		return Written{}, errNotFoundPath
	}
	by := by(u)
	by.manager = manager
	mayCreate := func(kernel.Object) error { return nil } // who may is decided before, as for Create
	return told(w.s.write(ctx, write{row: r.row, key: k, by: by, propose: r.proposeApply(ctx, patch, "", force, false, by, mayCreate)}))
}

// request is one for an object, without HTTP.
func (w *Writer) request(u *User, k kernel.Key) (*request, bool) {
	row, ok := kinds.RowFor(k.Resource)
	if !ok {
		return nil, false
	}
	r := &request{s: w.s, row: row, kind: row.Describe(), user: u}
	r.info.Group, r.info.Resource, r.info.Namespace, r.info.Name = k.Group, k.Plural, k.Namespace, k.Name
	return r, true
}

// Delete deletes an object, or marks it as going.
func (w *Writer) Delete(ctx context.Context, u *User, k kernel.Key, o *metav1.DeleteOptions) (Written, error) {
	row, ok := kinds.RowFor(k.Resource)
	if !ok {
		return Written{}, errNotFoundPath
	}
	return told(w.s.remove(ctx, row, k, o, by(u)))
}

// Get reads an object as a GET without a resourceVersion does.
func (w *Writer) Get(ctx context.Context, k kernel.Key) (kernel.Object, error) {
	v, err := w.s.out.Fresh(ctx)
	if err != nil {
		return nil, err
	}
	o, ok := v.Get(k)
	if !ok {
		return nil, apierrors.NewNotFound(apiResource(k), k.Name)
	}
	return o, nil
}

// NodeAppend takes one Record from a node, as POST append at its door does.
func (w *Writer) NodeAppend(ctx context.Context, node string, r events.Record) (kernel.Seq, error) {
	return w.door.take(ctx, node, r)
}

// NodeStream is what a node is told at its door; tell is called with each line,
// the Record and the Seq of the line before it.
func (w *Writer) NodeStream(node string, tell func(r kernel.Record, prev kernel.Seq) error) *NodeStream {
	return &NodeStream{newNodeStream(node, tell), w.door.nodes.enter(node)}
}

// NodeStream is one open stream of a node's door.
type NodeStream struct {
	of    *nodeStream
	leave func()
}

// Begin tells all that the node may see in a View.
func (s *NodeStream) Begin(v *kernel.View) {
	s.of.begin(v)
	s.of.line(kernel.Record{Seq: v.Seq()})
}

// Step tells of what happened, and how far the log is if that was anything.
func (s *NodeStream) Step(v *kernel.View, es []kernel.Event) {
	said := s.of.lines
	for _, e := range es {
		s.of.event(v, e)
	}
	if s.of.lines != said {
		s.of.line(kernel.Record{Seq: v.Seq()})
	}
}

// End closes the stream: from now on the node is not heard by it.
func (s *NodeStream) End() { s.leave() }

// How an apiserver that nobody drives speaks with the others.
const (
	TellEvery = tellEvery            // it tells what it knows
	NoticeCut = lonelyAfter + askLog // until it knows that it is cut off
)

// Look judges which nodes are heard, and appends what changed. since is how
// long the last look is ago.
func (w *Writer) Look(ctx context.Context, since time.Duration) {
	w.s.presence.look(ctx, w.s.out.Steady(), since)
}

// Words is what this apiserver tells the others of the nodes.
func (w *Writer) Words() []byte { return w.s.presence.words(w.s.out.Steady()) }

// Told takes what another one told.
func (w *Writer) Told(words []byte) error { return w.s.presence.told(words, w.s.out.Steady()) }

// CutOff says whether this apiserver is cut off from the log and the others.
// Whoever drives it ends the streams of its nodes if it is.
func (w *Writer) CutOff(is bool) { w.s.presence.cut(is) }

// Answered says that the log answered this apiserver, which asks if it hears
// nothing of others.
func (w *Writer) Answered() { w.s.presence.conclude(w.s.out.Steady(), nil) }

func by(u *User) author { return author{source: "user:" + u.Name, groups: u.Groups, manager: u.Name} }

func told(w written, err error) (Written, error) {
	return Written{Object: w.object, Seq: w.seq, Body: w.body, Deleted: w.deleted}, err
}
