package oraclecase_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/kinds/rutterv1"
	"github.com/rutterhq/rutter/test/oraclecase"
)

// TestOracleRecord holds the rows to what Kubernetes answered when the oracle
// last ran (test/oracle): in no kind may fewer of the recorded cases agree than
// did then. docs/oracle.md has the figures of the whole run.
func TestOracleRecord(t *testing.T) {
	body, err := os.ReadFile("../../kinds/testdata/oracle.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	record, err := oraclecase.Read(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range kinds.All {
		plural := row.Describe().Resource.Plural
		if row.Describe().Resource.Group == rutterv1.GroupVersion.Group {
			continue // Kubernetes has no such kind
		}
		t.Run(plural, func(t *testing.T) {
			k, ok := record.Kinds[plural]
			if !ok {
				t.Fatal("the oracle has never been asked: add the kind to test/oracle and run it with -update")
			}
			agreed, first := 0, ""
			for _, c := range k.Cases {
				got := oraclecase.Run(row, c.Case).Answer()
				if got.Equal(c.Answer) {
					agreed++
				} else if first == "" {
					first = string(c.Op) + " " + string(c.New)
				}
			}
			if agreed < k.Agreed {
				t.Errorf("%d of %d recorded cases agree with Kubernetes %s; they were %d. The first that does not: %s",
					agreed, len(k.Cases), record.Kubernetes, k.Agreed, first)
			}
		})
	}
}
