package oracle

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/rutterhq/rutter/test/oraclecase"
)

var (
	update = flag.Bool("update", false, "write docs/oracle.md and kinds/testdata/oracle.json.gz")
	only   = flag.String("kind", "", "the plural of the only kind to compare")
	show   = flag.Int("show", 0, "print so many of the cases that differ, and all kinds of differences")
	seed   = flag.Uint64("seed", 20261123, "seed of the fuzzer")
)

// kubernetes is the version that answers.
const kubernetes = "v1.37.2"

const (
	recordPath = "../../kinds/testdata/oracle.json.gz"
	docPath    = "../../docs/oracle.md"
)

// recordedCases is about how many cases of a kind the record holds, chosen
// evenly among all.
const recordedCases = 400

// goal is the least share of a kind that must agree, in percent.
const goal = 95

// TestOracle compares every kind with Kubernetes. It fails for a kind that
// agrees in less than the goal.
func TestOracle(t *testing.T) {
	results := map[string]*tally{}
	for _, of := range targets {
		plural := of.row.Describe().Resource.Plural
		if *only != "" && plural != *only {
			continue
		}
		t.Run(plural, func(t *testing.T) {
			r := compareKind(t, of)
			results[plural] = r
			share := float64(100*sum(r.agreed)) / float64(sum(r.all))
			t.Logf("%.2f %% of %d agree, %d accepted: create %d/%d, update %d/%d, status %d/%d", share, sum(r.all), r.accepted,
				r.agreed[oraclecase.Create], r.all[oraclecase.Create], r.agreed[oraclecase.Update], r.all[oraclecase.Update],
				r.agreed[oraclecase.Status], r.all[oraclecase.Status])
			if share < goal {
				t.Errorf("%.2f %% agree, less than %d %%", share, goal)
			}
			for _, d := range r.top(*show * 4) {
				t.Logf("%5d %s", r.differences[d], d)
			}
			for _, s := range r.shown {
				t.Log(s)
			}
		})
	}
	if *update {
		write(t, results)
	}
}

func compareKind(t *testing.T, of target) *tally {
	all, err := cases(of, *seed)
	if err != nil {
		t.Fatal(err)
	}
	r := &tally{all: map[oraclecase.Op]int{}, agreed: map[oraclecase.Op]int{}, differences: map[string]int{}}
	every := max(1, len(all)/recordedCases)
	for i, c := range all {
		agree, answer := r.compare(of, c, *show)
		if i%every != 0 {
			continue
		}
		r.recorded = append(r.recorded, oraclecase.Recorded{Case: c, Answer: answer})
		if agree {
			r.sampled++
		}
	}
	return r
}

// write writes the record and the page of figures. Kinds that were not
// compared now keep what the record has; for the page all are needed.
func write(t *testing.T, results map[string]*tally) {
	record := &oraclecase.File{Kubernetes: kubernetes, Kinds: map[string]oraclecase.Kind{}}
	if old, err := os.ReadFile(recordPath); err == nil && *only != "" {
		if record, err = oraclecase.Read(bytes.NewReader(old)); err != nil {
			t.Fatal(err)
		}
	}
	for plural, r := range results {
		record.Kinds[plural] = oraclecase.Kind{Agreed: r.sampled, Cases: r.recorded}
	}
	var b bytes.Buffer
	if err := record.Write(&b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(recordPath, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if *only != "" {
		return
	}
	if err := os.WriteFile(docPath, []byte(page(results)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// page is docs/oracle.md.
func page(results map[string]*tally) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# What Kubernetes says

For every kind a corpus and seeded, fuzzed objects go through the defaulting, preparation and validation of Kubernetes %s
and through ours. They agree on a case if the defaulted object, the prepared object and the set of (error type, field) are
equal; what kubectl get -o wide shows and what field selectors may name is compared, too. How it works: test/oracle. This page and the record that `+"`make test`"+` checks (kinds/testdata/oracle.json.gz) are
written by `+"`cd test/oracle && go test -update ./...`"+`; do not edit them.

| kind | create | update | status | all | of them valid | agree |
|---|---|---|---|---|---|---|
`, kubernetes)
	for _, of := range targets {
		r := results[of.row.Describe().Resource.Plural]
		ratio := func(op oraclecase.Op) string {
			if r.all[op] == 0 {
				return "–"
			}
			return fmt.Sprintf("%d/%d", r.agreed[op], r.all[op])
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %d | %d | %.2f %% |\n", of.row.Describe().Kind, ratio(oraclecase.Create), ratio(oraclecase.Update),
			ratio(oraclecase.Status), sum(r.all), r.accepted, float64(100*sum(r.agreed))/float64(sum(r.all)))
	}
	b.WriteString("\n## What differs most\n\nThe number says in how many cases. \"missing\" is what Kubernetes says and we do not, \"extra\" the reverse.\n")
	for _, of := range targets {
		r := results[of.row.Describe().Resource.Plural]
		limit := 8
		if of.row.Describe().Kind == "Pod" {
			limit = 100
		}
		if len(r.differences) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n### %s\n\n", of.row.Describe().Kind)
		for _, d := range r.top(limit) {
			fmt.Fprintf(&b, "- %d: %s\n", r.differences[d], d)
		}
	}
	return b.String()
}
