//go:build e2e

package test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rutterhq/rutter/internal/cli"
	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/controllers"
	"github.com/rutterhq/rutter/services/ingress"
	"github.com/rutterhq/rutter/services/scheduler"
)

// deciders are all that a cluster runs.
func deciders() []kernel.Decider {
	all := scheduler.Deciders()
	all = append(all, controllers.Deciders(controllers.Default())...)
	return append(all, ingress.Deciders()...)
}

// recordingFile is where the shop's recording is kept, for sim/logs.
var recordingFile = flag.String("recording", "", "keep the recording of TestShop in this file")

// replay makes every decision of the story again: from the cluster's log, from
// a recording, and with an error planted in each decider in turn.
func (s *story) replay() {
	file := filepath.Join(s.dir, "recording")
	s.rutter("record", "export", file)
	if *recordingFile != "" {
		b, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(*recordingFile, b, 0o644)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	var live, recorded history.Report
	for into, args := range map[*history.Report][]string{&live: {"replay", "-o", "json"}, &recorded: {"replay", file, "-o", "json"}} {
		out := s.command("", s.rutterBin, args...)
		if err := json.Unmarshal([]byte(out.out), into); err != nil {
			s.t.Fatalf("%v: %v %s", args, err, out.err)
		}
		if out.code != 0 || into.Unexplained > 0 {
			s.t.Errorf("rutter %s: exit code %d, %d unexplained\n%s", strings.Join(args, " "), out.code, into.Unexplained, into.First)
		}
	}
	decisions, changes := s.recorded(file)
	s.t.Logf("the recording: %d events, %d distinct decisions, %d events of deciders; replayed: %d decisions recomputed, %d changes compared, %d explained, %d unexplained",
		recorded.Events, decisions, changes, recorded.Decisions, recorded.Changes, recorded.Explained, recorded.Unexplained)
	if recorded.Decisions != decisions || recorded.Changes != changes {
		s.t.Errorf("the recording holds %d distinct decisions and %d events of deciders", decisions, changes)
	}
	for _, d := range deciders() {
		count := recorded.ByDecider[d.Name]
		if count == nil && d.Name == "controllers/events" {
			continue // it decides after an hour: TestAPlantInExpiryIsFound plants into it
		}
		if count == nil {
			s.t.Errorf("%s decided nothing in the whole story", d.Name)
			continue
		}
		s.t.Logf("%-28s %5d decisions %5d changes", d.Name, count.Decisions, count.Changes)
		s.plant(file, d)
	}
}

// recorded counts what a recording holds, independently of who replays it: the
// distinct decisions, and the events whose source is a decider.
func (s *story) recorded(file string) (decisions, changes int) {
	f, err := os.Open(file)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	recording, err := history.OpenRecording(f)
	if err != nil {
		s.t.Fatal(err)
	}
	sources := map[string]bool{}
	for _, d := range deciders() {
		sources[d.Name] = true
	}
	distinct := map[string]bool{}
	for r, err := range recording.Past().Records {
		if err != nil {
			s.t.Fatal(err)
		}
		if (r.Decision != nil) != sources[r.Source] {
			s.t.Errorf("event %d is of %s, its decision is %v", r.Seq, r.Source, r.Decision)
		}
		if sources[r.Source] {
			changes++
			distinct[fmt.Sprint(r.Decision.Decider, r.Decision.Key, r.Seen, r.Time.UnixNano())] = true
		}
		if strings.Contains(string(r.Body), "bm90LWZvci1wcm9kdWN0aW9u") || strings.Contains(string(r.Body), "not-for-production") {
			s.t.Errorf("event %d shows the password of Redis", r.Seq)
		}
	}
	return len(distinct), changes
}

// plant changes one constant in a decider. Replay has to find it and to name it.
func (s *story) plant(file string, d kernel.Decider) {
	s.t.Helper()
	planted := d
	planted.Decide = func(v *kernel.View, k kernel.Key, now time.Time) kernel.Decision {
		decision := d.Decide(v, k, now)
		decision.Changes = slices.Clone(decision.Changes)
		for i := range decision.Changes {
			c := &decision.Changes[i]
			if c.Object == nil {
				c.Note += "!"
				continue
			}
			labels := map[string]string{"planted": "yes"}
			for k, v := range c.Object.GetLabels() {
				labels[k] = v
			}
			c.Object.SetLabels(labels)
		}
		return decision
	}
	report, err := cli.ReplayFile(file, func(cluster string) *history.Replayer {
		return &history.Replayer{Schema: &kinds.Schema{Cluster: cluster}, Deciders: []kernel.Decider{planted}}
	}, "")
	if err != nil {
		s.t.Fatal(err)
	}
	count := report.ByDecider[d.Name]
	if count == nil || count.Unexplained < count.Changes || !strings.HasPrefix(report.First, d.Name+" on ") ||
		!strings.Contains(report.First, "planted") && !strings.Contains(report.First, "!") {
		s.t.Errorf("an error planted in %s: %+v\n%s", d.Name, count, report.First)
	}
}
