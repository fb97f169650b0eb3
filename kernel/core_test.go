package kernel_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
)

var noon = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// world folds records by hand.
type world struct {
	t    *testing.T
	view *kernel.View
	core *kernel.Core
}

func newWorld(t *testing.T, ds ...kernel.Decider) *world {
	w := &world{t: t, view: kernel.NewView(plain{}), core: kernel.NewCore(plain{}, "test", "me", ds...)}
	w.core.Start(w.view)
	return w
}

func (w *world) happen(r kernel.Record) {
	r.Seq = w.view.Seq() + 1
	var es []kernel.Event
	w.view, es = w.view.Fold(r)
	w.core.Apply(w.view, es...)
}

func (w *world) put(name, value string, expect kernel.Seq) {
	w.happen(record(w.t, name, value, expect))
}

func TestNothingIsDecidedBeforeTheViewHasWhatWasAppended(t *testing.T) {
	w := newWorld(t, copier(nil))
	w.put("a", "1", 0)
	ps := w.core.Ready(noon)
	if len(ps) != 1 {
		t.Fatalf("%d proposals for one object, want 1", len(ps))
	}
	w.put("b", "1", 0) // meanwhile
	if more := w.core.Ready(noon); len(more) != 0 {
		t.Fatalf("decided %v while an append was in flight", more)
	}
	w.core.Done(ps[0], 3, nil, noon) // appended at 3; the view is at 2
	if more := w.core.Ready(noon); len(more) != 0 {
		t.Fatalf("decided %v on a view that lacks its own event", more)
	}
	w.happen(ps[0].Record)
	if more := w.core.Ready(noon); len(more) != 1 || more[0].Key != key("copy-of-b") {
		t.Errorf("after the view caught up: %v, want the copy of b", more)
	}
}

func TestConflictIsDecidedAgainWithTheOtherEvent(t *testing.T) {
	w := newWorld(t, copier(nil))
	w.put("a", "1", 0)
	p := w.core.Ready(noon)[0]
	if p.Expect != 0 {
		t.Fatalf("expects %d, want 0: there is no copy yet", p.Expect)
	}
	w.core.Done(p, 0, fmt.Errorf("append: %w", events.ErrConflict), noon)
	if again := w.core.Ready(noon); len(again) != 0 {
		t.Fatalf("decided again on the view that lost: %v", again)
	}
	w.put("copy-of-a", "other", 0)
	again := w.core.Ready(noon)
	if len(again) != 1 || again[0].Expect != 2 {
		t.Fatalf("%v, want one proposal that expects event 2", again)
	}
	if diff := cmp.Diff([]kernel.Seq{1}, again[0].Cause); diff != "" {
		t.Errorf("the cause was lost with the race (-want +got):\n%s", diff)
	}
}

func TestOtherErrorsAreTriedAgainLater(t *testing.T) {
	w := newWorld(t, copier(nil))
	w.put("a", "1", 0)
	w.core.Done(w.core.Ready(noon)[0], 0, errors.New("no answer"), noon)
	if now := w.core.Ready(noon); len(now) != 0 {
		t.Errorf("tried again at once: %v", now)
	}
	next := w.core.Next()
	if !next.After(noon) {
		t.Fatalf("next at %v, want later than %v", next, noon)
	}
	if later := w.core.Ready(next); len(later) != 1 {
		t.Errorf("%d proposals when the time came, want 1", len(later))
	}
}

func TestWhatChangesNothingLeavesNoTrace(t *testing.T) {
	w := newWorld(t, copier(nil))
	w.put("a", "1", 0)
	w.put("copy-of-a", "1", 0)
	if ps := w.core.Ready(noon); len(ps) != 0 {
		t.Errorf("proposed %v although the copy is equal", ps)
	}
}

func TestEveryProposalNamesItsCausesAndItsDecision(t *testing.T) {
	one := key("sum")
	sum := kernel.Decider{Name: "sum", Reads: []kernel.Resource{configMaps}, Writes: []kernel.Resource{configMaps},
		Wakes: func(_ *kernel.View, e kernel.Event) []kernel.Key { return []kernel.Key{one} },
		Decide: func(v *kernel.View, _ kernel.Key, _ time.Time) kernel.Decision {
			return kernel.Decision{Changes: []kernel.Change{{Key: key("x12"), Type: "x.marked", Object: configMap("x12", "marked"), Note: "why"}}}
		}}
	w := newWorld(t, sum)
	for i := range 12 {
		w.put(fmt.Sprintf("x%d", i+1), "1", 0)
	}
	p := w.core.Ready(noon)[0]
	// At most eight: that of the object itself, and the oldest of the others.
	if diff := cmp.Diff([]kernel.Seq{1, 2, 3, 4, 5, 6, 7, 12}, p.Cause); diff != "" {
		t.Errorf("causes (-want +got):\n%s", diff)
	}
	want := events.Envelope{ID: p.ID, Source: "sum", Type: "x.marked", Time: noon, Seen: 12, Cause: p.Cause, Note: "why",
		Decision: &events.DecisionRef{Decider: "sum", Key: one.String(), Index: 0, Count: 1, Build: "test"}}
	if diff := cmp.Diff(want, p.Envelope); diff != "" {
		t.Errorf("envelope (-want +got):\n%s", diff)
	}
	if !strings.HasPrefix(p.ID, "me-") {
		t.Errorf("id %q does not begin with the instance", p.ID)
	}
}

func TestRevisitComesBackOnceAndKeepsItsCause(t *testing.T) {
	var asked []time.Time
	d := copier(&asked)
	decide := d.Decide
	d.Decide = func(v *kernel.View, k kernel.Key, now time.Time) kernel.Decision {
		if now.Before(noon.Add(time.Minute)) {
			asked = append(asked, now)
			return kernel.Decision{Revisit: noon.Add(time.Minute)}
		}
		return decide(v, k, now)
	}
	w := newWorld(t, d)
	w.put("a", "1", 0)
	if ps := w.core.Ready(noon); len(ps) != 0 {
		t.Fatalf("proposed %v too early", ps)
	}
	if ps := w.core.Ready(noon.Add(30 * time.Second)); len(ps) != 0 || len(asked) != 1 {
		t.Fatalf("asked %d times before its time, want 1", len(asked))
	}
	if next := w.core.Next(); !next.Equal(noon.Add(time.Minute)) {
		t.Fatalf("next at %v", next)
	}
	ps := w.core.Ready(noon.Add(time.Minute))
	if len(ps) != 1 || !slices.Equal(ps[0].Cause, []kernel.Seq{1}) {
		t.Errorf("%v, want one proposal caused by event 1", ps)
	}
}

func TestWhatLedToATimerIsForgottenWhenAnEventComes(t *testing.T) {
	d := copier(nil)
	decide := d.Decide
	d.Decide = func(v *kernel.View, k kernel.Key, now time.Time) kernel.Decision {
		if v.Seq() < 20 {
			return kernel.Decision{Revisit: noon.Add(time.Hour)}
		}
		return decide(v, k, now)
	}
	w := newWorld(t, d)
	for i := range 20 {
		w.put("a", fmt.Sprint(i), kernel.Seq(i))
		if i == 19 {
			break
		}
		w.core.Ready(noon)
	}
	p := w.core.Ready(noon)[0]
	if diff := cmp.Diff([]kernel.Seq{20}, p.Cause); diff != "" {
		t.Errorf("causes of a decision that only the last event led to (-want +got):\n%s", diff)
	}
}

func TestARefusedChangeIsTriedAgainLater(t *testing.T) {
	d := copier(nil)
	d.Decide = func(*kernel.View, kernel.Key, time.Time) kernel.Decision {
		c := configMap("x", "1")
		c.Data["refuse"] = "yes"
		return kernel.Decision{Changes: []kernel.Change{{Key: key("x"), Object: c}}}
	}
	w := newWorld(t, d)
	w.put("a", "1", 0)
	if ps := w.core.Ready(noon); len(ps) != 0 {
		t.Errorf("proposed what was refused: %v", ps)
	}
	if next := w.core.Next(); !next.After(noon) {
		t.Errorf("next at %v: a refused change is forgotten", next)
	}
}

func TestBrokenLawsPanic(t *testing.T) {
	secrets := kernel.Resource{Plural: "secrets"}
	change := func(name string) kernel.Change {
		return kernel.Change{Key: key(name), Object: configMap(name, "1")}
	}
	for name, decide := range map[string]func(*kernel.View, kernel.Key, time.Time) kernel.Decision{
		"is not declared in Reads": func(v *kernel.View, _ kernel.Key, _ time.Time) kernel.Decision {
			v.Get(kernel.Key{Resource: secrets, Name: "x"})
			return kernel.Decision{}
		},
		"without declaring it in Writes": func(*kernel.View, kernel.Key, time.Time) kernel.Decision {
			return kernel.Decision{Changes: []kernel.Change{{Key: kernel.Key{Resource: secrets, Name: "x"}, Object: &corev1.ConfigMap{}}}}
		},
		"changed configmaps/default/a twice": func(*kernel.View, kernel.Key, time.Time) kernel.Decision {
			return kernel.Decision{Changes: []kernel.Change{change("a"), change("a")}}
		},
	} {
		d := copier(nil)
		d.Decide = decide
		w := newWorld(t, d)
		w.put("a", "1", 0)
		func() {
			defer func() {
				if r := fmt.Sprint(recover()); !strings.Contains(r, name) {
					t.Errorf("panicked with %q, want something with %q", r, name)
				}
			}()
			w.core.Ready(noon)
		}()
	}
}

func TestView(t *testing.T) {
	empty := kernel.NewView(plain{})
	r1, r2 := record(t, "a", "1", 0), record(t, "a", "2", 1)
	r1.Seq, r2.Seq = 1, 2
	gone := record(t, "a", "2", 2)
	gone.Seq, gone.Delete = 3, true
	first, _ := empty.Fold(r1)
	second, es := first.Fold(r2)
	third, _ := second.Fold(gone)
	if es[0].Old().(*corev1.ConfigMap).Data["value"] != "1" {
		t.Error("an event does not know what it replaced")
	}
	if empty.Entry(key("a")) != nil || empty.Seq() != 0 {
		t.Error("folding changed the view that was folded from")
	}
	if o, ok := first.Get(key("a")); !ok || o.GetResourceVersion() != "1" || o.(*corev1.ConfigMap).Data["value"] != "1" {
		t.Errorf("at 1: %v", o)
	}
	if _, ok := third.Get(key("a")); ok || third.Entry(key("a")) == nil {
		t.Error("a tombstone must be no object, and yet be there")
	}
	if n := len(slices.Collect(third.Entries(configMaps, ""))); n != 0 {
		t.Errorf("%d live entries after the delete", n)
	}
	scratch := third.With(configMap("a", "assumed"))
	if _, ok := scratch.Get(key("a")); !ok {
		t.Error("With does not show what was assumed")
	}
	if _, ok := third.Get(key("a")); ok {
		t.Error("With changed the view itself")
	}
	marked, _ := third.Fold(kernel.Record{Seq: 9})
	if marked.Seq() != 9 {
		t.Errorf("a bookmark at 9 leaves the view at %d", marked.Seq())
	}
}

func TestFoldInOnePieceOrInMany(t *testing.T) {
	var all []kernel.Record
	last := map[string]kernel.Seq{}
	for i := range 200 {
		name := fmt.Sprint("o", i*7%13)
		r := record(t, name, fmt.Sprint(i), last[name])
		r.Seq, r.Delete = kernel.Seq(i+1), i%11 == 0
		last[name] = r.Seq
		all = append(all, r)
	}
	whole, _ := kernel.NewView(plain{}).Fold(all...)
	pieces := kernel.NewView(plain{})
	for _, r := range all {
		pieces, _ = pieces.Fold(r)
	}
	names := func(v *kernel.View) (out []string) {
		for e := range v.All() {
			out = append(out, fmt.Sprint(e.Key, e.Seq))
		}
		return out
	}
	if diff := cmp.Diff(names(whole), names(pieces)); diff != "" {
		t.Errorf("two views at one Seq differ:\n%s", diff)
	}
}
