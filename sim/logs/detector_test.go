package logs

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kernel/kerneltest"
	"github.com/rutterhq/rutter/kinds"
)

// listener is a testing.TB that keeps what it is told instead of failing.
type listener struct {
	testing.TB
	told []string
}

// Errorf implements testing.TB.
func (l *listener) Errorf(format string, args ...any) {
	l.told = append(l.told, fmt.Sprintf(format, args...))
}

// victim is the decider that things are planted into.
const victim = "controllers/replicaset"

// planted are all deciders, with one value of another origin in every pod that
// the victim makes.
func planted(value func(v *kernel.View, k kernel.Key, now time.Time) string) []kernel.Decider {
	all := Deciders()
	i := slices.IndexFunc(all, func(d kernel.Decider) bool { return d.Name == victim })
	decide := all[i].Decide
	all[i].Decide = func(v *kernel.View, k kernel.Key, now time.Time) kernel.Decision {
		d := decide(v, k, now)
		for _, c := range d.Changes {
			if p, ok := c.Object.(*corev1.Pod); ok && v.Entry(c.Key) == nil {
				p.Annotations = map[string]string{"planted": value(v, k, now)}
			}
		}
		return d
	}
	return all
}

// otherMachine says that what follows happens on one that computes x*y+z in one
// step, as arm64 does, and amd64 from GOAMD64=v3 on: the result is rounded once.
var otherMachine bool

func byFloat(*kernel.View, kernel.Key, time.Time) string {
	x, y, z := 0.1, 10.0, -1.0
	if otherMachine {
		return fmt.Sprint(math.FMA(x, y, z))
	}
	return fmt.Sprint(float64(x*y) + z)
}

// byMachine computes in one step where the machine does: see TestInAnotherProgram.
func byMachine(*kernel.View, kernel.Key, time.Time) string { return fmt.Sprint(sum(0.1, 10, -1)) }

// sum is not put into its callers: of constants the compiler knows the result.
//
//go:noinline
func sum(x, y, z float64) float64 { return x*y + z }

func byOrder(*kernel.View, kernel.Key, time.Time) string {
	var out strings.Builder
	for k := range map[string]int{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6} { // planted
		out.WriteString(k)
	}
	return out.String()
}

func byMutation(v *kernel.View, k kernel.Key, _ time.Time) string {
	if rs, ok := kinds.ReplicaSets.Get(v, k.Namespace, k.Name); ok {
		rs.Spec.MinReadySeconds = 77 // of everybody's View
	}
	return "x"
}

// kept is what a decider must not have: a memory of its own.
var kept int

// TestDetector plants into a decider what must not be there, lets it decide in
// a story, and replays that story with the same decider: as it was recorded by
// a build, so it is decided again by that build. Each plant is found, in the
// story and in the replay, and the first decision that it shows in is named
// with its decider, key, Seq and both results.
func TestDetector(t *testing.T) {
	for name, c := range map[string]struct {
		value   func(*kernel.View, kernel.Key, time.Time) string
		moved   bool   // the replay is on the other machine
		story   string // what the story's runner says; empty: nothing
		verdict string // what the replay says
		diff    string // which field
	}{
		"the order of a map": {byOrder, false, "decided twice", "two results on one View", "metadata.annotations.planted"},
		"a clock": {func(*kernel.View, kernel.Key, time.Time) string { return fmt.Sprint(time.Now().UnixNano()) },
			false, "decided twice", "two results on one View", "metadata.annotations.planted"},
		"chance": {func(*kernel.View, kernel.Key, time.Time) string { return fmt.Sprint(rand.Uint64()) },
			false, "decided twice", "two results on one View", "metadata.annotations.planted"},
		"a memory": {func(*kernel.View, kernel.Key, time.Time) string { kept++; return fmt.Sprint(kept) },
			false, "decided twice", "two results on one View", "metadata.annotations.planted"},
		"floating point, on another machine": {byFloat, true, "", "it had the same result: the build or the machine decides otherwise", "metadata.annotations.planted"},
		"a change of the View":               {byMutation, false, "modified objects of its View", "it modified replicasets.apps/default/web-", "spec.minReadySeconds: 77"},
	} {
		t.Run(name, func(t *testing.T) {
			deciders := planted(c.value)
			records, told := tell(t, deciders)
			if said := strings.Join(told, "\n"); c.story == "" && said != "" || !strings.Contains(said, c.story) {
				t.Errorf("the story's runner says %q, want %q", said, c.story)
			}
			otherMachine = c.moved
			defer func() { otherMachine = false }()
			first := records[slices.IndexFunc(records, func(r kernel.Record) bool { return r.Source == victim })]
			for _, times := range []int{1, 20} {
				p := &history.Replayer{Schema: &kinds.Schema{Cluster: cluster}, Deciders: deciders, Times: times}
				r, err := p.Replay(history.PastOf(slices.Values(records)))
				if err != nil || !r.Failed() {
					t.Fatalf("made %d times, nothing is found: %v %+v", times, err, r)
				}
				d := r.Differences[0]
				if times == 1 && name == "the order of a map" {
					// By chance the first decision may have had the order again.
					if d.Decider != victim || d.Results < 2 {
						t.Errorf("made once: %s", d)
					}
					continue
				}
				if d.Decider != victim || d.Key != first.Decision.Key || d.Seen != first.Seen {
					t.Errorf("made %d times, the first is said to be %s on %s, seen %d; it is %s on %s, seen %d", times, d.Decider, d.Key, d.Seen, victim, first.Decision.Key, first.Seen)
				}
				if !strings.Contains(r.First, c.diff) || times > 1 && !strings.Contains(r.First, c.verdict) || strings.Contains(r.First, ": nothing") {
					t.Errorf("made %d times, want %q and %q in:\n%s", times, c.verdict, c.diff, r.First)
				}
				if times > 1 {
					t.Log(r.First)
				}
			}
		})
	}
}

// TestDetectorIsQuiet: the same with nothing planted but a constant.
func TestDetectorIsQuiet(t *testing.T) {
	deciders := planted(func(_ *kernel.View, k kernel.Key, now time.Time) string { return k.Name + now.String() })
	records, told := tell(t, deciders)
	p := &history.Replayer{Schema: &kinds.Schema{Cluster: cluster}, Deciders: deciders, Times: 5}
	if r, err := p.Replay(history.PastOf(slices.Values(records))); err != nil || r.Failed() || len(told) > 0 || r.Changes == 0 {
		t.Errorf("%v: %+v, %q", err, r, told)
	}
}

// tell has a small Deployment made and updated, and returns what happened and
// what the runner of stories found wrong.
func tell(t *testing.T, deciders []kernel.Decider) ([]kernel.Record, []string) {
	t.Helper()
	l := &listener{TB: t}
	w := kerneltest.NewWorld(l, &kinds.Schema{Cluster: cluster}, deciders...)
	w.Given(`
apiserver namespaces/default
---
agents on
---
apiserver nodes/n1
status:
  allocatable: {cpu: "4", memory: 8Gi, pods: "110"}
  capacity: {cpu: "4", memory: 8Gi, pods: "110"}
  conditions: [{type: Ready, status: "True"}]
`)
	for _, image := range []string{"shop:v1", "shop:v2"} {
		w.Given(`
user:admin deployments.apps/default/web
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "` + image + `"}]}
`)
	}
	return w.Records(), l.told
}
