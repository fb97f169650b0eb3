package oracle

import (
	"reflect"
	"slices"
	"strings"
)

// sortKeys brings the keys of a map, which are strings, into order.
func sortKeys(keys []reflect.Value) {
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
}

// sortStrings brings what was collected from maps into order.
func sortStrings(m map[string][]string, names ...string) {
	for _, n := range names {
		slices.Sort(m[n])
	}
}
