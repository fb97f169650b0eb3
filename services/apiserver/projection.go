package apiserver

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

const (
	// eventLife is how long an event of the log is shown as a Kubernetes Event.
	eventLife = time.Hour
	// eventsPerObject and eventsInAll bound how many are shown.
	eventsPerObject = 16
	eventsInAll     = 16384
	// eventNoteMax bounds an Event's message in bytes (Kubernetes' own limit).
	eventNoteMax = 1024
)

var eventsResource = kernel.Resource{Plural: "events"}

// projection shows what our own components did in the last hour as Kubernetes
// Events: they are not written to the log, for they are the log. It is a View
// of its own, folded from records that are made of other records: an Event's
// resourceVersion is the Seq of the event that it shows.
//
// Equal things that happen to one object again and again are one Event with a
// count, as kubectl users know it.
type projection struct {
	mu      sync.RWMutex // protects the following
	view    *kernel.View
	steps   map[kernel.Seq]kernel.Event  // the newest changes, by the Seq of their cause
	order   []kernel.Seq                 // of steps, ascending
	byObj   map[kernel.Key][]kernel.Key  // the Events about an object, oldest first
	seen    map[kernel.Key]*corev1.Event // what is shown of the View
	queue   []kernel.Key                 // of seen, by their last time, oldest first; holds a key once for each count
	places  map[kernel.Key]int           // how often a key stands in queue
	dropped int                          // entries of the View that are not shown any more
	at      kernel.Seq                   // all of the log up to here was looked at
	changed chan struct{}                // closed and replaced whenever at changes
}

func newProjection() *projection {
	p := &projection{changed: make(chan struct{})}
	p.reset()
	return p
}

func (p *projection) reset() {
	p.view = kernel.NewView(kinds.Schema{})
	p.places, p.dropped, p.at = map[kernel.Key]int{}, 0, 0
	p.steps, p.order = map[kernel.Seq]kernel.Event{}, nil
	p.byObj, p.seen, p.queue = map[kernel.Key][]kernel.Key{}, map[kernel.Key]*corev1.Event{}, nil
}

// restart reads the last hour of the log up to a View's Seq.
func (p *projection) restart(ctx context.Context, log events.Log, v *kernel.View) error {
	p.mu.Lock()
	p.reset()
	p.mu.Unlock()
	// The newest event that is known to be too old: all that counts comes after it.
	var after kernel.Seq
	old := time.Now().Add(-eventLife)
	for e := range v.All() {
		if e.Time.Before(old) {
			after = max(after, e.Seq)
		}
	}
	defer p.reached(v.Seq())
	if v.Seq() <= after {
		return nil
	}
	for r, err := range log.Follow(ctx, after) {
		if err != nil {
			return fmt.Errorf("read the last hour: %w", err)
		}
		if r.Time.After(old) {
			p.add(&r)
		}
		if r.Seq >= v.Seq() {
			return nil
		}
	}
	return ctx.Err()
}

func (p *projection) step(step kernel.Step) {
	for _, e := range step.Events {
		p.add(&e.Record)
	}
	p.reached(step.View.Seq())
}

func (p *projection) reached(seq kernel.Seq) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = seq
	close(p.changed)
	p.changed = make(chan struct{})
}

// wait returns once the projection has looked at the log up to seq.
func (p *projection) wait(ctx context.Context, seq kernel.Seq) {
	for {
		p.mu.RLock()
		at, changed := p.at, p.changed
		p.mu.RUnlock()
		if at >= seq {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// shown tells whether an event is something that kubectl users look for among
// Events: what a component of ours did to an object, and said something about.
func shown(r *kernel.Record) bool {
	if r.Key.Name == "" || r.Key.Resource == eventsResource || strings.HasPrefix(r.Source, "user:") || r.Source == actor {
		return false
	}
	if r.Note == "" {
		return false
	}
	return r.Key.Plural != "leases"
}

// add shows one record.
func (p *projection) add(r *kernel.Record) {
	if !shown(r) {
		return
	}
	ev := eventOf(r)
	key := kernel.Key{Resource: eventsResource, Namespace: ev.Namespace, Name: ev.Name}
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.Seq <= p.view.Seq() {
		return
	}
	about := r.Key
	if before := p.seen[key]; before != nil {
		ev.Count, ev.FirstTimestamp, ev.CreationTimestamp, ev.UID = before.Count+1, before.FirstTimestamp, before.CreationTimestamp, before.UID
	} else {
		p.byObj[about] = append(p.byObj[about], key)
	}
	body, err := kinds.EncodeJSON(ev)
	if err != nil {
		return // it is a view on the log only; the log has it
	}
	next, folded := p.view.Fold(kernel.Record{Key: key, Seq: r.Seq, Envelope: r.Envelope, Body: body})
	p.view = next
	p.seen[key] = ev
	p.queue = append(p.queue, key)
	p.places[key]++
	p.steps[r.Seq] = folded[0]
	p.order = append(p.order, r.Seq)
	if len(p.order) > eventsInAll {
		delete(p.steps, p.order[0])
		p.order = p.order[1:]
	}
	p.prune(about, r.Time)
}

// prune forgets what is too old or too much. Watchers are not told, as it
// happens to nothing but the view.
func (p *projection) prune(about kernel.Key, now time.Time) {
	if keys := p.byObj[about]; len(keys) > eventsPerObject {
		p.drop(keys[0])
	}
	for len(p.queue) > 0 {
		key := p.queue[0]
		ev := p.seen[key]
		stale := ev == nil || p.places[key] > 1 // it was counted up: its last place counts
		if !stale && len(p.seen) <= eventsInAll && now.Sub(ev.LastTimestamp.Time) < eventLife {
			break
		}
		p.queue = p.queue[1:]
		if p.places[key]--; p.places[key] == 0 {
			delete(p.places, key)
		}
		if !stale {
			p.drop(key)
		}
	}
	if p.dropped > eventsInAll/4 {
		p.rebuild()
	}
}

// rebuild folds what is shown into a new View, so that the rest can be
// forgotten.
func (p *projection) rebuild() {
	var kept []kernel.Record
	for key := range p.seen {
		kept = append(kept, p.view.Entry(key).Record)
	}
	slices.SortFunc(kept, func(a, b kernel.Record) int { return cmp.Compare(a.Seq, b.Seq) })
	p.view, _ = kernel.NewView(kinds.Schema{}).Fold(kept...)
	p.dropped = 0
}

func (p *projection) drop(key kernel.Key) {
	ev := p.seen[key]
	if ev == nil {
		return
	}
	delete(p.seen, key)
	p.dropped++
	about := kernel.Key{Resource: events.ParseResource(ev.Annotations[aboutResource]), Namespace: ev.InvolvedObject.Namespace, Name: ev.InvolvedObject.Name}
	keys := slices.DeleteFunc(slices.Clone(p.byObj[about]), func(k kernel.Key) bool { return k == key })
	if len(keys) == 0 {
		delete(p.byObj, about)
	} else {
		p.byObj[about] = keys
	}
}

// entry is the shown Event of a Key, or nil.
func (p *projection) entry(k kernel.Key) *kernel.Entry {
	if k.Resource != eventsResource {
		return nil
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.seen[k] == nil {
		return nil
	}
	return p.view.Entry(k)
}

// list gives the shown Events that a selection wants, after a Key.
func (p *projection) list(ctx context.Context, v *kernel.View, sel *selection, after string, yield func(*kernel.Entry)) {
	if sel.resource != eventsResource {
		return
	}
	p.wait(ctx, v.Seq())
	p.mu.RLock()
	shown := p.view
	keep := make(map[kernel.Key]bool, len(p.seen))
	for k := range p.seen {
		keep[k] = true
	}
	p.mu.RUnlock()
	for e := range shown.EntriesFrom(sel.resource, sel.namespace, after) {
		if keep[e.Key] {
			yield(e)
		}
	}
}

// merge puts the shown Events between events of the log, for who watches Events.
func (p *projection) merge(ctx context.Context, r kernel.Resource, step kernel.Step) []kernel.Event {
	es := step.Events
	if r != eventsResource {
		return es
	}
	p.wait(ctx, step.View.Seq())
	out := make([]kernel.Event, 0, len(es))
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, e := range es {
		if shownAs, ok := p.steps[e.Seq]; ok {
			out = append(out, shownAs)
		}
		out = append(out, e)
	}
	return out
}

// aboutResource names the resource of the object that an Event is about, which
// the Event itself only gives as a kind.
const aboutResource = "rutter.dev/resource"

// eventOf shows a record as a Kubernetes Event.
func eventOf(r *kernel.Record) *corev1.Event {
	namespace := r.Key.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	kind, apiVersion := r.Key.Plural, ""
	if row, ok := kinds.RowFor(r.Key.Resource); ok {
		gvk := row.Describe().GVK()
		kind, apiVersion = gvk.Kind, gvk.GroupVersion().String()
	}
	reason, eventType := reasonOf(r.Type)
	note := r.Note
	if r.Type == "pod.bound" { // the words that users and scripts look for, then the scheduler's reasons
		note = fmt.Sprintf("Successfully assigned %s/%s to %s: %s", r.Key.Namespace, r.Key.Name, stringIn(r.Body, "nodeName"), note)
	}
	if len(note) > eventNoteMax {
		note = strings.ToValidUTF8(note[:eventNoteMax-3], "") + "..."
	}
	sum := sha256.Sum256([]byte(r.Key.String() + "\x00" + r.Source + "\x00" + r.Type + "\x00" + note))
	id := hex.EncodeToString(sum[:8])
	at := metav1.NewTime(r.Time.Truncate(time.Second))
	component, host := r.Source, ""
	if rest, ok := strings.CutPrefix(r.Source, "nodeagent/"); ok {
		component, host = "nodeagent", rest
	}
	ev := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: shorten(r.Key.Name, 200) + "." + id, CreationTimestamp: at,
			UID: types.UID("rutter-" + id), Annotations: map[string]string{aboutResource: r.Key.Resource.String()}},
		InvolvedObject: corev1.ObjectReference{Kind: kind, APIVersion: apiVersion, Namespace: r.Key.Namespace, Name: r.Key.Name,
			UID: types.UID(stringIn(r.Body, "uid")), ResourceVersion: fmt.Sprint(r.Seq)},
		Reason: reason, Message: note, Type: eventType, Count: 1, FirstTimestamp: at, LastTimestamp: at,
		Source: corev1.EventSource{Component: component, Host: host}, ReportingController: component, ReportingInstance: host,
	}
	kinds.SetTypeMeta(ev)
	return ev
}

func shorten(s string, n int) string { return s[:min(len(s), n)] }

// stringIn reads the first member of a name out of a body without decoding it:
// for uids and names, which hold no characters that JSON escapes.
func stringIn(body []byte, member string) string {
	_, after, _ := strings.Cut(string(body), `"`+member+`":"`)
	value, _, _ := strings.Cut(after, `"`)
	return value
}

// failures are words in a ce-type that make an Event a warning.
var failures = []string{"failed", "unschedulable", "died", "oom", "evicted", "preempted", "killed", "unhealthy", "lost", "silent", "backoff", "back-off", "refused"}

// reasonOf turns "pod.bound" into the reason "PodBound", and names its type.
func reasonOf(ceType string) (reason, eventType string) {
	if known, ok := knownReasons[ceType]; ok {
		reason = known
	} else {
		for word := range strings.FieldsFuncSeq(ceType, func(c rune) bool { return c == '.' || c == '-' || c == '_' }) {
			reason += strings.ToUpper(word[:1]) + word[1:]
		}
	}
	for _, f := range failures {
		if strings.Contains(strings.ToLower(ceType), f) {
			return reason, corev1.EventTypeWarning
		}
	}
	return reason, corev1.EventTypeNormal
}

// knownReasons are those for which Kubernetes has a word that users know.
var knownReasons = map[string]string{
	"pod.bound":         "Scheduled",
	"pod.unschedulable": "FailedScheduling",
	"pod.preempted":     "Preempted",
	"container.started": "Started",
	"container.created": "Created",
	"container.died":    "ContainerDied",
	"deployment.scaled": "ScalingReplicaSet",
	"replicaset.scaled": "SuccessfulCreate",
}
