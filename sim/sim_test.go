package sim

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
)

var (
	seeds = flag.Int("seeds", 4, "how many seeds to run")
	seed  = flag.Uint64("seed", 0, "run this seed only, and show its last events")
	last  = flag.Int("last", 60, "how many of the last events of a failing world to show")
	from  = flag.Uint64("from", 1, "the first seed")
	tries = flag.Int("shrink", 150, "how many worlds may be played to make a failing one smaller")
	keep  = flag.String("keep", "", "a folder into which is written what failing seeds shrink to; empty: nothing is written")
)

// progress is after how many seeds it is said how far it is: with -v that is seen
// at once.
const progress = 500

// steps is how long each world has faults.
const steps = 5000

// maxExplained bounds how many failing seeds are shrunk and shown, one for each
// checker: a soak of a night that finds two errors shall tell of both, and one in
// which everything fails shall end.
const maxExplained = 5

// tally is what many worlds showed.
type tally struct {
	seeds           uint64     // as many as were to be played
	mu              sync.Mutex // protects the following, while worlds are played
	counts          map[string]int
	simulated, took time.Duration
	events, played  int // of worlds in which nothing was found
	failures        int
	explained       map[string]bool // by checker
}

// playSeeds plays the worlds of n seeds, or the one that was asked for. What fails
// is shrunk.
func playSeeds(t *testing.T, n int, generate func(seed uint64) Scenario) *tally {
	t.Helper()
	first, end := *from, *from+uint64(n)-1
	if *seed > 0 {
		first, end = *seed, *seed
	}
	all := &tally{seeds: end - first + 1, counts: map[string]int{}, explained: map[string]bool{}}
	began := time.Now()
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for s := first; s <= end; s++ {
		g.Go(func() error {
			w, err := Run(generate(s))
			all.mu.Lock()
			defer all.mu.Unlock()
			if err != nil {
				all.fail(t, generate(s), err)
				return nil
			}
			all.add(w)
			if *seed > 0 {
				tell(t, w)
			}
			if all.played%progress == 0 {
				t.Logf("%d of %d seeds after %.0f s; %d events, %d acknowledged writes",
					all.played, all.seeds, time.Since(began).Seconds(), all.events, all.counts["acknowledged write"])
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	all.took = time.Since(began)
	return all
}

// fail notes what was found in a world, and explains the first of each checker.
func (all *tally) fail(t *testing.T, s Scenario, err error) {
	all.failures++
	t.Errorf("%v", err)
	if by := checkerOf(err); !all.explained[by] && len(all.explained) < maxExplained {
		all.explained[by] = true
		explain(t, s, err)
	}
}

// add counts a world in which nothing was found.
func (all *tally) add(w *World) {
	for what, n := range shown(w) {
		all.counts[what] += n
	}
	for _, r := range w.Records() {
		if r.Decision != nil {
			all.counts["decided by "+r.Decision.Decider]++
		}
	}
	all.events += len(w.Records())
	all.simulated += w.Simulated()
	all.played++
}

// expect fails if something was not seen: worlds in which it does not happen
// test less than they claim.
func (all *tally) expect(t *testing.T, what ...string) {
	t.Helper()
	for _, one := range lacking(all.counts, what) {
		t.Errorf("nothing was seen of: %s", one)
	}
}

// TestSeeds plays worlds.
func TestSeeds(t *testing.T) {
	all := playSeeds(t, *seeds, func(seed uint64) Scenario { return Generate(seed, steps) })
	t.Logf("%d seeds: %.0f simulated hours in %.0f s: %.1f hours per second; %d events",
		all.seeds, all.simulated.Hours(), all.took.Seconds(), all.simulated.Hours()/all.took.Seconds(), all.events)
	for _, what := range slices.Sorted(maps.Keys(all.counts)) {
		t.Logf("%8d %s", all.counts[what], what)
	}
	if *seed > 0 || all.failures > 0 || *seeds < 4 {
		return
	}
	all.expect(t, exercised...)
	if *seeds >= 10 {
		all.expect(t, rare...)
		for _, d := range slices.Concat(DefaultDeciders()...) {
			all.expect(t, "decided by "+d.Name)
		}
	}
}

// exercised must be seen in four seeds, and rare in ten.
var (
	exercised = []string{
		"conflict", "late write", "lost answer to a decider", "lost answer to an apiserver", "lost answer to a client",
		"crash of a decider's process", "crash of an apiserver", "jump of a clock", "cut stream", "restart of an agent",
		"second agent of a node", "death of a node", "node cut off", "return of a node", "apiserver cut off", "words lost", "acknowledged write",
		"snapshot", "horizon", "purge", "start from a state that was kept",
		"user: scales", "user: sets an image", "user: rolls back", "user: deletes a pod", "user: applies", "user: applies what is not there", "user: patches", "user: wants no namespaces", "user: wants no deployments",
		"event: pod.bound", "event: node.silent", "event: node.heard", "event: pod.evicted", "event: ipaddress.claimed", "event: ipaddress.released",
		"event: ingress.addressed", "event: refusal.begun", "event: refusal.repeated", "event: refusal.ended",
		"decided by scheduler", "decided by controllers/deployment", "decided by controllers/replicaset", "decided by controllers/garbage",
	}
	rare = []string{
		"user: told of a conflict", "node: crash", "node: out of memory", "node: pull failed", "node: liveness probe fails",
		"apiserver let its nodes go", "node lost for good", "user: notes an Event", "event: event.expired",
	}
)

// connectionSteps is how long a world of TestConnections has faults.
const connectionSteps = 200

// TestConnections plays worlds in which nothing happens but that nodes and
// apiservers lose one another, a hundred times as many as whole ones.
func TestConnections(t *testing.T) {
	t.Parallel()
	all := playSeeds(t, 100**seeds, func(seed uint64) Scenario { return GenerateConnections(seed, connectionSteps) })
	if *seed > 0 {
		return
	}
	all.expect(t, "crash of an apiserver", "cut stream", "restart of an agent", "second agent of a node", "death of a node", "node cut off", "return of a node",
		"apiserver cut off", "apiserver let its nodes go", "words lost", "event: node.silent", "event: node.heard")
	t.Logf("%d seeds: %d apiservers cut off, %d nodes called silent", all.seeds, all.counts["apiserver cut off"], all.counts["event: node.silent"])
}

// explain shrinks what failed, and shows it with its last events.
func explain(t *testing.T, s Scenario, err error) {
	small := Shrink(s, err, *tries, func(s Scenario) error {
		_, err := Run(s)
		return err
	})
	w, err := Run(small)
	tell(t, w)
	by := checkerOf(err)
	text, err := scenarioText(small, err)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the smallest scenario that was found, of %d steps:\n%s", len(small.Steps), text)
	t.Logf("again: go test ./sim -run %s -seed %d -v", t.Name(), s.Seed)
	if err := keepScenario(*keep, by, s.Seed, text); err != nil {
		t.Error(err)
	}
}

// keepScenario writes a scenario into a folder, named after who found something
// and the seed. Of several one does not overwrite the other.
func keepScenario(dir, by string, seed uint64, text []byte) error {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%d.txt", cmp.Or(by, "world"), seed)), text, 0o644)
}

// scenarioText is what is kept of a scenario, and of what was found.
func scenarioText(s Scenario, found error) ([]byte, error) {
	var text bytes.Buffer
	for line := range strings.Lines(found.Error()) {
		fmt.Fprintf(&text, "# %s\n", strings.TrimSpace(line))
	}
	err := s.Write(&text)
	return text.Bytes(), err
}

// readScenario reads what was kept.
func readScenario(file string) (Scenario, error) {
	f, err := os.Open(file)
	if err != nil {
		return Scenario{}, err
	}
	defer f.Close()
	return Parse(f)
}

// tell shows the last events of a world.
func tell(t *testing.T, w *World) {
	rs := w.Records()
	for _, r := range rs[max(0, len(rs)-*last):] {
		t.Logf("%6d %s %-26s %-24s %s expecting %d, seen %d  %s", r.Seq, r.Time.Format("15:04:05.000"), r.Source, r.Type, r.Key, r.Expect, r.Seen, r.Note)
	}
}

// needsPrefix begins the lines of a kept scenario that say what it has to show.
// When the model changes, a number may come to mean another step, and what once
// failed would pass because it does not happen any more.
const needsPrefix = "# needs: "

// needs are what a kept scenario has to show: what a world counts, or
// "event: " and a type.
func needs(file string) ([]string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all []string
	for line := range strings.Lines(string(text)) {
		if what, ok := strings.CutPrefix(strings.TrimSpace(line), needsPrefix); ok {
			all = append(all, what)
		}
	}
	return all, nil
}

// shown is how often what happened in a world, events by their types too.
func shown(w *World) map[string]int {
	counts := maps.Clone(w.Counts())
	for _, r := range w.Records() {
		counts["event: "+r.Type]++
	}
	return counts
}

// lacking is what is wanted and was not shown.
func lacking(shown map[string]int, want []string) []string {
	return slices.DeleteFunc(slices.Clone(want), func(what string) bool { return shown[what] > 0 })
}

// TestKeptSeeds plays what once failed, and sees that it still happens.
func TestKeptSeeds(t *testing.T) {
	files, err := filepath.Glob("testdata/seeds/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no seeds were kept: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			s, err := readScenario(file)
			if err != nil {
				t.Fatal(err)
			}
			want, err := needs(file)
			if err != nil || len(want) == 0 {
				t.Fatalf("no line %q says what it has to show (%v)", needsPrefix, err)
			}
			w, err := Run(s)
			if err != nil {
				tell(t, w)
				t.Error(err)
			}
			have := shown(w)
			for _, what := range lacking(have, want) {
				t.Errorf("it tests nothing any more, for it does not show: %s", what)
			}
			t.Logf("it shows: %s", strings.Join(slices.Sorted(maps.Keys(have)), ", "))
		})
	}
}

// TestSameSeedSameLog runs a world twice.
func TestSameSeedSameLog(t *testing.T) {
	t.Parallel()
	var logs [2][]byte
	for i := range logs {
		w, err := Run(Generate(1, steps/4))
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
		t.Error(gocmp.Diff(string(logs[0]), string(logs[1])))
	}
}

// TestScenarioText reads what was written.
func TestScenarioText(t *testing.T) {
	t.Parallel()
	s := Generate(7, 50)
	s.Unlimited = true
	var text bytes.Buffer
	if err := s.Write(&text); err != nil {
		t.Fatal(err)
	}
	again, err := Parse(&text)
	if err != nil {
		t.Fatal(err)
	}
	if d := gocmp.Diff(s, again); d != "" {
		t.Error(d)
	}
	if _, err := Parse(bytes.NewBufferString("dance 1\n")); err == nil {
		t.Error("a verb that does not exist was read")
	}
}

// TestFindingsAreNamed: by its name two findings are told to be of one checker.
func TestFindingsAreNamed(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("seed 1: %w", found(&bindings{}, errors.New("twice")))
	if got := checkerOf(err); got != "bindings" {
		t.Errorf("found by %q", got)
	}
}
