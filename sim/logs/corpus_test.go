package logs

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kernel/kerneltest"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/controllers"
	"github.com/rutterhq/rutter/services/scheduler"
	"github.com/rutterhq/rutter/sim"
)

var again = flag.Int("again", 2, "how often TestAgain replays the corpus")

// updating tells whether -update is given, which is kerneltest's.
func updating() bool { return flag.Lookup("update").Value.String() == "true" }

// TestMain has -update see what it has just written.
func TestMain(m *testing.M) {
	flag.Parse()
	if updating() {
		files = os.DirFS(".")
	}
	os.Exit(m.Run())
}

// told are the recordings that are made of stories, by their first process.
var told = []string{"expiry", "rollout", "nodeloss", "refused"}

// cluster is the uid of the clusters of stories.
const cluster = "5eed0000-0000-4000-8000-000000000000"

// simulated are the recordings that the simulator makes.
var simulated = map[string]struct {
	seed  uint64
	steps int
	crowd int
}{
	"leaders": {11, 8000, 1},
	"storm":   {23, 20_000, 4},
}

// crowd gives the simulator's two leaders of each service so many fellows.
func crowd(n int) [][]kernel.Decider {
	var all [][]kernel.Decider
	for range n {
		all = append(all, controllers.Deciders(controllers.Default()), scheduler.Deciders())
	}
	return all
}

// TestStories tells the stories and, with -update, records them.
func TestStories(t *testing.T) {
	for _, name := range told {
		t.Run(name, func(t *testing.T) {
			w := kerneltest.Scenario(t, filepath.Join("testdata", name+".txtar"), &kinds.Schema{Cluster: cluster}, Deciders()...)
			record(t, name, w.Records())
		})
	}
}

// TestSimulated runs the worlds of the corpus again when it is to be recorded:
// the simulator's own tests look after it otherwise.
func TestSimulated(t *testing.T) {
	if !updating() {
		return
	}
	for name, o := range simulated {
		s := sim.Generate(o.seed, o.steps)
		s.Unlimited = true // what a quota refuses, no other build refuses
		w, err := sim.RunWith(s, crowd(o.crowd))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		t.Logf("%s: %v", name, w.Counts())
		record(t, name, w.Records())
	}
}

// record writes a recording, with -update, if it would be another.
func record(t *testing.T, name string, records []kernel.Record) {
	t.Helper()
	if !updating() || t.Failed() {
		return
	}
	if err := os.WriteFile(name+".rec", recording(t, records), 0o644); err != nil {
		t.Fatal(err)
	}
}

// recording is a log as a recording.
func recording(t *testing.T, records []kernel.Record) []byte {
	t.Helper()
	var b bytes.Buffer
	out, err := history.NewRecorder(&b, history.Heading{Cluster: cluster, To: kernel.Seq(len(records))})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if err := out.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestCorpus replays every recording, and compares how that went with how it
// did when somebody last looked.
func TestCorpus(t *testing.T) {
	var got strings.Builder
	fmt.Fprintf(&got, "%-10s %7s %9s %8s %9s %11s  %s\n", "recording", "events", "decisions", "changes", "explained", "unexplained", "digest of all results")
	for _, name := range Names() {
		r, err := Replay(name, Deciders())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&got, "%-10s %7d %9d %8d %9d %11d  %s\n", name, r.Events, r.Decisions, r.Changes, r.Explained, r.Unexplained, r.Digest)
		if r.Unstable+r.Modified > 0 || len(r.Differences) > 0 && r.Differences[0].Results > 1 {
			t.Errorf("%s: a decider is not a function of what it sees:\n%s", name, r.First)
		}
		for _, d := range r.Differences {
			fmt.Fprintf(&got, "    differs: %s on %s, seen %d: %s\n", d.Decider, d.Key, d.Seen, d.Object)
		}
		if r.Unexplained > 0 {
			t.Logf("%s: the first difference, of %d:\n%s", name, r.Unexplained, r.First)
		}
		for decider, c := range r.ByDecider { // in no order: a log for people
			t.Logf("%-10s %-28s %5d decisions %5d changes", name, decider, c.Decisions, c.Changes)
		}
	}
	if updating() {
		if err := os.WriteFile("corpus.txt", []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("corpus.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("this build decides otherwise than the one that corpus.txt is of: see `rutter replay sim/logs/NAME.rec --what-if`, and if it is meant, go test ./sim/logs -update (-want +got):\n%s", diff)
	}
}

// digests are what all decisions of the corpus come to here.
func digests(t testing.TB) string {
	var b strings.Builder
	for _, name := range Names() {
		r, err := Replay(name, Deciders())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&b, name, r.Digest)
	}
	return b.String()
}

// TestAgain replays the corpus over and over, all recordings at once: every time
// each decision comes to the same, to the byte, as on the machine that wrote
// corpus.txt. It needs no file but this program: deploy/replay.sh runs it elsewhere.
func TestAgain(t *testing.T) {
	corpus, err := fs.ReadFile(files, "corpus.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range Names() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			equal := 0
			for range *again {
				r, err := Replay(name, Deciders())
				if err != nil {
					t.Fatal(err)
				}
				if bytes.Contains(corpus, []byte(r.Digest+"\n")) {
					equal++
				}
			}
			if equal != *again {
				t.Errorf("equal in %d of %d", equal, *again)
			}
			t.Logf("equal in %d of %d", equal, *again)
		})
	}
}

// childDigests, set in the environment, makes TestInAnotherProcess only write
// the digests.
const childDigests = "RUTTER_TEST_DIGESTS"

// TestInAnotherProcess replays the corpus in processes with other seeds of
// their maps, and with another number of processors, time zone and language.
func TestInAnotherProcess(t *testing.T) {
	if os.Getenv(childDigests) != "" {
		fmt.Printf("digests of %d processors\n%s", runtime.GOMAXPROCS(0), digests(t))
		return
	}
	want := digests(t)
	for _, n := range []int{1, 7} {
		c := exec.Command(os.Args[0], "-test.run=^TestInAnotherProcess$")
		c.Env = []string{childDigests + "=1", fmt.Sprint("GOMAXPROCS=", n), "TZ=Asia/Kathmandu", "LANG=tr_TR.UTF-8", "GOGC=20"}
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if !strings.Contains(string(out), fmt.Sprintf("digests of %d processors\n%s", n, want)) {
			t.Errorf("with %d processors (want, got):\n%s\n%s", n, want, out)
		}
	}
}

// TestCorpusIsWhole finds a recording that is missing, and a decider of which the
// corpus holds no decision: nobody would see that it decides otherwise.
func TestCorpusIsWhole(t *testing.T) {
	for _, name := range append([]string{"shop", "leaders", "storm"}, told...) {
		if !slices.Contains(Names(), name) {
			t.Errorf("there is no %s.rec: see doc.go", name)
		}
	}
	heard := map[string]bool{}
	for _, name := range Names() {
		rec, err := Open(name)
		if err != nil {
			t.Fatal(err)
		}
		for r, err := range rec.Past().Records {
			if err != nil {
				t.Fatal(err)
			}
			if r.Decision != nil {
				heard[r.Decision.Decider] = true
			}
		}
	}
	for _, d := range Deciders() {
		if !heard[d.Name] {
			t.Errorf("no recording has a decision of %s", d.Name)
		}
	}
}

// BenchmarkCorpus replays the corpus: real deciders, small clusters.
func BenchmarkCorpus(b *testing.B) {
	for _, name := range Names() {
		b.Run(name, func(b *testing.B) {
			var r *history.Report
			var err error
			for b.Loop() {
				if r, err = Replay(name, Deciders()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(r.Events)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64(r.Decisions)*float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
		})
	}
}
