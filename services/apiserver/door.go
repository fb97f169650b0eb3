package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

const (
	// doorPrefix is where nodes knock: doorPrefix + NODE + "/log" or "/append".
	doorPrefix = "/rutter/v1/nodes/"
	// heartbeat is how often a node's stream says at least how far the log is.
	heartbeat = 5 * time.Second
	// catchUp is how long a node waits for an apiserver that has not read all of
	// the log, before it is sent to another.
	catchUp = 2 * time.Second
)

// door is the one way into the log for those who are not trusted with it: a
// node reads the Records that concern it, and appends what it observed.
type door struct {
	s     *Server
	nodes *presence
}

// ServeHTTP implements http.Handler.
func (d *door) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	r := &request{Request: hr, w: w, s: d.s}
	if err := d.serve(r); err != nil {
		r.writeError(err)
	}
}

func (d *door) serve(r *request) error {
	node, what, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, doorPrefix), "/")
	if self, ok := nodeOf(UserFrom(r.Context())); !ok || self != node {
		return apierrors.NewForbidden(nodesResource, node,
			fmt.Errorf("the door of a node opens for that node only"))
	}
	switch {
	case what == "log" && r.Method == http.MethodGet:
		return d.log(r, node)
	case what == "append" && r.Method == http.MethodPost:
		return d.append(r, node)
	case what == "log" || what == "append":
		return refusal(http.StatusMethodNotAllowed, "MethodNotAllowed", "the door knows GET log and POST append")
	}
	return errNotFoundPath
}

// log streams what the node may see: first as it is, then as it changes.
func (d *door) log(r *request, node string) error {
	if after := r.URL.Query().Get("after"); after != "" && after != "0" {
		return apierrors.NewResourceExpired("a node's stream begins at 0: what the node may see at a later position depends on what came before")
	}
	away := d.nodes.cutOff()
	select {
	case <-away:
		return refusal(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "this apiserver is cut off from the log; ask another")
	default:
	}
	leave := d.nodes.enter(node)
	defer leave()
	// A node is never shown less than it has been shown, here or elsewhere: what
	// it does not find any longer it ends.
	if err := d.caughtUp(r.Context()); err != nil {
		return refusal(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, fmt.Sprintf("this apiserver has not read all of the log (%v); ask another", err))
	}
	r.w.Header().Set("Content-Type", "application/x-ndjson")
	out := newNodeStream(node, func(rec kernel.Record, prev kernel.Seq) error {
		b, err := json.Marshal(rec)
		if err == nil {
			_, err = r.w.Write(append(b[:len(b)-1], fmt.Sprintf(",\"prev\":%d}\n", prev)...))
		}
		return err
	})
	ctx, cancel := context.WithCancel(r.Context())
	steps := make(chan kernel.Step)
	var g errgroup.Group
	defer func() { cancel(); _ = g.Wait() }()
	g.Go(func() error {
		for step := range d.s.cfg.Mirror.Follow(ctx) {
			select {
			case steps <- step:
			case <-ctx.Done():
			}
		}
		return nil
	})
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	v := d.s.cfg.Mirror.View()
	for begun := false; ; {
		said := out.lines
		select {
		case step := <-steps:
			if step.Fresh && begun {
				return nil // the log was read anew: the node begins again
			}
			begun, v = true, step.View
			if step.Fresh {
				said = -1
				out.begin(v)
			}
			for _, e := range step.Events {
				out.event(v, e)
			}
		case <-beat.C:
			said = -1
		case <-away:
			return nil
		case <-ctx.Done():
			return nil
		}
		if begun && out.lines != said { // what does not concern the node is not worth a line
			out.line(kernel.Record{Seq: v.Seq()})
		}
		if out.err != nil || http.NewResponseController(r.w).Flush() != nil {
			return nil // the node is gone
		}
	}
}

// caughtUp waits until the View has all that was durable when it was called.
func (d *door) caughtUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	_, err := d.s.out.Fresh(ctx)
	return err
}

// nodeStream is what one node is being told.
type nodeStream struct {
	tell  func(r kernel.Record, prev kernel.Seq) error // writes one line
	node  string
	sent  map[kernel.Key]kernel.Seq   // the newest record of each object that the node has
	refs  map[kernel.Key][]kernel.Key // of the node's pods: what each mounts
	prev  kernel.Seq                  // of the line before
	lines int
	err   error
}

func newNodeStream(node string, tell func(r kernel.Record, prev kernel.Seq) error) *nodeStream {
	return &nodeStream{tell: tell, node: node, sent: map[kernel.Key]kernel.Seq{}, refs: map[kernel.Key][]kernel.Key{}}
}

// begin sends all that the node may see.
func (s *nodeStream) begin(v *kernel.View) {
	for _, p := range kinds.Pods.List(v, "") {
		if p.Spec.NodeName == s.node {
			s.refs[kinds.Pods.Key(p.Namespace, p.Name)] = mountedBy(p)
		}
	}
	var all []*kernel.Entry
	for e := range v.All() {
		if s.sees(e) {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b *kernel.Entry) int { return int(int64(a.Seq) - int64(b.Seq)) })
	for _, e := range all {
		s.send(e)
	}
}

// event sends an event that concerns the node, and with a pod what it mounts.
func (s *nodeStream) event(v *kernel.View, e kernel.Event) {
	if p, _, ok := kinds.Pods.Of(e); ok {
		if p == nil || p.Spec.NodeName != s.node {
			delete(s.refs, e.Key)
		} else {
			mounts := mountedBy(p)
			s.refs[e.Key] = mounts
			for _, k := range mounts {
				if m := v.Entry(k); m != nil && m.Seq > s.sent[k] && (!m.Delete || s.sent[k] > 0) {
					s.send(m)
				}
			}
		}
	}
	if s.sees(e.Entry) && e.Seq > s.sent[e.Key] {
		s.send(e.Entry)
	}
}

// sees tells whether an object is the node's business. It is the reading half
// of what a node may; mayWrite is the other.
func (s *nodeStream) sees(e *kernel.Entry) bool {
	switch e.Key.Resource {
	case kinds.Services.Resource, kinds.EndpointSlices.Resource:
		return true
	case kinds.Nodes.Resource:
		return true // addresses and pod ranges of the others
	case kinds.Leases.Resource:
		return e.Key.Namespace == nodeLeases && e.Key.Name == s.node
	case kinds.Pods.Resource:
		pod := pods(e.Object())
		return pod != nil && pod.Spec.NodeName == s.node
	case kinds.ConfigMaps.Resource, kinds.Secrets.Resource:
		for _, mounted := range s.refs {
			if slices.Contains(mounted, e.Key) {
				return true
			}
		}
	}
	return false
}

// send writes the Record of an entry. Secrets come in the clear, for the node
// has no key to the log; the connection is TLS.
func (s *nodeStream) send(e *kernel.Entry) {
	r := e.Record
	if row, ok := kinds.RowFor(r.Key.Resource); ok && row.Describe().Sealed {
		body, err := kinds.EncodeJSON(e.Object())
		if err != nil {
			s.err = err
			return
		}
		r.Body = body
	}
	s.sent[r.Key] = r.Seq
	s.line(r)
}

func (s *nodeStream) line(r kernel.Record) {
	if s.err != nil {
		return
	}
	err := s.tell(r, s.prev)
	s.prev, s.err = r.Seq, err
	s.lines++
}

// append answers POST of one Record.
func (d *door) append(r *request, node string) error {
	body, err := r.body()
	if err != nil {
		return err
	}
	var in events.Record
	if err := json.Unmarshal(body, &in); err != nil {
		return badRequest("the body is not a Record: %v", err)
	}
	seq, err := d.take(r.Context(), node, in)
	if err != nil {
		return err
	}
	r.w.Header().Set("Content-Type", "application/json")
	_, err = fmt.Fprintf(r.w, "{\"seq\":%d}\n", seq)
	return err
}

// take takes one Record from a node and returns where it stands in the log.
// What the node may write, and that it is the node who writes, is decided
// here, not by what the Record says.
func (d *door) take(ctx context.Context, node string, in events.Record) (kernel.Seq, error) {
	if _, ok := kinds.RowFor(in.Key.Resource); !ok || in.Key.Name == "" {
		return 0, badRequest("key: %q names no object: expected resource/name or resource/namespace/name", in.Key)
	}
	v, err := d.viewAt(ctx, max(in.Expect, in.Seen))
	if err != nil {
		return 0, err
	}
	entry := v.Entry(in.Key)
	if entry != nil && in.ID != "" && entry.ID == in.ID {
		return entry.Seq, nil // written before, and the answer was lost
	}
	if entry != nil && entry.Seq != in.Expect || entry == nil && in.Expect != 0 {
		return 0, fmt.Errorf("%s: %w", in.Key, events.ErrConflict)
	}
	w := kernel.Write{Key: in.Key, Verb: kinds.Create, Subresource: kernel.Whole, By: actorOf(node), Manager: "rutter-nodeagent", Seen: in.Seen}
	if entry != nil && !entry.Delete {
		w.Old, w.Verb = entry.Object(), kinds.Update
	}
	if in.Delete {
		w.Verb, w.Grace = kinds.Delete, new(int64)
	} else if w.New, err = d.s.cfg.Schema.Decode(in.Key, in.Body); err != nil {
		return 0, badRequest("body: %v", err)
	}
	if err := mayWrite(v, node, &w); err != nil {
		return 0, err
	}
	if in.Delete && w.Old == nil {
		return 0, apierrors.NewNotFound(schema.GroupResource{Group: in.Key.Group, Resource: in.Key.Plural}, in.Key.Name)
	}
	return d.finish(ctx, v, w, in)
}

// finish applies the rules of a write and appends it.
func (d *door) finish(ctx context.Context, v *kernel.View, w kernel.Write, in events.Record) (kernel.Seq, error) {
	p, refused := d.s.cfg.Schema.Make(v, w, d.s.out.Now().Round(0).UTC())
	if refused != nil {
		return 0, refused
	}
	if p == nil {
		return in.Expect, nil
	}
	out := p.Record
	out.Envelope = in.Envelope
	out.Source, out.Type, out.Time, out.Decision = p.Source, p.Type, p.Time, nil
	if t, _, _ := strings.Cut(in.Type, "."); t == "container" {
		out.Type = in.Type // what happened inside the pod only the node can name
	}
	seq, err := d.s.cfg.Log.Append(ctx, out)
	if errors.Is(err, events.ErrConflict) {
		// Perhaps with itself: it was written, and the View did not have it yet.
		switch seq, err := d.written(ctx, in); {
		case err != nil:
			return 0, err
		case seq > 0:
			return seq, nil
		}
	}
	return seq, err
}

// written returns the Seq of a Record if it is the newest of its object.
func (d *door) written(ctx context.Context, in events.Record) (kernel.Seq, error) {
	last, err := d.s.cfg.Log.Last(ctx)
	if err != nil {
		return 0, err
	}
	v, err := d.s.out.At(ctx, last, time.Time{})
	if err != nil {
		return 0, err
	}
	if e := v.Entry(in.Key); e != nil && in.ID != "" && e.ID == in.ID {
		return e.Seq, nil
	}
	return 0, nil
}

// viewAt waits for the View to have what the writer has seen.
func (d *door) viewAt(ctx context.Context, seq kernel.Seq) (*kernel.View, error) {
	last, err := d.s.cfg.Log.Last(ctx)
	if err != nil {
		return nil, err
	}
	if seq > last {
		return nil, badRequest("seen: %d: the log ends at %d", seq, last)
	}
	return d.s.out.At(ctx, seq, time.Time{})
}
