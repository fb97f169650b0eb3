package oracle

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/test/oraclecase"
)

// plainTables are the kinds for which Kubernetes has no printer: its default
// is the name and the time of creation.
var plainTables = []string{"roles", "clusterroles"}

// TestTables compares what kubectl get -o wide shows of fuzzed objects.
func TestTables(t *testing.T) {
	generator := printers.NewTableGenerator().With(printersinternal.AddHandlers)
	for _, of := range targets {
		info := of.row.Describe()
		if *only != "" && info.Resource.Plural != *only || slices.Contains(plainTables, info.Resource.Plural) {
			continue
		}
		t.Run(info.Resource.Plural, func(t *testing.T) {
			all, err := cases(of, *seed)
			if err != nil {
				t.Fatal(err)
			}
			differ := 0
			for i, c := range all {
				if c.Op == oraclecase.Status {
					continue
				}
				d := compareTable(of, c, generator)
				if d == "" {
					continue
				}
				if differ++; differ <= 3 {
					t.Errorf("case %d (-kubernetes +ours):\n%s%s", i, d, c.New)
				}
			}
			if differ > 0 {
				t.Errorf("%d of %d objects are shown otherwise", differ, len(all))
			}
		})
	}
}

func compareTable(of target, c oraclecase.Case, g printers.TableGenerator) string {
	gvk := of.row.Describe().GVK()
	age := metav1.NewTime(time.Now().Add(-50 * time.Hour).Truncate(time.Second))
	theirs := decode(gvk, c.New)
	theirs.(metav1.Object).SetCreationTimestamp(age)
	table, err := g.GenerateTable(internal(gvk, theirs), printers.GenerateOptions{Wide: true})
	if err != nil {
		return fmt.Sprintf("kubernetes makes no table: %v", err)
	}
	o := of.row.NewObject()
	if err := json.Unmarshal(c.New, o); err != nil {
		return err.Error()
	}
	of.row.DefaultObject(o)
	o.(kernel.Object).SetCreationTimestamp(age)
	return cmp.Diff(table.ColumnDefinitions, of.row.ColumnDefinitions(), cmpopts.IgnoreFields(metav1.TableColumnDefinition{}, "Description")) +
		cmp.Diff(table.Rows[0].Cells[:min(len(table.ColumnDefinitions), len(table.Rows[0].Cells))], of.row.Cells(o, time.Now()))
}
