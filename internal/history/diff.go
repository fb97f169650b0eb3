package history

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
)

func parseKey(s string) (kernel.Key, error) { return events.ParseKey(s) }

// FieldChange is one field that differs between two versions of an object.
type FieldChange struct {
	Path string `json:"path"` // such as spec.containers[web].image
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
}

// String gives "+ path: new", "- path: old" or "~ path: old → new".
func (c FieldChange) String() string {
	switch {
	case c.Old == "":
		return fmt.Sprintf("+ %s: %s", c.Path, c.New)
	case c.New == "":
		return fmt.Sprintf("- %s: %s", c.Path, c.Old)
	}
	return fmt.Sprintf("~ %s: %s → %s", c.Path, c.Old, c.New)
}

// Diff lists the fields that differ between two JSON bodies, in the order of
// their paths. Either may be empty. Elements of lists that have a name, type,
// ip or key are named by it, others by their index.
func Diff(before, after []byte) []FieldChange {
	a, b := flatten(before), flatten(after)
	var paths []string
	for p := range a {
		paths = append(paths, p)
	}
	for p := range b {
		if _, ok := a[p]; !ok {
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	var out []FieldChange
	for _, p := range paths {
		if a[p] != b[p] {
			out = append(out, FieldChange{Path: p, Old: a[p], New: b[p]})
		}
	}
	return out
}

func flatten(body []byte) map[string]string {
	out := map[string]string{}
	var v any
	if len(body) == 0 || json.Unmarshal(body, &v) != nil {
		return out
	}
	walk(out, "", v)
	return out
}

func walk(out map[string]string, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 {
			out[path] = "{}"
		}
		for k, e := range v {
			if strings.ContainsAny(k, "./") {
				k = fmt.Sprintf("[%s]", k)
			} else if path != "" {
				k = "." + k
			}
			walk(out, path+k, e)
		}
	case []any:
		if len(v) == 0 {
			out[path] = "[]"
		}
		for i, e := range v {
			walk(out, fmt.Sprintf("%s[%s]", path, nameOf(i, e)), e)
		}
	default:
		b, err := json.Marshal(v)
		if err != nil {
			panic(err) // it was just decoded
		}
		out[path] = string(b)
	}
}

// nameOf names an element of a list by what Kubernetes merges such lists by.
func nameOf(i int, e any) string {
	if m, ok := e.(map[string]any); ok {
		for _, key := range []string{"name", "type", "ip", "uid"} {
			if s, ok := m[key].(string); ok {
				return s
			}
		}
	}
	return fmt.Sprint(i)
}
