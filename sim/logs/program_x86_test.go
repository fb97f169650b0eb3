//go:build linux && (amd64 || 386)

package logs

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// childPlanted, set in the environment, makes TestInAnotherProgram only replay
// the recording of this file, with the plant in it.
const childPlanted = "RUTTER_TEST_PLANTED"

// tooOld is what a program says that the processor cannot run.
const tooOld = "can only be run on AMD64 processors with"

// TestInAnotherProgram replays the corpus with programs that are compiled for
// other processors: 386, where an int has 32 bits, and amd64 with fused floating
// point. And a decider that computes x*y+z is found where that is rounded
// otherwise than here.
func TestInAnotherProgram(t *testing.T) {
	if file := os.Getenv(childPlanted); file != "" {
		replayPlanted(t, file)
		return
	}
	deciders := planted(byMachine)
	records, told := tell(t, deciders)
	if len(told) > 0 {
		t.Error(told)
	}
	planted := filepath.Join(t.TempDir(), "planted.rec")
	if err := os.WriteFile(planted, recording(t, records), 0o600); err != nil {
		t.Fatal(err)
	}
	fusesHere := byMachine(nil, kernel.Key{}, time.Time{}) != "0"
	for target, fuses := range map[string]bool{"GOARCH=386": false, "GOAMD64=v3": true} {
		t.Run(target, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			program := filepath.Join(dir, "replay")
			build := exec.Command("go", "test", "-c", "-o", program, ".")
			build.Env = append(os.Environ(), "CGO_ENABLED=0", target)
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			run := func(test string, env ...string) string {
				c := exec.Command(program, "-test.run=^"+test+"$", "-test.v", "-again=1")
				c.Dir, c.Env = dir, env // it has all that it needs
				out, err := c.CombinedOutput()
				if err != nil && !strings.Contains(string(out), tooOld) {
					t.Fatalf("%v\n%s", err, out)
				}
				return string(out)
			}
			out := run("TestAgain")
			if strings.Contains(out, tooOld) {
				t.Log(out)
				return
			}
			if strings.Count(out, "equal in 1 of 1") != len(Names()) {
				t.Errorf("of %d recordings there are equal:\n%s", len(Names()), out)
			}
			out = run("TestInAnotherProgram", childPlanted+"="+planted)
			found := strings.Contains(out, "it had the same result: the build or the machine decides otherwise") && strings.Contains(out, "metadata.annotations.planted")
			if want := fuses != fusesHere; found != want {
				t.Errorf("floating point is found: %t, want %t\n%s", found, want, out)
			}
		})
	}
}

// replayPlanted prints what is found in a recording of deciders that computed
// elsewhere.
func replayPlanted(t *testing.T, file string) {
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r, err := history.OpenRecording(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	p := &history.Replayer{Schema: &kinds.Schema{Cluster: cluster}, Deciders: planted(byMachine), Times: 3}
	report, err := p.Replay(r.Past())
	if err != nil || report.Decisions == 0 {
		t.Fatalf("%v: %+v", err, report)
	}
	fmt.Println(report.First)
}
