package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// debugPrefix is below what the debugging commands ask.
const debugPrefix = "/rutter/v1/"

// debug answers questions about the log: what happened, why, what was, what
// differs, and whether every decision would be made again.
type debug struct{ s *Server }

type pastKey struct{}

// ServeHTTP implements http.Handler.
func (d *debug) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	query, _ := url.ParseQuery(hr.URL.RawQuery)
	r := &request{Request: hr, w: w, s: d.s, user: UserFrom(hr.Context()), query: query}
	if err := d.serve(r); err != nil && !errors.Is(err, errReaderLeft) {
		r.writeError(err)
	}
}

func (d *debug) serve(r *request) error {
	what, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, debugPrefix), "/")
	if r.Method != http.MethodGet && (what != "history" || r.Method != http.MethodPut) {
		return apierrors.NewMethodNotSupported(nodesResource, r.Method)
	}
	switch what {
	case "log":
		return d.log(r)
	case "why":
		return d.why(r)
	case "diff":
		return d.diff(r)
	case "replay":
		return d.replay(r)
	case "record":
		return d.record(r)
	case "cluster":
		return d.answer(r, map[string]string{"cluster": d.s.cfg.Schema.Cluster, "build": d.s.cfg.Version})
	case "history":
		return d.history(r)
	case "at":
		return d.at(r, rest)
	}
	return errNotFoundPath
}

// mayRead tells whether the user may read an object, today and whatever it was.
func (d *debug) mayRead(r *request, k kernel.Key) error {
	return r.authorize(Attributes{User: r.user, Verb: "get", Group: k.Group, Resource: k.Plural, Namespace: k.Namespace, Name: k.Name})
}

// seqParam reads a position: a Seq, a time (RFC 3339) or how long ago (-15m).
// "" is the newest.
func (d *debug) seqParam(ctx context.Context, name, value string) (kernel.Seq, error) {
	last, err := d.s.cfg.Log.Last(ctx)
	if errors.Is(err, events.ErrUnavailable) {
		// The others may have gone on; what this server has is past, and true.
		if w, werr := d.s.cfg.History.Window(ctx); werr == nil {
			last, err = w.Last, nil
		}
	}
	if err != nil || value == "" {
		return last, err
	}
	if n, err := strconv.ParseUint(value, 10, 64); err == nil {
		if kernel.Seq(n) > last {
			return 0, badRequest("%s: %d: the log ends at %d", name, n, last)
		}
		return kernel.Seq(n), nil
	}
	at, err := time.Parse(time.RFC3339, value)
	if ago, agoErr := time.ParseDuration(value); err != nil && agoErr == nil && ago <= 0 {
		at, err = time.Now().Add(ago), nil
	}
	if err != nil {
		return 0, badRequest("%s: %q: expected a position in the log, a time such as 2026-11-23T15:04:05Z, or how long ago, such as -15m", name, value)
	}
	seq, err := d.s.cfg.History.SeqAt(ctx, at)
	if errors.Is(err, events.ErrGone) {
		if w, werr := d.s.cfg.History.Window(ctx); werr == nil {
			err = tooOldTime(at, w)
		}
	}
	return min(seq, last), err
}

// rangeOf reads ?from, the beginning of the window if it is not there, and ?to,
// the newest. Before the window it gives 410.
func (d *debug) rangeOf(r *request) (from, to kernel.Seq, err error) {
	w, err := d.s.cfg.History.Window(r.Context())
	if err != nil {
		return 0, 0, err
	}
	begin := max(w.First, 1) - 1
	from = begin
	if q := r.query.Get("from"); q != "" {
		if from, err = d.seqParam(r.Context(), "from", q); err != nil {
			return 0, 0, err
		}
	}
	if to, err = d.seqParam(r.Context(), "to", r.query.Get("to")); err != nil {
		return 0, 0, err
	}
	if low := min(from, to); low < begin {
		return 0, 0, tooOld(low, w)
	}
	return from, to, nil
}

// eventsOf reads the events of one object.
func (d *debug) eventsOf(ctx context.Context, k kernel.Key, after, to kernel.Seq) iter.Seq2[kernel.Record, error] {
	if h, ok := d.s.cfg.History.(events.KeyReader); ok {
		return h.ReadKey(ctx, k, after, to)
	}
	return func(yield func(kernel.Record, error) bool) {
		for rec, err := range d.s.cfg.History.Read(ctx, after, to) {
			if (err != nil || rec.Key == k) && !yield(rec, err) {
				return
			}
		}
	}
}

// logFilter is what `rutter log` asks for. Empty fields mean everything.
type logFilter struct {
	key                  kernel.Key
	keyed                bool
	resource, actor, typ string
}

func (f *logFilter) matches(rec *kernel.Record) bool {
	return (!f.keyed || rec.Key == f.key) &&
		(f.resource == "" || rec.Key.Resource.String() == f.resource || rec.Key.Plural == f.resource) &&
		(f.actor == "" || rec.Source == f.actor || strings.HasPrefix(rec.Source, f.actor+"/") || strings.HasPrefix(rec.Source, f.actor+":")) &&
		(f.typ == "" || rec.Type == f.typ || strings.HasPrefix(rec.Type, f.typ+"."))
}

// log streams Records as JSON lines: those after ?from (default: the
// beginning) up to ?to, or with ?follow on and on; with ?tail=N only the last N
// of what is there already. Secrets' data comes as hashes.
func (d *debug) log(r *request) error {
	f := logFilter{resource: r.query.Get("resource"), actor: r.query.Get("actor"), typ: r.query.Get("type")}
	if k := r.query.Get("key"); k != "" {
		var err error
		if f.key, err = events.ParseKey(k); err != nil {
			return badRequest("%v", err)
		}
		f.keyed = true
	}
	from, to, err := d.rangeOf(r)
	if err != nil {
		return err
	}
	tail, err := strconv.Atoi(r.query.Get("tail"))
	if err != nil && r.query.Get("tail") != "" || tail < 0 {
		return badRequest("tail: %q: expected a number of events", r.query.Get("tail"))
	}
	follow := flag(r.query, "follow")
	if follow { // what there is already, then what comes
		if to, err = d.s.cfg.Log.Last(r.Context()); err != nil {
			return err
		}
	}
	out := &logWriter{d: d, r: r, filter: &f, allowed: map[kernel.Key]bool{}}
	var last []kernel.Record
	if tail > 0 {
		if last, err = d.tail(r.Context(), &f, from, to, tail); err != nil {
			return err
		}
		from = to
	}
	r.w.Header().Set("Content-Type", "application/x-ndjson")
	if err := out.all(events.All(last)); err != nil {
		return err
	}
	if err := out.all(d.reading(r.Context(), &f, from, to)); err != nil || !follow {
		return err
	}
	out.flush = true
	_ = http.NewResponseController(r.w).Flush()
	return out.all(d.s.cfg.Log.Follow(r.Context(), max(from, to)))
}

// reading reads what a filter may want.
func (d *debug) reading(ctx context.Context, f *logFilter, after, to kernel.Seq) iter.Seq2[kernel.Record, error] {
	switch {
	case after >= to:
		return events.All(nil)
	case f.keyed:
		return d.eventsOf(ctx, f.key, after, to)
	}
	return d.s.cfg.History.Read(ctx, after, to)
}

// tailFirst is how many events are looked at first for the last few that a
// filter wants; then it is four times as many, and so on.
const tailFirst = 1024

// tail finds the last n events that a filter wants, from the end on.
func (d *debug) tail(ctx context.Context, f *logFilter, from, to kernel.Seq, n int) (found []kernel.Record, err error) {
	size := kernel.Seq(max(tailFirst, n))
	for to > from && len(found) < n {
		after := max(from, to-min(to, size))
		var part []kernel.Record
		for rec, err := range d.reading(ctx, f, after, to) {
			if err != nil {
				return nil, err
			}
			if f.matches(&rec) {
				part = append(part[max(0, len(part)-n+1):], rec)
			}
		}
		found = append(part, found...)
		to, size = after, size*4
	}
	return found[max(0, len(found)-n):], nil
}

// logWriter writes the Records that its user may read.
type logWriter struct {
	d       *debug
	r       *request
	filter  *logFilter
	flush   bool                // after each event: somebody waits for it
	allowed map[kernel.Key]bool // by resource and namespace, name left out: whole namespaces are cheap
}

// errReaderLeft ends a stream that nobody reads any more.
var errReaderLeft = errors.New("the reader has left")

// all writes what the filter wants of some records.
func (l *logWriter) all(records iter.Seq2[kernel.Record, error]) error {
	for rec, err := range records {
		if err != nil {
			return err
		}
		if !l.filter.matches(&rec) {
			continue
		}
		if err := l.write(rec); err != nil {
			return err
		}
		if l.flush {
			_ = http.NewResponseController(l.r.w).Flush() // a failed one shows at the next write
		}
	}
	return nil
}

func (l *logWriter) write(rec kernel.Record) error {
	scope := rec.Key
	scope.Name = ""
	ok, known := l.allowed[scope]
	if !known {
		ok = l.d.mayRead(l.r, scope) == nil
		l.allowed[scope] = ok
	}
	if !ok && l.d.mayRead(l.r, rec.Key) != nil {
		return nil
	}
	b, err := json.Marshal(redacted(rec))
	if err != nil {
		return err
	}
	if _, err = l.r.w.Write(append(b, '\n')); err != nil {
		return errReaderLeft
	}
	return nil
}

// redacted is the Record with hashes for what is secret.
func redacted(rec kernel.Record) kernel.Record {
	rec.Body = kinds.RedactBody(rec.Key, rec.Body)
	return rec
}

// fetch reads one event.
func (d *debug) fetch(ctx context.Context, seq kernel.Seq) (kernel.Record, error) {
	for rec, err := range d.s.cfg.History.Read(ctx, seq-1, seq) {
		return rec, err
	}
	return kernel.Record{}, ctx.Err()
}

// lastOf finds the last event of an object up to a Seq: in the View there, or
// among all events of the window, for a View forgets what is long gone.
func (d *debug) lastOf(ctx context.Context, k kernel.Key, v *kernel.View) (last kernel.Seq, err error) {
	if e := v.Entry(k); e != nil {
		return e.Seq, nil
	}
	w, err := d.s.cfg.History.Window(ctx)
	if err != nil {
		return 0, err
	}
	for rec, err := range d.eventsOf(ctx, k, max(w.First, 1)-1, v.Seq()) {
		if err != nil {
			return 0, err
		}
		last = rec.Seq
	}
	if last == 0 {
		return 0, apierrors.NewNotFound(apiResource(k), k.Name)
	}
	return last, nil
}

// why answers with the chain of causes of an object's last event, or of its
// last event up to ?at.
func (d *debug) why(r *request) error {
	key, err := events.ParseKey(r.query.Get("key"))
	if err != nil {
		return badRequest("%v", err)
	}
	if err := d.mayRead(r, key); err != nil {
		return err
	}
	v, err := r.s.index.view(r.Context())
	if q := r.query.Get("at"); q != "" && err == nil {
		var seq kernel.Seq
		if seq, err = d.seqParam(r.Context(), "at", q); err == nil {
			v, err = r.s.viewAt(r.Context(), seq)
		}
	}
	if err != nil {
		return err
	}
	last, err := d.lastOf(r.Context(), key, v)
	if err != nil {
		return err
	}
	fetch := func(ctx context.Context, seq kernel.Seq) (kernel.Record, error) {
		rec, err := d.fetch(ctx, seq)
		if errors.Is(err, events.ErrGone) {
			return forgotten(seq), nil
		}
		if err == nil && d.mayRead(r, rec.Key) != nil {
			return hidden(rec), nil
		}
		rec.Body = nil // a chain is about what happened, not about content
		return rec, err
	}
	link, err := history.Why(r.Context(), fetch, last)
	if err != nil {
		return err
	}
	return d.answer(r, link)
}

// hidden is what may be told of an event of an object that its reader may not
// read: that there was one, of what type, by whom, and why.
func hidden(rec kernel.Record) kernel.Record {
	return kernel.Record{Seq: rec.Seq, Key: kernel.Key{Resource: rec.Key.Resource, Name: "(hidden)"},
		Envelope: events.Envelope{Source: rec.Source, Type: rec.Type, Time: rec.Time, Cause: rec.Cause, Note: "(you may not read this object)"}}
}

// forgotten stands for an event before the window: nothing is known of it.
func forgotten(seq kernel.Seq) kernel.Record {
	return kernel.Record{Seq: seq, Key: kernel.Key{Resource: kernel.Resource{Plural: "unknown"}, Name: "(forgotten)"},
		Envelope: events.Envelope{Note: "(older than the history that is kept)"}}
}

// change is one event in the answer of diff.
type change struct {
	Seq     kernel.Seq            `json:"seq"`
	Time    time.Time             `json:"time"`
	Source  string                `json:"source"`
	Type    string                `json:"type"`
	Changes []history.FieldChange `json:"changes"`
}

// diff answers with what changed in an object between ?from and ?to, event by
// event.
func (d *debug) diff(r *request) error {
	key, err := events.ParseKey(r.query.Get("key"))
	if err != nil {
		return badRequest("%v", err)
	}
	if err := d.mayRead(r, key); err != nil {
		return err
	}
	from, to, err := d.rangeOf(r)
	if err != nil {
		return err
	}
	v, err := r.s.viewAt(r.Context(), from)
	if err != nil {
		return err
	}
	changes := []change{}
	var before []byte
	e := v.Entry(key)
	if e != nil && !e.Delete {
		before = redacted(e.Record).Body
	}
	for rec, err := range d.eventsOf(r.Context(), key, from, to) {
		if err != nil {
			return err
		}
		body := redacted(rec).Body
		if rec.Delete {
			body = nil
		}
		changes = append(changes, change{rec.Seq, rec.Time, rec.Source, rec.Type, meant(history.Diff(before, body))})
		before = body
	}
	if e == nil && len(changes) == 0 {
		return apierrors.NewNotFound(apiResource(key), key.Name)
	}
	return d.answer(r, changes)
}

// meant leaves out who manages which field: it follows from the other changes,
// and there is more of it than of them.
func meant(all []history.FieldChange) []history.FieldChange {
	return slices.DeleteFunc(all, func(c history.FieldChange) bool { return strings.HasPrefix(c.Path, "metadata.managedFields") })
}

// replay makes every recorded decision again and answers with the report.
// It needs the right to get this very path: it reads everything.
func (d *debug) replay(r *request) error {
	if err := r.authorize(Attributes{User: r.user, Verb: "get", Path: r.URL.Path}); err != nil {
		return err
	}
	from, to, err := d.rangeOf(r)
	if err != nil {
		return err
	}
	deciders := d.s.cfg.Deciders
	if name := r.query.Get("decider"); name != "" {
		deciders = slices.DeleteFunc(slices.Clone(deciders), func(d kernel.Decider) bool { return d.Name != name })
		if len(deciders) == 0 {
			return badRequest("decider: %q: there is none of this name; there are %s", name, names(d.s.cfg.Deciders))
		}
	}
	// To the end of the log, for a decision's events come after what it had seen.
	past, err := d.span(r.Context(), from, 0)
	if err != nil {
		return err
	}
	replayer := &history.Replayer{Schema: d.s.cfg.Schema, Deciders: deciders, Build: d.s.cfg.Version, From: from, To: to}
	report, err := replayer.Replay(past)
	if err != nil {
		return err
	}
	return d.answer(r, report)
}

func names(ds []kernel.Decider) string {
	var out []string
	for _, d := range ds {
		out = append(out, d.Name)
	}
	return strings.Join(out, ", ")
}

// at serves the API as it was: /rutter/v1/at/T/api/v1/pods reads as
// /api/v1/pods did at T, with the rights that the user has today.
func (d *debug) at(r *request, rest string) error {
	when, path, _ := strings.Cut(rest, "/")
	when, err := url.PathUnescape(when)
	if err != nil {
		return badRequest("%v", err)
	}
	seq, err := d.seqParam(r.Context(), "at", when)
	if err != nil {
		return err
	}
	v, err := d.s.viewAt(r.Context(), seq)
	if err != nil {
		return err
	}
	past := r.Request.Clone(context.WithValue(r.Context(), pastKey{}, v))
	past.URL.Path = "/" + path
	return (&request{Request: past, w: r.w, s: d.s}).serve()
}

func (d *debug) answer(r *request, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	r.w.Header().Set("Content-Type", "application/json")
	_, err = r.w.Write(append(b, '\n'))
	return err
}
