package kerneltest

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"sigs.k8s.io/yaml"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/memory"
	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/kernel"
)

var update = flag.Bool("update", false, "write the want sections of scenarios anew")

const (
	settleFor = 3 * time.Second // timers this near are followed without a wait
	maxRounds = 1000            // a story that takes more does not settle
)

// Start is the time at which every story begins.
var Start = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// Scenarios runs every testdata/*.txtar with the deciders.
func Scenarios(t *testing.T, s kernel.Schema, deciders ...kernel.Decider) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no testdata/*.txtar (%v)", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txtar"), func(t *testing.T) { Scenario(t, f, s, deciders...) })
	}
}

// Scenario runs one file, and returns the world at its end.
func Scenario(t *testing.T, file string, s kernel.Schema, deciders ...kernel.Decider) *World {
	t.Helper()
	story, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	w := NewWorld(t, s, deciders...)
	for i := range story.Files {
		section := &story.Files[i]
		switch section.Name {
		case "given":
			w.from = w.view.Seq()
			w.Given(string(section.Data))
		case "want":
			got := w.narrate()
			if *update {
				section.Data = got
			} else if diff := cmp.Diff(string(section.Data), string(got)); diff != "" {
				t.Errorf("%s: section %d (-want +got):\n%s", file, i, diff)
			}
		default:
			t.Fatalf("%s: section %q: expected given or want", file, section.Name)
		}
	}
	if *update {
		if err := os.WriteFile(file, txtar.Format(story), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w.Replay()
	return w
}

// World is a log, deciders and a clock, driven from one test.
type World struct {
	t      testing.TB
	schema kernel.Schema
	log    *memory.Log
	core   *kernel.Core
	view   *kernel.View
	all    []kernel.Record
	from   kernel.Seq // events after it are the current section's
	agents bool

	Deciders []kernel.Decider
	Now      time.Time
}

// NewWorld returns an empty world at Start.
func NewWorld(t testing.TB, s kernel.Schema, deciders ...kernel.Decider) *World {
	w := &World{t: t, schema: s, log: memory.New(), view: kernel.NewView(s), Now: Start}
	for _, d := range deciders {
		w.Deciders = append(w.Deciders, checked(t, d))
	}
	w.core = kernel.NewCore(s, "test", "kerneltest", w.Deciders...)
	w.core.Start(w.view)
	return w
}

// View is the View after all that happened.
func (w *World) View() *kernel.View { return w.view }

// Records are all events so far.
func (w *World) Records() []kernel.Record { return w.all }

// Given lets the steps of a given section happen, and lets the deciders run.
func (w *World) Given(steps string) {
	w.t.Helper()
	for step := range strings.SplitSeq("\n"+steps, "\n---") {
		w.step(strings.TrimSpace(step))
	}
	w.Settle()
}

func (w *World) step(text string) {
	w.t.Helper()
	head, body, _ := strings.Cut(text, "\n")
	words := strings.Fields(head)
	switch {
	case len(words) == 0:
	case words[0] == "wait" && len(words) == 2:
		d, err := time.ParseDuration(words[1])
		if err != nil {
			w.t.Fatalf("step %q: %v", head, err)
		}
		w.Wait(d)
	case words[0] == "agents" && len(words) == 2:
		w.agents = words[1] == "on"
	case len(words) >= 3 && words[1] == "delete":
		w.remove(words[0], w.key(words[2]), len(words) == 4 && words[3] == "now")
	case len(words) >= 2:
		ceType := ""
		if len(words) > 2 {
			ceType = words[2]
		}
		w.Put(words[0], w.key(words[1]), ceType, body)
	default:
		w.t.Fatalf("step %q: expected SOURCE KEY [TYPE], SOURCE delete KEY [now], wait DURATION or agents on|off", head)
	}
}

func (w *World) key(s string) kernel.Key {
	k, err := events.ParseKey(s)
	if err != nil {
		w.t.Fatal(err)
	}
	return k
}

// Put creates the object, or merges the YAML into what is there.
func (w *World) Put(source string, k kernel.Key, ceType, text string) {
	w.t.Helper()
	patch, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		w.t.Fatalf("%s: %v", k, err)
	}
	wr := kernel.Write{Key: k, Subresource: kernel.Whole}
	body := []byte(`{}`)
	if old, ok := w.view.Get(k); ok {
		body = mustJSON(old)
	}
	if string(patch) != "null" {
		if body, err = jsonpatch.MergePatch(body, patch); err != nil {
			w.t.Fatalf("%s: %v", k, err)
		}
	}
	if wr.New, err = w.schema.Decode(k, body); err != nil {
		w.t.Fatalf("%s: %v", k, err)
	}
	wr.New.SetResourceVersion("")
	wr.New.SetName(k.Name)
	wr.New.SetNamespace(k.Namespace)
	w.write(source, ceType, wr)
}

// Delete deletes the object as kubectl delete does.
func (w *World) Delete(source string, k kernel.Key) {
	w.t.Helper()
	w.remove(source, k, false)
}

func (w *World) remove(source string, k kernel.Key, atOnce bool) {
	w.t.Helper()
	if _, ok := w.view.Get(k); !ok {
		w.t.Fatalf("delete %s: there is none", k)
	}
	wr := kernel.Write{Key: k}
	if atOnce {
		wr.Grace = new(int64)
	}
	w.write(source, "", wr)
}

func (w *World) write(source, ceType string, wr kernel.Write) {
	w.t.Helper()
	wr.By = source
	r, refusal := w.schema.Propose(w.view, wr, w.Now)
	if refusal != nil {
		w.t.Fatalf("write of %s by %s: %v", wr.Key, source, refusal)
	}
	if r == nil {
		return
	}
	r.ID = fmt.Sprintf("given-%d", len(w.all))
	if ceType != "" {
		r.Type = ceType
	}
	if _, err := w.append(*r); err != nil {
		w.t.Fatal(err)
	}
}

func (w *World) append(r kernel.Record) (kernel.Seq, error) {
	seq, err := w.log.Append(context.Background(), r)
	if err != nil {
		return 0, err
	}
	r.Seq = seq
	w.all = append(w.all, r)
	var es []kernel.Event
	w.view, es = w.view.Fold(r)
	w.core.Apply(w.view, es...)
	return seq, nil
}

// Wait lets the deciders run for a while.
func (w *World) Wait(d time.Duration) {
	until := w.Now.Add(d)
	w.run(func(next time.Time) bool { return !next.After(until) })
	w.Now = until
}

// Settle lets the deciders run until nothing is left to decide soon.
func (w *World) Settle() {
	w.run(func(next time.Time) bool { return next.Sub(w.Now) <= settleFor })
}

func (w *World) run(follow func(next time.Time) bool) {
	w.t.Helper()
	for range maxRounds {
		ps := w.core.Ready(w.Now)
		for _, p := range ps {
			seq, err := w.append(p.Record)
			w.core.Done(p, seq, err, w.Now)
		}
		if len(ps) > 0 || w.agents && w.stepNodes() {
			continue
		}
		next := w.core.Next()
		if next.IsZero() || !follow(next) {
			return
		}
		if next.After(w.Now) {
			w.Now = next
		}
	}
	w.t.Fatalf("the story does not settle in %d rounds; the last events:\n%s", maxRounds, w.narrate())
}

// Replay makes every recorded decision again and fails the test if one differs.
func (w *World) Replay() {
	w.t.Helper()
	report := history.Replay(w.schema, w.Deciders, slices.Values(w.all))
	if report.Unexplained > 0 {
		w.t.Errorf("replay: %d of %d changes are unexplained; the first:\n%s", report.Unexplained, report.Changes, report.First)
	}
}

// checked wraps a decider so that it decides twice and must leave the View's
// objects as they are.
func checked(t testing.TB, d kernel.Decider) kernel.Decider {
	decide := d.Decide
	d.Decide = func(v *kernel.View, k kernel.Key, now time.Time) kernel.Decision {
		before := contents(v, d.Reads)
		first, second := decide(v, k, now), decide(v, k, now)
		a, b := mustJSON(first), mustJSON(second)
		if !bytes.Equal(a, b) {
			t.Errorf("%s decided twice on %s at %d and differed:\n%s\n%s", d.Name, k, v.Seq(), a, b)
		}
		if after := contents(v, d.Reads); !bytes.Equal(before, after) {
			t.Errorf("%s modified objects of its View when deciding on %s", d.Name, k)
		}
		return first
	}
	return d
}

func contents(v *kernel.View, rs []kernel.Resource) []byte {
	var all []any
	for _, r := range rs {
		for e := range v.Entries(r, "") {
			all = append(all, e.Object())
		}
	}
	return mustJSON(all)
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
