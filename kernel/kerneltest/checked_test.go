package kerneltest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/kernel"
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

// copier copies ConfigMap a to b once, by a function that may misbehave.
func copier(value func(from *corev1.ConfigMap) string) kernel.Decider {
	rs := []kernel.Resource{ConfigMaps}
	return kernel.Decider{Name: "copier", Reads: rs, Writes: rs,
		Wakes: func(_ *kernel.View, e kernel.Event) []kernel.Key { return []kernel.Key{e.Key} },
		Decide: func(v *kernel.View, k kernel.Key, _ time.Time) kernel.Decision {
			to := &corev1.ConfigMap{}
			to.Namespace, to.Name = "d", "b"
			from, ok := v.Get(k)
			if _, done := v.Get(Plain{}.KeyOf(to)); k.Name != "a" || !ok || done {
				return kernel.Decision{}
			}
			to.Data = map[string]string{"value": value(from.(*corev1.ConfigMap))}
			return kernel.Decision{Changes: []kernel.Change{{Key: Plain{}.KeyOf(to), Object: to}}}
		}}
}

// The runner finds a decider that is not a function of its View alone, one
// that writes to the View's own objects, and one that replay would not follow.
func TestTheRunnerFindsWhatADeciderMustNot(t *testing.T) {
	calls := 0
	for name, c := range map[string]struct {
		value func(*corev1.ConfigMap) string
		want  string // in what the runner says; empty: it is content
	}{
		"honest":  {func(from *corev1.ConfigMap) string { return from.Data["value"] }, ""},
		"counts":  {func(*corev1.ConfigMap) string { calls++; return fmt.Sprint(calls) }, "decided twice"},
		"mutates": {func(from *corev1.ConfigMap) string { from.Data["value"] = "mine"; return "mine" }, "modified objects of its View"},
		"changes its mind": {func() func(*corev1.ConfigMap) string {
			asked := 0
			return func(*corev1.ConfigMap) string { asked++; return fmt.Sprint(asked > 2) } // alike in its story, not in replay
		}(), "replay: 1 of 1 changes are unexplained"},
	} {
		l := &listener{TB: t}
		w := NewWorld(l, Plain{}, copier(c.value))
		w.Put("user:u", kernel.Key{Resource: ConfigMaps, Namespace: "d", Name: "a"}, "", `{data: {value: "1"}}`)
		w.Settle()
		w.Replay()
		if len(w.Records()) != 2 || w.Records()[1].Source != "copier" || !slices.Equal(w.Records()[1].Cause, []kernel.Seq{1}) {
			t.Fatalf("%s: the story is %+v", name, w.Records())
		}
		if told := strings.Join(l.told, "\n"); c.want == "" && told != "" || !strings.Contains(told, c.want) {
			t.Errorf("%s: the runner says %q, want %q", name, told, c.want)
		}
	}
}
