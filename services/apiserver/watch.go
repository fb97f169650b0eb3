package apiserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"

	"github.com/rutterhq/rutter/kernel"
)

const (
	// watchMin and twice that bound a watch whose client named no end: so that
	// the load spreads when servers come and go.
	watchMin = 30 * time.Minute
	// bookmarkEvery is how often a watch is told how far it is, at most.
	bookmarkEvery = time.Minute
	// ringEvents is more events than the Mirror keeps: its 8 MiB hold as many
	// objects of 128 bytes, and there are none so small. Asking it is not free.
	ringEvents = 64 << 10
)

// watch streams what happens to the objects of a resource.
func (r *request) watch() error {
	f, err := r.negotiate(true)
	if err != nil {
		return err
	}
	if f.media == mediaYAML {
		return notAcceptable()
	}
	o, err := r.parseListOptions(true)
	if err != nil {
		return err
	}
	if o.timeout == 0 {
		o.timeout = watchMin + rand.N(watchMin)
	}
	ctx, cancel := context.WithTimeout(r.Context(), o.timeout)
	defer cancel()
	w := &watcher{r: r, form: f, sel: r.selection(&o), bookmarks: o.bookmarks, started: time.Now()}
	after, err := w.begin(ctx, &o)
	if w.old != nil {
		defer w.old.leave()
	}
	if apierrors.IsResourceExpired(err) {
		// As kube-apiserver does it: there are clients that take a 410 for a
		// reason to try again with the same version, but not one in the stream.
		w.header()
		return w.fail(err)
	}
	if err != nil {
		return err
	}
	for step, err := range r.s.since(ctx, after, w.old) {
		if err == nil {
			err = w.step(step)
		}
		if errors.Is(err, errClientLeft) || apierrors.IsTooManyRequests(err) {
			return nil // who has fallen far behind comes back and is told to wait
		}
		if err != nil {
			return w.fail(err)
		}
	}
	if r.Context().Err() == nil && o.bookmarks {
		_ = w.bookmark(r.s.cfg.Mirror.View().Seq(), nil) // the last word of a watch that ends by its own timeout
	}
	return nil
}

// errClientLeft ends a watch that nobody reads any more.
var errClientLeft = errors.New("the client has left")

// watcher writes one watch.
type watcher struct {
	r         *request
	form      form
	sel       selection
	bookmarks bool
	started   time.Time
	marked    time.Time // of the last bookmark
	at        kernel.Seq
	buf       []byte
	columns   bool    // the columns of a table were sent
	old       *member // of a replay, if the watch begins in old history
}

// begin decides from where on the watch goes, sends the objects that it begins
// with, if any, and returns the position after which events follow.
func (w *watcher) begin(ctx context.Context, o *listOptions) (kernel.Seq, error) {
	initial := o.initial != nil && *o.initial
	var v *kernel.View
	var err error
	if o.version != "" && o.version != "0" {
		seq, err := parseVersion(o.version)
		if err != nil {
			return 0, err
		}
		if v, err = w.r.s.viewAfter(ctx, seq); err != nil {
			return 0, err
		}
		if !initial {
			if w.old, err = w.r.s.replays.join(ctx, seq); err != nil {
				return 0, err
			}
			w.header()
			w.at = seq
			return seq, w.flush()
		}
	} else if v, err = w.r.viewFor(o.version); err != nil {
		return 0, err
	}
	w.header()
	w.at = v.Seq()
	// Without a version a watch begins with what there is, unless the client
	// said that it does not want that.
	if o.initial == nil || initial {
		if err := w.existing(v); err != nil {
			return 0, err
		}
	}
	if initial && o.bookmarks {
		if err := w.bookmark(v.Seq(), map[string]string{metav1.InitialEventsAnnotationKey: "true"}); err != nil {
			return 0, err
		}
	}
	return v.Seq(), w.flush()
}

func (w *watcher) existing(v *kernel.View) error {
	var failed error
	add := func(e *kernel.Entry) {
		if failed == nil && w.sel.matches(e) {
			failed = w.event(apiwatch.Added, e, e.Seq)
		}
	}
	for e := range v.Entries(w.sel.resource, w.sel.namespace) {
		add(e)
	}
	w.r.s.project.list(w.r.Context(), v, &w.sel, "", add)
	return failed
}

func (w *watcher) header() {
	t := w.form.media.String()
	if w.form.media == mediaProto {
		t += ";stream=watch"
	}
	w.r.w.Header().Set("Content-Type", t)
	w.r.w.Header().Set("Cache-Control", "no-cache, private")
	w.r.w.WriteHeader(http.StatusOK)
}

// step sends what a part of the log means to this watch.
func (w *watcher) step(step kernel.Step) error {
	for _, e := range w.r.s.project.merge(w.r.Context(), w.sel.resource, step) {
		if !w.sel.keyed(e.Key) {
			continue
		}
		kind, entry := w.change(e)
		if entry == nil {
			continue
		}
		if err := w.event(kind, entry, e.Seq); err != nil {
			return err
		}
	}
	w.at = step.View.Seq()
	if w.bookmarks && time.Since(later(w.started, w.marked)) > bookmarkEvery {
		if err := w.bookmark(w.at, nil); err != nil {
			return err
		}
	}
	return w.flush()
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// change says what an event means to the selection: an object that leaves it
// is deleted as far as the watcher can see, shown as it was last.
func (w *watcher) change(e kernel.Event) (apiwatch.EventType, *kernel.Entry) {
	was := e.Before != nil && !e.Before.Delete && w.sel.matches(e.Before)
	is := !e.Delete && w.sel.matches(e.Entry)
	switch {
	case is && was:
		return apiwatch.Modified, e.Entry
	case is:
		return apiwatch.Added, e.Entry
	case was && e.Delete:
		return apiwatch.Deleted, e.Entry
	case was:
		return apiwatch.Deleted, e.Before
	}
	return "", nil
}

// event adds one event to what is to be sent.
func (w *watcher) event(kind apiwatch.EventType, e *kernel.Entry, seq kernel.Seq) error {
	var err error
	switch {
	case w.form.shape == shapeTable:
		err = w.tableEvent(kind, w.r.s.at(e, seq))
	case w.form.shape == shapePartial:
		var body []byte
		if body, err = w.form.partial(w.r.s.at(e, seq)); err == nil {
			err = w.frame(kind, body)
		}
	case w.form.media == mediaProto:
		var body []byte
		if seq == e.Seq {
			body, err = w.r.s.protoEntry(w.r.row, e)
		} else {
			body, err = encodeProto(w.r.s.at(e, seq), w.r.kind.GVK())
		}
		if err == nil {
			err = w.frame(kind, body)
		}
	default:
		w.buf = appendHead(w.buf, kind)
		w.buf, err = w.r.s.appendEntry(w.buf, w.r.row, e, seq, false)
		w.buf = append(w.buf, "}\n"...)
	}
	if err == nil && len(w.buf) > flushAt {
		err = w.flush()
	}
	return err
}

func appendHead(out []byte, kind apiwatch.EventType) []byte {
	out = append(out, `{"type":"`...)
	out = append(out, kind...)
	return append(out, `","object":`...)
}

// frame adds an event whose object is encoded already.
func (w *watcher) frame(kind apiwatch.EventType, body []byte) error {
	if w.form.media != mediaProto {
		w.buf = append(append(appendHead(w.buf, kind), body...), "}\n"...)
		return nil
	}
	e := metav1.WatchEvent{Type: string(kind), Object: runtime.RawExtension{Raw: body}}
	raw, err := e.Marshal()
	if err != nil {
		return fmt.Errorf("encode watch event: %w", err)
	}
	w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(len(raw)))
	w.buf = append(w.buf, raw...)
	return nil
}

// tableEvent sends one row; only the first table of a watch names the columns.
func (w *watcher) tableEvent(kind apiwatch.EventType, o kernel.Object) error {
	t, err := w.r.tableOf(w.form, []kernel.Object{o})
	if err != nil {
		return err
	}
	t.ResourceVersion = o.GetResourceVersion()
	if w.columns {
		t.ColumnDefinitions = nil
	}
	w.columns = true
	body, err := w.form.encode(t, t.GroupVersionKind())
	if err != nil {
		return err
	}
	return w.frame(kind, body)
}

// bookmark tells the client that it has seen all up to seq.
func (w *watcher) bookmark(seq kernel.Seq, annotations map[string]string) error {
	w.marked = time.Now()
	o := w.r.row.NewObject()
	o.SetResourceVersion(strconv.FormatUint(uint64(seq), 10))
	o.SetAnnotations(annotations)
	var err error
	if w.form.shape == shapeTable {
		err = w.tableEvent(apiwatch.Bookmark, o)
	} else {
		var body []byte
		if body, err = w.r.encodeObjectIn(form{media: w.form.media, shape: w.form.shape, version: w.form.version}, nil, o); err == nil {
			err = w.frame(apiwatch.Bookmark, body)
		}
	}
	if err != nil {
		return err
	}
	return w.flush()
}

// fail tells the client in the stream itself why the watch ends.
func (w *watcher) fail(err error) error {
	s := statusOf(err)
	s.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	body, err := form{media: w.form.media}.encode(s, s.GroupVersionKind())
	if err != nil {
		return nil // the stream just ends
	}
	if w.frame(apiwatch.Error, body) == nil {
		_ = w.flush() // the client may have left
	}
	return nil
}

func (w *watcher) flush() error {
	if len(w.buf) > 0 {
		if _, err := w.r.w.Write(w.buf); err != nil {
			return errClientLeft
		}
		if w.buf = w.buf[:0]; cap(w.buf) > 2*flushAt {
			w.buf = nil
		}
	}
	if err := http.NewResponseController(w.r.w).Flush(); err != nil {
		return errClientLeft
	}
	return nil
}

// since yields what happened after a position: old history first, if the watch
// has joined a replay of it, then what the Mirror's ring has. A watch that falls
// behind the ring while it runs reads history too, and catches up.
func (s *Server) since(ctx context.Context, after kernel.Seq, old *member) iter.Seq2[kernel.Step, error] {
	return func(yield func(kernel.Step, error) bool) {
		more := true
		step := func(step kernel.Step) bool {
			after = step.View.Seq()
			more = yield(step, nil)
			return more
		}
		for {
			if old != nil {
				err := old.steps(ctx, step)
				if err != nil && !errors.Is(err, errBehind) && ctx.Err() == nil {
					yield(kernel.Step{}, err)
				}
				if !more || ctx.Err() != nil || err != nil && !errors.Is(err, errBehind) {
					return
				}
			}
			gone := false
			for next := range s.cfg.Mirror.Since(ctx, after) {
				if gone = next.Fresh; gone || !step(next) {
					break
				}
			}
			if !gone {
				return
			}
			var err error
			if old, err = s.replays.join(ctx, after); err != nil {
				yield(kernel.Step{}, err)
				return
			}
		}
	}
}

// ringHas tells whether the Mirror keeps all that follows a Seq.
func (s *Server) ringHas(ctx context.Context, after kernel.Seq) bool {
	if after+ringEvents < s.cfg.Mirror.View().Seq() {
		return false
	}
	for step := range s.cfg.Mirror.Since(ctx, after) {
		return !step.Fresh
	}
	return true // ctx has ended
}
