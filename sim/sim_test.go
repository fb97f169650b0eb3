package sim

import (
	"bytes"
	"flag"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	seeds = flag.Int("seeds", 10, "how many seeds to run")
	seed  = flag.Uint64("seed", 0, "run this seed only, and show its last events")
)

// steps is how long each world has faults.
const steps = 4000

// options are what a seed stands for: every third world is calm.
func options(seed uint64) Options { return Options{Seed: seed, Steps: steps, Calm: seed%3 == 0} }

func TestSeeds(t *testing.T) {
	t.Parallel()
	from, to := uint64(1), uint64(*seeds)
	if *seed > 0 {
		from, to = *seed, *seed
	}
	var sum Result
	types := map[string]int{}
	for s := from; s <= to; s++ {
		w, err := Run(options(s))
		if err != nil {
			tell(t, w)
			t.Fatalf("%v\nagain: go test ./sim -run TestSeeds -seed %d -v", err, s)
		}
		r := w.Result()
		sum.Events += r.Events
		sum.Crashes += r.Crashes
		sum.Conflicts += r.Conflicts
		sum.Lost += r.Lost
		sum.Late += r.Late
		sum.Simulated += r.Simulated
		for _, rec := range w.Records() {
			types[rec.Source+" "+rec.Type]++
		}
	}
	t.Logf("%d seeds: %.1f simulated hours, %d events, %d crashes, %d conflicts, %d lost answers, %d late writes",
		to-from+1, sum.Simulated.Hours(), sum.Events, sum.Crashes, sum.Conflicts, sum.Lost, sum.Late)
	for _, what := range slices.Sorted(maps.Keys(types)) {
		t.Logf("%7d %s", types[what], what)
	}
	if sum.Crashes == 0 || sum.Lost == 0 || sum.Conflicts == 0 {
		t.Error("too little went wrong")
	}
}

// tell shows the last events of a world.
func tell(t *testing.T, w *World) {
	rs := w.Records()
	for _, r := range rs[max(0, len(rs)-60):] {
		t.Logf("%6d %s %-26s %-24s %s expecting %d, seen %d  %s", r.Seq, r.Time.Format("15:04:05.000"), r.Source, r.Type, r.Key, r.Expect, r.Seen, r.Note)
	}
}

// TestSameSeedSameLog runs a world twice.
func TestSameSeedSameLog(t *testing.T) {
	t.Parallel()
	var logs [2][]byte
	for i := range logs {
		w, err := Run(options(1))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range w.Records() {
			line, err := r.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			logs[i] = append(append(logs[i], line...), '\n')
		}
	}
	if !bytes.Equal(logs[0], logs[1]) {
		t.Error(cmp.Diff(string(logs[0]), string(logs[1])))
	}
}
