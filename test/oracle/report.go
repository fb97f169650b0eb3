package oracle

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/rutterhq/rutter/test/oraclecase"
)

// tally is what came out for one kind.
type tally struct {
	all, agreed map[oraclecase.Op]int
	accepted    int // by Kubernetes
	// differences counts what differs, in the form "errors: missing
	// FieldValueInvalid spec.ports[*].name"; a case counts once for each.
	differences map[string]int
	shown       []string // some of the cases that differ, whole
	recorded    []oraclecase.Recorded
	sampled     int // of the recorded ones, how many agree
}

// indices are what of a field's path says which of several it is.
var indices = regexp.MustCompile(`\[[^\]]*\]`)

// compare runs a case on both sides and counts.
func (t *tally) compare(of target, c oraclecase.Case, show int) (agree bool, theirs oraclecase.Answer) {
	k, r := guarded(func() *oraclecase.Outcome { return upstream(of, c) }), guarded(func() *oraclecase.Outcome { return oraclecase.Run(of.row, c) })
	theirs = k.Answer()
	t.all[c.Op]++
	if len(theirs.Errors) == 0 {
		t.accepted++
	}
	if r.Answer().Equal(theirs) {
		t.agreed[c.Op]++
		return true, theirs
	}
	found := differences(k, r)
	for _, d := range slices.Compact(slices.Sorted(slices.Values(generic(found)))) {
		t.differences[d]++
	}
	if len(t.shown) < show {
		t.shown = append(t.shown, fmt.Sprintf("%s %s\n  old %s\n  new %s", c.Op, strings.Join(found, "\n     "), c.Old, c.New))
	}
	return false, theirs
}

// guarded turns a panic into an outcome of its own.
func guarded(f func() *oraclecase.Outcome) (out *oraclecase.Outcome) {
	defer func() {
		if r := recover(); r != nil {
			out = &oraclecase.Outcome{Errors: []string{fmt.Sprintf("panic %v", r)}}
		}
	}()
	return f()
}

func generic(found []string) []string {
	out := make([]string, len(found))
	for i, d := range found {
		what, _, _ := strings.Cut(d, " = ")
		out[i] = indices.ReplaceAllString(what, "[*]")
	}
	return out
}

// differences names what differs between Kubernetes' outcome and ours.
func differences(k, r *oraclecase.Outcome) []string {
	var out []string
	for _, e := range k.Errors {
		if !slices.Contains(r.Errors, e) {
			out = append(out, "errors: missing "+e)
		}
	}
	for _, e := range r.Errors {
		if !slices.Contains(k.Errors, e) {
			out = append(out, "errors: extra "+e)
		}
	}
	defaulted := diff("", k.Defaulted, r.Defaulted)
	for _, d := range defaulted {
		out = append(out, "default: "+d)
	}
	if len(defaulted) == 0 {
		for _, d := range diff("", k.Prepared, r.Prepared) {
			out = append(out, "prepare: "+d)
		}
	}
	return out
}

// diff names the fields in which two JSON values differ.
func diff(path string, k, r any) []string {
	km, ok := k.(map[string]any)
	rm, too := r.(map[string]any)
	if ok && too {
		var out []string
		for _, f := range slices.Sorted(maps.Keys(merged(km, rm))) {
			out = append(out, diff(path+"."+f, km[f], rm[f])...)
		}
		return out
	}
	kl, ok := k.([]any)
	rl, too := r.([]any)
	if ok && too && len(kl) == len(rl) {
		var out []string
		for i := range kl {
			out = append(out, diff(fmt.Sprintf("%s[%d]", path, i), kl[i], rl[i])...)
		}
		return out
	}
	if reflect.DeepEqual(k, r) {
		return nil
	}
	return []string{fmt.Sprintf("%s = %v, ours %v", strings.TrimPrefix(path, "."), k, r)}
}

func merged(a, b map[string]any) map[string]any {
	m := maps.Clone(a)
	if m == nil {
		m = map[string]any{}
	}
	maps.Copy(m, b)
	return m
}

// sum adds up what is counted by operation.
func sum(m map[oraclecase.Op]int) int {
	n := 0
	for _, v := range m {
		n += v
	}
	return n
}

// top gives the most frequent differences first, equal ones by name.
func (t *tally) top(n int) []string {
	names := slices.SortedFunc(maps.Keys(t.differences), func(a, b string) int {
		if d := t.differences[b] - t.differences[a]; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return names[:min(n, len(names))]
}
