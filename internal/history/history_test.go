package history_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kernel/kerneltest"
)

type plain = kerneltest.Plain

var configMaps = kerneltest.ConfigMaps

func key(name string) kernel.Key { return kernel.Key{Resource: configMaps, Namespace: "d", Name: name} }

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "d"}, Data: map[string]string{"value": value}}
}

// pair makes two objects, left and right, for every object NAME. times is a
// constant that a test may plant a change in.
func pair(suffix string) kernel.Decider {
	return kernel.Decider{Name: "pair", Reads: []kernel.Resource{configMaps}, Writes: []kernel.Resource{configMaps},
		Wakes: func(_ *kernel.View, e kernel.Event) []kernel.Key {
			if strings.Contains(e.Key.Name, "-") {
				return nil
			}
			return []kernel.Key{e.Key}
		},
		Decide: func(v *kernel.View, k kernel.Key, _ time.Time) kernel.Decision {
			o, ok := v.Get(k)
			if !ok {
				return kernel.Decision{}
			}
			value := o.(*corev1.ConfigMap).Data["value"] + suffix
			return kernel.Decision{Changes: []kernel.Change{
				{Key: key(k.Name + "-left"), Object: configMap(k.Name+"-left", value)},
				{Key: key(k.Name + "-right"), Object: configMap(k.Name+"-right", value)},
			}}
		}}
}

// story is a log made by hand.
type story struct {
	t    *testing.T
	log  []kernel.Record
	last map[kernel.Key]kernel.Seq
}

func (s *story) add(r kernel.Record) kernel.Seq {
	r.Seq, r.Expect = kernel.Seq(len(s.log)+1), s.last[r.Key]
	s.last[r.Key] = r.Seq
	s.log = append(s.log, r)
	return r.Seq
}

func (s *story) outside(name, value string) kernel.Seq {
	body, err := plain{}.Encode(configMap(name, value))
	if err != nil {
		s.t.Fatal(err)
	}
	return s.add(kernel.Record{Key: key(name), Body: body, Envelope: events.Envelope{ID: fmt.Sprint("u", len(s.log)), Source: "user:u"}})
}

// decide makes pair's decision as a Core of the instance does, and lets the
// chosen changes land.
func (s *story) decide(instance, name string, at time.Time, land ...int) {
	v, _ := kernel.NewView(plain{}).Fold(s.log...)
	d := pair("")
	records, _ := kernel.Decide(plain{}, &d, v, key(name), at)
	for i, r := range records {
		if slices.Contains(land, i) {
			r.ID = fmt.Sprintf("%s-%d", instance, len(s.log))
			s.add(r)
		}
	}
}

var noon = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func newStory(t *testing.T) *story { return &story{t: t, last: map[kernel.Key]kernel.Seq{}} }

func (s *story) replay(ds ...kernel.Decider) *history.Report {
	return history.Replay(plain{}, ds, slices.Values(s.log))
}

func TestReplayFindsNothingInAnHonestLog(t *testing.T) {
	s := newStory(t)
	s.outside("a", "1")
	s.decide("x", "a", noon, 0, 1)
	s.outside("a", "2")
	s.decide("x", "a", noon.Add(time.Second), 0, 1)
	r := s.replay(pair(""))
	want := &history.Report{Last: 6, Events: 6, Decisions: 2, Changes: 4, Builds: map[string]int{"": 4}, Digest: r.Digest,
		ByDecider: map[string]*history.Count{"pair": {Decisions: 2, Changes: 4}}}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

func TestReplayNamesAPlantedChange(t *testing.T) {
	s := newStory(t)
	s.outside("a", "1")
	s.decide("x", "a", noon, 0, 1)
	r := s.replay(pair("!"))
	if r.Unexplained != 2 || !strings.Contains(r.First, "pair on configmaps/d/a") || !strings.Contains(r.First, `"1" → "1!"`) {
		t.Errorf("%d unexplained, the first:\n%s", r.Unexplained, r.First)
	}
}

func TestReplayExplainsARace(t *testing.T) {
	s := newStory(t)
	s.outside("a", "1")
	v, _ := kernel.NewView(plain{}).Fold(s.log...)
	s.outside("a-right", "mine") // between decision and append
	d := pair("")
	records, _ := kernel.Decide(plain{}, &d, v, key("a"), noon)
	left := records[0]
	left.ID = "x-1"
	s.add(left)
	s.outside("b", "1")
	s.decide("x", "b", noon.Add(time.Second), 0, 1) // the writer lives on
	if r := s.replay(pair("")); r.Unexplained != 0 || r.Explained != 1 {
		t.Errorf("%d explained, %d unexplained; want the lost race explained:\n%s", r.Explained, r.Unexplained, r.First)
	}
}

func TestReplayExplainsACrash(t *testing.T) {
	s := newStory(t)
	s.outside("a", "1")
	s.decide("x", "a", noon, 0) // x dies here
	s.decide("y", "a", noon.Add(time.Second), 1)
	if r := s.replay(pair("")); r.Unexplained != 0 || r.Explained != 1 {
		t.Errorf("%d explained, %d unexplained:\n%s", r.Explained, r.Unexplained, r.First)
	}
}

func TestReplayFindsWhatNeverLanded(t *testing.T) {
	s := newStory(t)
	s.outside("a", "1")
	s.decide("x", "a", noon, 0)
	s.outside("b", "1")
	s.decide("x", "b", noon.Add(time.Second), 0, 1) // x did not die
	r := s.replay(pair(""))
	if r.Unexplained != 1 || !strings.Contains(r.First, "recorded  : nothing") {
		t.Errorf("%d unexplained, the first:\n%s", r.Unexplained, r.First)
	}
}

func TestReplayRangeLooksAtItsRangeOnly(t *testing.T) {
	s := newStory(t)
	s.outside("a", "1")
	s.decide("x", "a", noon, 0, 1)
	from := s.outside("a", "2")
	s.decide("x", "a", noon.Add(time.Second), 0, 1)
	for what, c := range map[string]struct{ from, to kernel.Seq }{"the second": {from, 0}, "the first": {0, from - 1}} {
		part := &history.Replayer{Schema: plain{}, Deciders: []kernel.Decider{pair("")}, From: c.from, To: c.to}
		if r, err := part.Replay(history.PastOf(slices.Values(s.log))); err != nil || r.Decisions != 1 || r.Failed() {
			t.Errorf("%d decisions, want %s alone: %v\n%s", r.Decisions, what, err, r.First)
		}
	}
}

func TestWhyPutsChainsFromOutsideFirst(t *testing.T) {
	log := map[kernel.Seq]kernel.Record{
		1: {Seq: 1, Envelope: events.Envelope{Source: "user:admin"}},
		2: {Seq: 2, Envelope: events.Envelope{Cause: []kernel.Seq{1}}},
		3: {Seq: 3, Envelope: events.Envelope{Cause: []kernel.Seq{9}}}, // its cause cannot be: it is later
		4: {Seq: 4, Envelope: events.Envelope{Cause: []kernel.Seq{1, 2, 3}}},
	}
	fetch := func(_ context.Context, seq kernel.Seq) (kernel.Record, error) { return log[seq], nil }
	l, err := history.Why(context.Background(), fetch, 4)
	if err != nil {
		t.Fatal(err)
	}
	var order []kernel.Seq
	for _, c := range l.Causes {
		order = append(order, c.Record.Seq)
	}
	if diff := cmp.Diff([]kernel.Seq{2, 1, 3}, order); diff != "" {
		t.Errorf("order of causes (-want +got):\n%s", diff)
	}
	if !l.Outside || l.Causes[2].Outside || !l.Causes[1].Shown {
		t.Errorf("outside %v, dead end %v, shown again %v", l.Outside, l.Causes[2].Outside, l.Causes[1].Shown)
	}
}

func TestDiffNamesFieldsAsPeopleDo(t *testing.T) {
	before := `{"spec":{"replicas":2,"containers":[{"name":"web","image":"v1"}]},"metadata":{"labels":{"a/b.c":"x"}}}`
	after := `{"spec":{"replicas":3,"containers":[{"name":"web","image":"v2"}]},"status":{"ok":true}}`
	var got []string
	for _, c := range history.Diff([]byte(before), []byte(after)) {
		got = append(got, c.String())
	}
	want := []string{
		`- metadata.labels[a/b.c]: "x"`,
		`~ spec.containers[web].image: "v1" → "v2"`,
		`~ spec.replicas: 2 → 3`,
		`+ status.ok: true`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
