package sim

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/nodeagent"
)

// TestCheckersAreListed: who reads the list of invariants finds every checker.
func TestCheckersAreListed(t *testing.T) {
	t.Parallel()
	list, err := os.ReadFile("../docs/invariants.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("check_*.go")
	if err != nil || len(files) < 15 {
		t.Fatalf("%d checkers: %v", len(files), err)
	}
	for _, file := range files {
		if !strings.HasSuffix(file, "_test.go") && !bytes.Contains(list, []byte("`"+file+"`")) {
			t.Errorf("docs/invariants.md does not name %s", file)
		}
	}
}

// user is the envelope of a user's event.
func (w *World) user() events.Envelope {
	return events.Envelope{ID: fmt.Sprint("user-", w.end()), Source: "user:x", Time: w.now}
}

// put has a user put a body into the log, be it right or not.
func (w *World) put(k kernel.Key, body string) {
	r := kernel.Record{Key: k, Body: []byte(body), Envelope: w.user()}
	if e := w.view().Entry(k); e != nil {
		r.Expect = e.Seq
	}
	if _, err := w.append(r); err != nil {
		w.fail(err)
	}
}

// TestPhases: a pod that has ended stays so.
func TestPhases(t *testing.T) {
	t.Parallel()
	type pod struct {
		uid   string
		phase corev1.PodPhase
	}
	for name, c := range map[string]struct {
		pods []pod
		ok   bool
	}{
		"ends":          {[]pod{{"1", corev1.PodPending}, {"1", corev1.PodRunning}, {"1", corev1.PodFailed}, {"1", corev1.PodFailed}}, true},
		"comes back":    {[]pod{{"1", corev1.PodFailed}, {"1", corev1.PodRunning}}, false},
		"was well":      {[]pod{{"1", corev1.PodSucceeded}, {"1", corev1.PodFailed}}, false},
		"is another":    {[]pod{{"1", corev1.PodFailed}, {"2", corev1.PodPending}}, true},
		"begins anew":   {[]pod{{"1", corev1.PodSucceeded}, {"1", corev1.PodPending}}, false},
		"runs all time": {[]pod{{"1", corev1.PodRunning}, {"1", corev1.PodRunning}}, true},
	} {
		v := kernel.NewView(newWorld(Scenario{Seed: 1}, DefaultDeciders()).schema)
		var err error
		for i, p := range c.pods {
			body := fmt.Appendf(nil, `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","namespace":"default","uid":%q},"spec":{"containers":null},"status":{"phase":%q}}`, p.uid, p.phase)
			var es []kernel.Event
			v, es = v.Fold(kernel.Record{Key: kinds.Pods.Key("default", "p"), Seq: kernel.Seq(i + 1), Body: body})
			err = errors.Join(err, (&phases{}).see(es[0]))
		}
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestEnvelopes spoils the envelope of a decider's event in each way.
func TestEnvelopes(t *testing.T) {
	t.Parallel()
	w := newWorld(Scenario{Seed: 1}, DefaultDeciders())
	w.populate()
	see := func(spoil func(r *kernel.Record)) error {
		r := kernel.Record{Key: kinds.Pods.Key("default", "p"), Seq: 99,
			Body: []byte(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","namespace":"default","uid":"1"},"spec":{"containers":null},"status":{}}`),
			Envelope: events.Envelope{ID: "x-1", Source: "scheduler", Time: w.now, Seen: 90, Cause: []kernel.Seq{80, 90},
				Decision: &events.DecisionRef{Decider: "scheduler", Count: 1, Build: build}}}
		spoil(&r)
		_, es := w.view().Fold(r)
		return (&envelopes{deciders: w.deciders, ids: map[string]bool{"there": true}}).see(es[0])
	}
	if err := see(func(*kernel.Record) {}); err != nil {
		t.Errorf("an honest event: %v", err)
	}
	fromUser := func(r *kernel.Record) { r.Source, r.Decision, r.Cause = "user:x", nil, nil }
	if err := see(fromUser); err != nil {
		t.Errorf("a user's event: %v", err)
	}
	for name, spoil := range map[string]func(r *kernel.Record){
		"an id again":                func(r *kernel.Record) { r.ID = "there" },
		"seen what comes later":      func(r *kernel.Record) { r.Seen = 99 },
		"no decision":                func(r *kernel.Record) { r.Decision = nil },
		"another's decision":         func(r *kernel.Record) { r.Decision.Decider = "controllers/deployment" },
		"the second of one":          func(r *kernel.Record) { r.Decision.Index = 1 },
		"another build":              func(r *kernel.Record) { r.Decision.Build = "other" },
		"no cause":                   func(r *kernel.Record) { r.Cause = nil },
		"causes out of order":        func(r *kernel.Record) { r.Cause = []kernel.Seq{90, 80} },
		"a cause that was not seen":  func(r *kernel.Record) { r.Cause = []kernel.Seq{91} },
		"nine causes":                func(r *kernel.Record) { r.Cause = []kernel.Seq{1, 2, 3, 4, 5, 6, 7, 8, 9} },
		"what it does not declare":   func(r *kernel.Record) { r.Key = kinds.Secrets.Key("default", "p") },
		"a decision of a user":       func(r *kernel.Record) { r.Source, r.Cause = "user:x", nil },
		"a cause that a user named":  func(r *kernel.Record) { r.Source, r.Decision = "user:x", nil },
		"a decision that a node has": func(r *kernel.Record) { r.Source = "nodeagent/n1" },
	} {
		if see(spoil) == nil {
			t.Errorf("%s: nobody found it", name)
		}
	}
}

// TestViewsAreCompared spoils what a process has read.
func TestViewsAreCompared(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(all []kernel.Record) []kernel.Record{
		"an object less": func(all []kernel.Record) []kernel.Record { return all[1:] },
		"an object more": func(all []kernel.Record) []kernel.Record {
			more := all[1]
			more.Key.Name, more.Seq = "more", 0
			return append([]kernel.Record{more}, all...)
		},
		"another body": func(all []kernel.Record) []kernel.Record {
			all[0].Body = bytes.Replace(all[0].Body, []byte(`"uid":"`), []byte(`"uid":"0`), 1)
			return all
		},
		"a tombstone more": func(all []kernel.Record) []kernel.Record {
			gone := all[1]
			gone.Key.Name, gone.Seq, gone.Delete = "gone", 0, true
			return append([]kernel.Record{gone}, all...)
		},
		"a tombstone less": func(all []kernel.Record) []kernel.Record {
			for i, r := range all {
				if r.Delete {
					return append(all[:i:i], all[i+1:]...)
				}
			}
			panic("there is none")
		},
	} {
		w := newWorld(Scenario{Seed: 1}, DefaultDeciders())
		w.populate()
		w.put(kinds.ConfigMaps.Key("default", "c"), `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c","namespace":"default","uid":"1"}}`)
		e := w.view().Entry(kinds.ConfigMaps.Key("default", "c"))
		gone := e.Record
		gone.Delete, gone.Expect, gone.Envelope = true, e.Seq, w.user()
		if _, err := w.append(gone); err != nil {
			t.Fatal(err)
		}
		for w.round() {
			w.now = w.now.Add(time.Millisecond)
		}
		if err := (&views{w: w}).end(); err != nil {
			t.Fatal(err)
		}
		all := spoil(append([]kernel.Record(nil), w.records...))
		w.processes[0].view, _ = kernel.NewView(w.rules).Fold(all...)
		if err := (&views{w: w}).end(); err == nil {
			t.Errorf("%s: nobody found it", name)
		}
	}
}

// TestViewsAreComparedWhileTheyAreRead: it does not matter whether what a
// process has wrong is there in the end.
func TestViewsAreComparedWhileTheyAreRead(t *testing.T) {
	t.Parallel()
	type reader struct {
		view *(*kernel.View)
		read func(n int) bool
	}
	for name, of := range map[string]func(w *World) reader{
		"service0-0":  func(w *World) reader { return reader{&w.processes[0].view, w.processes[0].read} },
		"apiserver-0": func(w *World) reader { return reader{&w.servers[0].view, w.servers[0].read} },
	} {
		w := newWorld(Scenario{Seed: 1}, DefaultDeciders())
		w.populate()
		r := of(w)
		*r.view, _ = kernel.NewView(w.rules).Fold(w.records[1:]...)
		for n := range compareEvery {
			w.put(kinds.ConfigMaps.Key("default", fmt.Sprint("c", n)), `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c","namespace":"default","uid":"1"}}`)
			r.read(everything)
		}
		if w.broken == nil || !strings.Contains(w.broken.Error(), name+" has read up to") {
			t.Errorf("%s: found %v", name, w.broken)
		}
	}
}

// TestExpired shows the checker what is removed too early, and what is left.
func TestExpired(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		after time.Duration
		gone  bool
		want  string
	}{
		"too early": {50 * time.Minute, true, "was removed after 50m0s"},
		"in time":   {time.Hour, true, ""},
		"left":      {62 * time.Minute, false, "was written 1h2m0s ago"},
		"not yet":   {time.Hour, false, ""},
	} {
		w := newWorld(Scenario{Seed: 1}, DefaultDeciders())
		w.populate()
		k := kinds.Events.Key("default", "e")
		w.put(k, `{"kind":"Event","apiVersion":"v1","metadata":{"name":"e","namespace":"default","uid":"1"}}`)
		w.now = w.now.Add(c.after)
		err := w.broken
		if c.gone {
			gone := w.view().Entry(k).Record
			gone.Delete, gone.Expect, gone.Envelope = true, gone.Seq, w.user()
			gone.Type, gone.Seen = "event.expired", gone.Expect
			if _, err := w.append(gone); err != nil {
				t.Fatal(err)
			}
			err = w.broken
		} else if err == nil {
			err = (&expired{w: w}).end()
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAWriteThatNeverCame: a decision of which one write got lost on its way,
// and nobody's write is in its place.
func TestAWriteThatNeverCame(t *testing.T) {
	t.Parallel()
	w := newWorld(Scenario{Seed: 1, Calm: true}, DefaultDeciders())
	w.populate()
	for _, one := range w.users.wishes {
		if one.key.Resource == kinds.Deployments.Resource && one.inside == nil {
			one.wanted, one.replicas, one.image, one.version = true, 3, "shop:v1", 1
		}
	}
	p := w.processes[0] // of the controllers
	for n := 0; ; n++ {
		if n > 1000 {
			t.Fatal("nobody makes pods")
		}
		w.users.round()
		for _, s := range w.servers {
			s.round()
		}
		p.read(everything)
		p.decide()
		if last := len(p.outbox) - 1; last > 0 && p.outbox[last].Key.Resource == kinds.Pods.Resource && p.outbox[last].Decision.Index > 0 {
			p.outbox = p.outbox[:last]
			for p.send(nil) {
			}
			break
		}
		for p.send(nil) || p.hear(nil, false) {
		}
		w.pass(1)
	}
	if err := w.told.replays.end(); err == nil || !strings.Contains(err.Error(), "which never came") {
		t.Errorf("found: %v", err)
	}
}

// TestAFindingIsKept: what a failing seed shrinks to is written, read, and found
// again by the same checker.
func TestAFindingIsKept(t *testing.T) {
	t.Parallel()
	spoilt := plant("controllers/garbage", changing(
		func(*kernel.View, kernel.Key, kernel.Decision, time.Time) kernel.Decision { return kernel.Decision{} }))
	play := func(s Scenario) error {
		_, err := RunWith(s, spoilt)
		return err
	}
	s := Generate(2, steps/4)
	s.Unlimited = true
	found := play(s)
	if found == nil {
		t.Fatal("nobody collects garbage, and nobody finds it")
	}
	small := Shrink(s, found, 12, play)
	dir := filepath.Join(t.TempDir(), "found")
	text, err := scenarioText(small, found)
	if err = errors.Join(err, keepScenario("", "nowhere", 2, text), keepScenario(dir, checkerOf(found), 2, text)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, checkerOf(found)+"-2.txt")
	read, err := readScenario(file)
	if err != nil {
		t.Fatal(err)
	}
	if again := play(read); len(read.Steps) >= len(s.Steps) || !read.Unlimited || again == nil || checkerOf(again) != checkerOf(found) {
		t.Errorf("of %d steps %d are left; first %v, then %v", len(s.Steps), len(read.Steps), found, again)
	}
}

// TestNeeds: a kept scenario in which something does not happen any more says so.
func TestNeeds(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "kept.txt")
	if err := os.WriteFile(file, []byte("# seed 1: x\n# needs: conflict\n# needs: event: namespace.created\nseed 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want, err := needs(file)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(Scenario{Seed: 1}, DefaultDeciders())
	w.populate()
	if less := lacking(shown(w), want); len(want) != 2 || len(less) != 1 || less[0] != "conflict" {
		t.Errorf("of %q it lacks %q", want, less)
	}
}

// TestSkew: what an agent waits for it waits for as long as it would have,
// however its clock is set meanwhile.
func TestSkew(t *testing.T) {
	t.Parallel()
	w := newWorld(Scenario{Seed: 1}, DefaultDeciders())
	m := w.machines[0]
	p := newPodState(nil, nodeagent.World{Containers: map[string]*nodeagent.Container{"web": {Stop: &nodeagent.Stop{Since: m.clock()}}}})
	m.pods[kinds.Pods.Key("default", "p")] = p
	m.skew(3 * time.Hour)
	p.world.Sandbox = failed(p.world.Sandbox, "", "", m.clock(), 10*time.Second, time.Minute)
	m.skew(-time.Hour)
	since, again := m.clock().Sub(p.world.Containers["web"].Stop.Since), p.world.Sandbox.RetryAt.Sub(m.clock())
	if since != 0 || again != 10*time.Second || !p.world.Volumes.RetryAt.IsZero() {
		t.Errorf("it stops since %s, and tries again in %s", since, again)
	}
}
