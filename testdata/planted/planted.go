// Package planted is what no decider may be: TestPlantsAreSeenInTheSource looks
// for each of these.
package planted

import (
	"maps"
	"math/rand/v2"
	"os"
	"time"
)

func order(m map[string]int) (out []string) {
	for k := range m {
		out = append(out, k)
	}
	// The same, by an iterator.
	for k := range maps.Keys(m) {
		out = append(out, k)
	}
	for range m { // in no order: nothing is looked at
		out = append(out, "")
	}
	return append(out, time.Now().String(), os.Getenv("HOME"), string(rune(rand.Int())))
}

func share(a, b int) bool { return float64(a)/float64(b) > 0.5 }

var _, _ = order, share
