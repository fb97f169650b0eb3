package faults

import (
	"os"
	"testing"
	"time"
)

// clockEnv says what the time of day does in this process: "jumps" with the
// overlay of test/jumpingclock, else nothing of its own.
const clockEnv = "RUTTER_TEST_CLOCK"

// TestClock sees that the clock of this run is the one that was asked for. All
// that the other tests say of a clock that jumps rests on an overlay, which
// go test would leave out without a word if the package it replaces moved.
func TestClock(t *testing.T) {
	t.Parallel()
	const (
		far     = time.Minute     // a jump is up to hours, and no clock is set by as much by itself
		patient = 3 * time.Second // within which ten jumps are due
		plain   = time.Second     // three would be
	)
	jumps := os.Getenv(clockEnv) == "jumps"
	watch := plain
	if jumps {
		watch = patient
	}
	over, look := time.After(watch), time.NewTicker(50*time.Millisecond)
	defer look.Stop()
	began := time.Now()
	for {
		select {
		case <-look.C:
			now := time.Now()
			// Round takes the monotonic reading away.
			moved := now.Round(0).Sub(began.Round(0)) - now.Sub(began)
			switch {
			case moved.Abs() <= far:
			case jumps:
				t.Logf("after %s the time of day had moved by %s", now.Sub(began), moved)
				return
			default:
				t.Fatalf("without %s=jumps the time of day moved by %s within %s", clockEnv, moved, now.Sub(began))
			}
		case <-over:
			if jumps {
				t.Fatalf("the time of day did not jump within %s: was the overlay of test/jumpingclock used?", watch)
			}
			return
		}
	}
}
