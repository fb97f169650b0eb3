package apiserver

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

const (
	// attempts bounds how often a write is made anew because somebody else was
	// faster, or because a generated name was taken.
	attempts = 64
	// settling is how long a new namespace is given until it has what every
	// namespace has: its service account. Kubernetes waits a second for it.
	settling = 2 * time.Second
	// managerMax bounds the name of a field manager, in characters.
	managerMax = 128
)

// write is an intended write of one object, made anew for each attempt.
type write struct {
	row    kinds.Row
	key    kernel.Key // its Name is empty if it is to be generated
	by     author
	dryRun bool
	inner  bool // made while another write is: it takes no turn, so that none waits for itself
	// propose says what to write, given the live object or nil. It fills in
	// what differs between writes: Verb, New and the options.
	propose func(v *kernel.View, live *kernel.Entry) (kernel.Write, error)
}

// author is who writes, for the envelope and for admission.
type author struct {
	source  string
	groups  []string
	manager string
	trace   string
	note    string
}

// written is what became of a write.
type written struct {
	object  kernel.Object // as it stands now, or would
	seq     kernel.Seq
	body    []byte // as it stands in the log, if it was written
	created bool
	deleted bool // it is gone: a tombstone was written
	same    bool // nothing had to be written
}

// write makes a write happen. What is forbidden in a namespace that has only
// just been made may be allowed a moment later: it is tried again with every
// event until the namespace has settled.
func (s *Server) write(ctx context.Context, w write) (written, error) {
	for begun := s.out.Now(); ; {
		seen := s.out.View().Seq()
		res, err := s.race(ctx, w)
		if !apierrors.IsForbidden(err) || !s.settles(ctx, w.key.Namespace, seen, begun) {
			return res, err
		}
	}
}

// settles waits for an event after seen, if the namespace is new, and tells
// whether there was one. A namespace that was made in what is now the future,
// for the clock was set back since, is given no more than one made just now.
func (s *Server) settles(ctx context.Context, namespace string, seen kernel.Seq, begun time.Time) bool {
	n, ok := kinds.Namespaces.Get(s.out.View(), "", namespace)
	if !ok || n.DeletionTimestamp != nil {
		return false
	}
	until := begun
	if n.CreationTimestamp.Time.Before(begun) {
		until = n.CreationTimestamp.Time
	}
	until = until.Add(settling)
	_, err := s.out.At(ctx, seen+1, until)
	return err == nil && s.out.Now().Before(until)
}

// race makes a write happen. The first attempt uses the View at hand. If it is
// refused or loses a race, the View may have been too old: it is made again on
// one that has all that was acknowledged, and from then on as often as somebody
// else is faster. An append whose outcome is not known is never repeated.
func (s *Server) race(ctx context.Context, w write) (written, error) {
	v := s.out.View()
	fresh := false
	var done func() // ends this writer's turn
	for n := 1; ; n++ {
		res, err := s.attempt(ctx, v, &w)
		if err == nil {
			return res, nil
		}
		var refused apierrors.APIStatus
		// ErrGone: the log had forgotten the key that the View did not know.
		lost := errors.Is(err, events.ErrConflict) || errors.Is(err, events.ErrGone)
		if !lost && (fresh || !errors.As(err, &refused)) || n >= attempts {
			return res, err
		}
		next, ierr := s.out.Fresh(ctx)
		if ierr != nil {
			return res, ierr
		}
		if next.Seq() == v.Seq() && !lost {
			return res, err
		}
		if lost && done == nil && !w.inner {
			// From now on one at a time, or many writers of one object would
			// mostly defeat each other.
			if done, err = s.out.Turn(ctx, w.key); err != nil {
				return res, err
			}
			defer done()
			next = s.out.View()
		}
		v, fresh = next, true
	}
}

// queues let writers of one object that have met go one after the other. Two
// objects may share a queue.
type queues [64]chan struct{}

func newQueues() (q queues) {
	for i := range q {
		q[i] = make(chan struct{}, 1)
	}
	return q
}

// take waits for the key's turn. The returned function ends it.
func (q *queues) take(ctx context.Context, k kernel.Key) (done func(), err error) {
	h := fnv.New32a()
	h.Write([]byte(k.String()))
	turn := q[h.Sum32()%uint32(len(q))]
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// attempt makes a write on one View.
func (s *Server) attempt(ctx context.Context, v *kernel.View, w *write) (written, error) {
	live := v.Entry(w.key)
	if live != nil && live.Delete {
		live = nil
	}
	kw, err := w.propose(v, live)
	if err != nil {
		return written{}, err
	}
	kw.Key, kw.By, kw.Groups = w.key, w.by.source, w.by.groups
	if kw.Manager == "" {
		kw.Manager = w.by.manager
	}
	p, err := s.make(v, kw)
	if err != nil {
		return written{}, err
	}
	if p == nil {
		return written{object: live.Object(), seq: live.Seq, same: true}, nil
	}
	res := written{object: p.Object, created: p.Verb == kinds.Create, deleted: p.Delete}
	if res.created {
		if err := s.mayCreate(w.by.source); err != nil {
			return written{}, err
		}
	}
	if w.dryRun {
		if live != nil {
			p.Object.SetResourceVersion(strconv.FormatUint(uint64(live.Seq), 10))
		}
		return res, nil
	}
	if err := s.cfg.Schema.Prepare(ctx, p); err != nil {
		return written{}, err
	}
	p.ID, p.Trace, p.Note = s.out.ID(), w.by.trace, w.by.note
	if res.seq, err = s.cfg.Log.Append(ctx, p.Record); err != nil {
		return written{}, fmt.Errorf("append for %s: %w", p.Key, err)
	}
	res.body = p.Body
	p.Object.SetResourceVersion(strconv.FormatUint(uint64(res.seq), 10))
	return res, nil
}

// make applies the rules of Kubernetes. A generated name that is taken is
// drawn again.
func (s *Server) make(v *kernel.View, w kernel.Write) (*kinds.Proposal, error) {
	var draft kernel.Object // of an object whose name is to be generated
	if w.Key.Name == "" && w.New.GetGenerateName() != "" {
		draft = w.New.DeepCopyObject().(kernel.Object)
	}
	for n := 1; ; n++ {
		w.UID = s.out.ID()
		p, refused := s.cfg.Schema.Make(v, w, s.out.Now().UTC())
		if refused == nil {
			return p, nil
		}
		if draft == nil || !apierrors.IsAlreadyExists(refused) || n >= attempts {
			return nil, refused
		}
		w.New = draft.DeepCopyObject().(kernel.Object)
	}
}

// author is who the request writes as.
func (r *request) author() author {
	a := author{source: "user:" + r.user.Name, groups: r.user.Groups, manager: r.manager(), trace: r.trace()}
	if r.behind != "" {
		a.note = "impersonated by " + r.behind
	}
	return a
}

// manager is the field manager that the client names, or the first part of its
// user agent.
func (r *request) manager() string {
	if m := r.query.Get("fieldManager"); m != "" {
		return m
	}
	m, _, _ := strings.Cut(r.UserAgent(), "/")
	var b strings.Builder
	for _, c := range m {
		if b.Len() >= managerMax {
			break
		}
		if unicode.IsPrint(c) {
			b.WriteRune(c)
		}
	}
	return b.String()
}

// checkManager refuses field managers that could not be written down.
func (r *request) checkManager() error {
	m := r.query.Get("fieldManager")
	var errs field.ErrorList
	if len(m) > managerMax {
		errs = append(errs, field.TooLong(field.NewPath("fieldManager"), m, managerMax))
	}
	for i, c := range m {
		if !unicode.IsPrint(c) {
			errs = append(errs, field.Invalid(field.NewPath("fieldManager"), m, fmt.Sprintf("invalid character %#U (at position %d)", c, i)))
		}
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: metaGroup, Kind: "Options"}, "", errs)
	}
	return nil
}

// trace is the request's traceparent (W3C Trace Context), a fresh one if the
// client brought none.
func (r *request) trace() string {
	if t := r.Header.Get("Traceparent"); len(t) == 55 && strings.Count(t, "-") == 3 {
		return t
	}
	return newTrace()
}

func newTrace() string {
	var id [24]byte
	_, _ = rand.Read(id[:]) // never fails, says its documentation
	return "00-" + hex.EncodeToString(id[:16]) + "-" + hex.EncodeToString(id[16:]) + "-01"
}

// writeOptions reads what all writes have in their query.
func (r *request) writeOptions() (dryRun bool, err error) {
	if err := r.checkManager(); err != nil {
		return false, err
	}
	return r.dryRun(r.query["dryRun"])
}

// create answers POST to a collection.
func (r *request) create() error {
	dryRun, err := r.writeOptions()
	if err != nil {
		return err
	}
	o, err := r.decodeObject()
	if err != nil {
		return err
	}
	if !r.kind.Cluster && r.info.Namespace == "" {
		return badRequest("namespace is required to create a %s", r.kind.Kind)
	}
	if o.GetResourceVersion() != "" {
		return badRequest("resourceVersion should not be set on objects to be created")
	}
	res, err := r.s.create(r.Context(), r.user, r.row, r.info.Namespace, o, r.again(o), r.author(), dryRun)
	if err != nil {
		return err
	}
	return r.writeWritten(http.StatusCreated, res)
}

// again gives the object that was decoded from the request for the first
// attempt of a write, which consumes it, and decodes it anew for each further.
func (r *request) again(o kernel.Object) func() (kernel.Object, error) {
	first := o
	return func() (kernel.Object, error) {
		if o := first; o != nil {
			first = nil
			return o, nil
		}
		o, _, err := kinds.DecodeStrict(r.row, r.raw, r.Header.Get("Content-Type"))
		if err == nil {
			r.place(o)
		}
		return o, err
	}
}

// create writes a new object. It is where kinds with values that must be
// unique in the cluster get them.
func (s *Server) create(ctx context.Context, u *User, row kinds.Row, namespace string, o kernel.Object, again func() (kernel.Object, error), by author, dryRun bool) (written, error) {
	if err := s.mayGrant(ctx, u, o, nil); err != nil {
		return written{}, err
	}
	key := row.Describe().Key(namespace, o.GetName())
	return s.write(ctx, write{row: row, key: key, by: by, dryRun: dryRun,
		propose: func(v *kernel.View, live *kernel.Entry) (kernel.Write, error) {
			if live != nil {
				return kernel.Write{}, apierrors.NewAlreadyExists(groupResource(row), key.Name)
			}
			draft, err := again()
			if err != nil {
				return kernel.Write{}, err
			}
			if err := s.claim(ctx, v, draft, nil, by, dryRun); err != nil {
				return kernel.Write{}, err
			}
			return kernel.Write{New: draft}, nil
		}})
}

func groupResource(row kinds.Row) schema.GroupResource {
	i := row.Describe()
	return schema.GroupResource{Group: i.Resource.Group, Resource: i.Resource.Plural}
}

// modified is the 409 that tells a client to read the object again.
func modified(row kinds.Row, name string) error {
	return apierrors.NewConflict(groupResource(row), name,
		errors.New("the object has been modified; please apply your changes to the latest version and try again"))
}

// update answers PUT to an object or a subresource of it.
func (r *request) update(subresource string) error {
	dryRun, err := r.writeOptions()
	if err != nil {
		return err
	}
	o, err := r.decodeObject()
	if err != nil {
		return err
	}
	if o.GetName() == "" {
		return badRequest("name must be provided")
	}
	again := r.again(o)
	res, err := r.replace(subresource, dryRun, func(*kernel.View, *kernel.Entry) (kernel.Object, error) { return again() })
	if err != nil {
		return err
	}
	return r.writeWritten(http.StatusOK, res)
}

// replace writes a new form of the live object. next makes it; it may be
// called more than once, each time with the object as it is then.
func (r *request) replace(subresource string, dryRun bool, next func(*kernel.View, *kernel.Entry) (kernel.Object, error)) (written, error) {
	by := r.author()
	return r.s.write(r.Context(), write{row: r.row, key: r.key(), by: by, dryRun: dryRun,
		propose: r.proposeReplace(r.Context(), subresource, dryRun, by, next)})
}

// proposeReplace is what replace proposes.
func (r *request) proposeReplace(ctx context.Context, subresource string, dryRun bool, by author, next func(*kernel.View, *kernel.Entry) (kernel.Object, error)) func(*kernel.View, *kernel.Entry) (kernel.Write, error) {
	return func(v *kernel.View, live *kernel.Entry) (kernel.Write, error) {
		if live == nil {
			return kernel.Write{}, r.notFound(r.info.Name)
		}
		o, err := next(v, live)
		if err != nil {
			return kernel.Write{}, err
		}
		if err := r.checkVersion(o, live); err != nil {
			return kernel.Write{}, err
		}
		if subresource == "" {
			if err := r.s.mayGrant(ctx, r.user, o, live.Object()); err != nil {
				return kernel.Write{}, err
			}
			if err := r.s.claim(ctx, v, o, live.Object(), by, dryRun); err != nil {
				return kernel.Write{}, err
			}
		}
		return kernel.Write{Subresource: subresource, New: o}, nil
	}
}

// checkVersion refuses an object that is based on another version than the live one.
func (r *request) checkVersion(o kernel.Object, live *kernel.Entry) error {
	version := o.GetResourceVersion()
	if version == "" || version == "0" {
		o.SetResourceVersion("")
		return nil
	}
	if version != strconv.FormatUint(uint64(live.Seq), 10) {
		return modified(r.row, r.info.Name)
	}
	return nil
}

// delete answers DELETE of an object.
func (r *request) delete() error {
	o, err := r.deleteOptions()
	if err != nil {
		return err
	}
	res, err := r.s.remove(r.Context(), r.row, r.key(), o, r.author())
	if err != nil {
		return err
	}
	if !res.deleted {
		code := http.StatusOK
		if o.OrphanDependents != nil && !*o.OrphanDependents {
			code = http.StatusAccepted
		}
		return r.writeWritten(code, res)
	}
	return r.writeAPI(http.StatusOK, &metav1.Status{Status: metav1.StatusSuccess, Details: &metav1.StatusDetails{
		Name: res.object.GetName(), Group: r.kind.Resource.Group, Kind: r.kind.Resource.Plural, UID: res.object.GetUID(),
	}}, schema.GroupVersionKind{Version: "v1", Kind: "Status"})
}

// remove deletes an object or marks it as going.
func (s *Server) remove(ctx context.Context, row kinds.Row, key kernel.Key, o *metav1.DeleteOptions, by author) (written, error) {
	return s.write(ctx, write{row: row, key: key, by: by, dryRun: len(o.DryRun) > 0,
		propose: func(_ *kernel.View, live *kernel.Entry) (kernel.Write, error) {
			if live == nil {
				return kernel.Write{}, apierrors.NewNotFound(groupResource(row), key.Name)
			}
			return kernel.Write{Grace: o.GracePeriodSeconds, Propagation: o.PropagationPolicy, Preconditions: o.Preconditions}, nil
		}})
}

// deleteOptions reads the options of a delete from its body or, if that is
// empty, from its query.
func (r *request) deleteOptions() (*metav1.DeleteOptions, error) {
	o := &metav1.DeleteOptions{}
	data, err := r.body()
	if err != nil {
		return nil, err
	}
	if len(data) > 0 {
		if err := r.decodeData(data, o, "DeleteOptions"); err != nil {
			return nil, err
		}
	} else if err := r.deleteQuery(o); err != nil {
		return nil, err
	}
	if _, err := r.dryRun(o.DryRun); err != nil {
		return nil, err
	}
	return o, checkDeleteOptions(o)
}

func (r *request) deleteQuery(o *metav1.DeleteOptions) error {
	q := r.query
	if s := q.Get("gracePeriodSeconds"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return badRequest("gracePeriodSeconds: %v", err)
		}
		o.GracePeriodSeconds = &n
	}
	if q.Has("orphanDependents") {
		orphan := flag(q, "orphanDependents")
		o.OrphanDependents = &orphan
	}
	if s := metav1.DeletionPropagation(q.Get("propagationPolicy")); s != "" {
		o.PropagationPolicy = &s
	}
	o.DryRun = q["dryRun"]
	return nil
}

// checkDeleteOptions checks propagation, and reads the older way to say it.
func checkDeleteOptions(o *metav1.DeleteOptions) error {
	var errs field.ErrorList
	path := field.NewPath("propagationPolicy")
	switch {
	case o.OrphanDependents != nil && o.PropagationPolicy != nil:
		errs = append(errs, field.Invalid(path, *o.PropagationPolicy, "orphanDependents and deletionPropagation cannot be both set"))
	case o.PropagationPolicy != nil:
		if p := *o.PropagationPolicy; !known(string(p), string(metav1.DeletePropagationForeground), string(metav1.DeletePropagationBackground), string(metav1.DeletePropagationOrphan)) {
			errs = append(errs, field.NotSupported(path, p, []string{
				string(metav1.DeletePropagationForeground), string(metav1.DeletePropagationBackground), string(metav1.DeletePropagationOrphan), "nil"}))
		}
	case o.OrphanDependents != nil:
		p := metav1.DeletePropagationBackground
		if *o.OrphanDependents {
			p = metav1.DeletePropagationOrphan
		}
		o.PropagationPolicy = &p
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: metaGroup, Kind: "DeleteOptions"}, "", errs)
	}
	return nil
}

// deleteCollection deletes all that a list with the same query would show.
func (r *request) deleteCollection() error {
	o, err := r.deleteOptions()
	if err != nil {
		return err
	}
	lo, err := r.parseListOptions(false)
	if err != nil {
		return err
	}
	f, err := r.negotiate(true)
	if err != nil {
		return err
	}
	p, err := r.page(&lo)
	if err != nil {
		return err
	}
	for _, e := range p.entries {
		_, err := r.s.remove(r.Context(), r.row, e.Key, o, r.author())
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return r.writeList(f, p)
}
