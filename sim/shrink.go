package sim

import (
	"errors"
	"slices"
)

// Shrink leaves out steps of a scenario that fails for as long as the same
// checker finds something in what is left, and returns the smallest that it
// found within a number of runs of play.
func Shrink(s Scenario, err error, runs int, play func(Scenario) error) Scenario {
	return shrink(s, runs, func(one Scenario) bool {
		e := play(one)
		return e != nil && checkerOf(e) == checkerOf(err)
	})
}

// shrink leaves out half of the steps, then quarters, down to single ones.
func shrink(s Scenario, runs int, fails func(Scenario) bool) Scenario {
	for size := (len(s.Steps) + 1) / 2; size > 0; {
		cut := false
		for at := 0; at < len(s.Steps) && runs > 0; runs-- {
			less := s
			less.Steps = slices.Concat(s.Steps[:at], s.Steps[min(at+size, len(s.Steps)):])
			if fails(less) {
				s, cut = less, true
			} else {
				at += size
			}
		}
		switch {
		case runs == 0:
			return s
		case size > 1:
			size = (size + 1) / 2
		case !cut:
			return s
		}
	}
	return s
}

// checkerOf names who found it.
func checkerOf(err error) string {
	var f finding
	errors.As(err, &f)
	return f.checker
}
