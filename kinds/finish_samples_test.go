package kinds

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/rutterhq/rutter/kernel"
)

// TestLivesOfSamples takes every sample of every kind through the life that
// Finish gives it, in a View that shows no more than FinishReads says.
func TestLivesOfSamples(t *testing.T) {
	for _, row := range All {
		t.Run(row.Describe().Resource.String(), func(t *testing.T) {
			body, err := os.ReadFile("testdata/" + row.Describe().Resource.Plural + ".yaml")
			if err != nil {
				t.Fatal(err)
			}
			for d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(body), 4096); ; {
				o := row.NewObject()
				if err := d.Decode(o); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				live(t, row, o)
			}
		})
	}
}

func live(t *testing.T, row Row, sample kernel.Object) {
	t.Helper()
	w := newWorld(t)
	limit := func() {
		w.view = w.view.Only(append(FinishReads(), row.Describe().Resource))
	}
	name := sample.GetName()
	if ns := sample.GetNamespace(); ns != "" && ns != "default" {
		sample.SetNamespace("default")
	}
	if _, exists := w.view.Get(w.s.KeyOf(sample)); exists {
		return
	}
	limit()
	made, err := w.finish(kernel.Write{Verb: Create, New: sample, UID: "11111111-2222-3333-4444-555555555555", Manager: "test"})
	if err != nil {
		// The samples are Kubernetes', and hold what is valid there.
		if !strings.Contains(err.Error(), "not supported yet") {
			t.Errorf("%s is refused: %v", name, err)
		}
		return
	}
	old := w.put(made)
	limit()
	made.SetResourceVersion(old.GetResourceVersion())
	if !unchanged(made.DeepCopyObject().(kernel.Object), old) {
		t.Errorf("%s comes back from the log different:\n%s", name, cmp.Diff(made, old))
	}
	for _, sub := range []string{"", "status", kernel.Whole} {
		if sub == "status" && !row.Describe().Status {
			continue
		}
		if o, err := w.update(old, sub, func(kernel.Object) {}); o != nil || err != nil {
			t.Errorf("%s: an update of %q that changes nothing gives %v, %v", name, sub, o, err)
		}
	}
	o, err := w.update(old, kernel.Whole, func(o kernel.Object) { o.SetFinalizers([]string{"rutter.dev/test"}) })
	if err != nil {
		t.Errorf("%s: a finalizer: %v", name, err)
		return
	}
	old = w.put(o)
	limit()
	o, err = w.finish(kernel.Write{Key: w.s.KeyOf(old), Verb: Delete, Old: old, Grace: new(int64)})
	if err != nil || o == nil || o.GetDeletionTimestamp() == nil || Gone(o) {
		t.Errorf("%s: a delete with a finalizer: %v, %+v", name, err, o)
		return
	}
	old = w.put(o)
	limit()
	o, err = w.finish(kernel.Write{Key: w.s.KeyOf(old), Verb: Update, Subresource: kernel.Whole, Old: old, New: without(old)})
	if err != nil || o == nil || row.Describe().Kind != "Namespace" && !Gone(o) {
		t.Errorf("%s: its last finalizer is removed: %v, %+v", name, err, o)
	}
}

func without(old kernel.Object) kernel.Object {
	o := old.DeepCopyObject().(kernel.Object)
	o.SetFinalizers(nil)
	return o
}
