package kinds_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

var golden = flag.Bool("golden", false, "rewrite testdata/tables.golden")

// now is when the tests' tables are printed; born is when their objects were made.
var (
	now  = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	born = metav1.NewTime(now.Add(-51 * time.Hour))
)

// samples reads the valid objects of a kind.
func samples(t *testing.T, row kinds.Row) []kernel.Object {
	t.Helper()
	path := "testdata/" + row.Describe().Resource.Plural + ".yaml"
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []kernel.Object
	for d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(body), 4096); ; {
		o := row.NewObject()
		if err := d.Decode(o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		o.SetCreationTimestamp(born)
		all = append(all, o)
	}
	if len(all) == 0 {
		t.Fatalf("%s holds no object", path)
	}
	return all
}

func eachRow(t *testing.T, test func(t *testing.T, row kinds.Row)) {
	for _, row := range kinds.All {
		t.Run(row.Describe().Resource.Plural, func(t *testing.T) { test(t, row) })
	}
}

// TestRowFor finds every row by its resource, and each once.
func TestRowFor(t *testing.T) {
	seen := map[string]bool{}
	for _, row := range kinds.All {
		info := row.Describe()
		if got, ok := kinds.RowFor(info.Resource); !ok || got != row {
			t.Errorf("RowFor(%s) is another row, or none", info.Resource)
		}
		for _, name := range append([]string{info.Resource.Plural, info.Singular}, info.ShortNames...) {
			if seen[name] && name != info.Singular {
				t.Errorf("%q names two kinds", name)
			}
			seen[name] = true
		}
	}
	if _, ok := kinds.RowFor(kernel.Resource{Plural: "sails"}); ok {
		t.Error("RowFor found a kind that there is not")
	}
}

// TestNew makes objects and lists of the kind that the row describes.
func TestNew(t *testing.T) {
	eachRow(t, func(t *testing.T, row kinds.Row) {
		info := row.Describe()
		o := row.NewObject()
		if got := fmt.Sprintf("%T", o); !strings.HasSuffix(got, "."+info.Kind) {
			t.Errorf("New makes a %s", got)
		}
		if got := fmt.Sprintf("%T", row.NewObjectList()); !strings.HasSuffix(got, "."+info.Kind+"List") {
			t.Errorf("NewList makes a %s", got)
		}
		for _, o := range samples(t, row) {
			body, err := json.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			back := row.NewObject()
			if err := json.Unmarshal(body, back); err != nil {
				t.Fatal(err)
			}
			if again, err := json.Marshal(back); err != nil || !bytes.Equal(body, again) {
				t.Errorf("%s changes on its way through JSON: %v\n%s\n%s", o.GetName(), err, body, again)
			}
		}
	})
}

// TestDefaultTwice changes nothing the second time.
func TestDefaultTwice(t *testing.T) {
	eachRow(t, func(t *testing.T, row kinds.Row) {
		for _, o := range append(samples(t, row), row.NewObject()) {
			row.DefaultObject(o)
			again := o.DeepCopyObject().(kernel.Object)
			row.DefaultObject(again)
			if d := cmp.Diff(o, again); d != "" {
				t.Errorf("defaulting %q twice (-once +twice):\n%s", o.GetName(), d)
			}
		}
	})
}

// TestValid accepts the samples, as new and as an update by themselves.
func TestValid(t *testing.T) {
	eachRow(t, func(t *testing.T, row kinds.Row) {
		for _, o := range samples(t, row) {
			row.DefaultObject(o)
			row.PrepareObject(o, nil)
			for _, e := range row.ValidateObject(o, nil, "") {
				t.Errorf("create %s: %v", o.GetName(), e)
			}
			o.SetResourceVersion("1")
			o.SetUID("1")
			same := o.DeepCopyObject().(kernel.Object)
			row.PrepareObject(same, o)
			if d := cmp.Diff(o, same); d != "" {
				t.Errorf("preparing an update of %s that changes nothing (-old +new):\n%s", o.GetName(), d)
			}
			for _, e := range row.ValidateObject(same, o, "") {
				t.Errorf("update %s: %v", o.GetName(), e)
			}
			if row.Describe().Status {
				for _, e := range row.ValidateObject(same, o, "status") {
					t.Errorf("update the status of %s: %v", o.GetName(), e)
				}
			}
			if row.HasScale() {
				row.SetScale(same, 7)
				if spec, _, _ := row.ScaleOf(same); spec != 7 {
					t.Errorf("%s scaled to 7 has %d", o.GetName(), spec)
				}
				if got := row.TypeOfChange(same, o); got != row.Describe().Singular+".scaled" {
					t.Errorf("scaling %s is called %s", o.GetName(), got)
				}
			}
		}
	})
}

// TestTables prints the samples of every kind as kubectl get -o wide does, and
// compares with testdata/tables.golden. Columns of -o wide are in parentheses.
func TestTables(t *testing.T) {
	var b bytes.Buffer
	for _, row := range kinds.All {
		fmt.Fprintf(&b, "# kubectl get %s -o wide\n", row.Describe().Resource.Plural)
		w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
		for i, d := range row.ColumnDefinitions() {
			name := strings.ToUpper(d.Name)
			if d.Priority > 0 {
				name = "(" + name + ")"
			}
			if d.Description == "" {
				t.Errorf("column %s of %s has no description", d.Name, row.Describe().Kind)
			}
			cell(w, i, name)
		}
		fmt.Fprintln(w)
		for _, o := range samples(t, row) {
			row.DefaultObject(o)
			cells := row.Cells(o, now)
			if len(cells) != len(row.ColumnDefinitions()) {
				t.Fatalf("%s has %d cells in %d columns", row.Describe().Kind, len(cells), len(row.ColumnDefinitions()))
			}
			for i, c := range cells {
				cell(w, i, c)
			}
			fmt.Fprintln(w)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&b)
	}
	const path = "testdata/tables.golden"
	if *golden {
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("tables (-golden +got; -golden rewrites the file):\n%s", d)
	}
}

func cell(w io.Writer, i int, v any) {
	if i > 0 {
		fmt.Fprint(w, "\t")
	}
	if v == "" {
		v = `""`
	}
	fmt.Fprint(w, v)
}
