package oracle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/test/oraclecase"
)

// How many cases of a kind there are beside the corpus.
const (
	fuzzedCreates  = 2000
	fuzzedUpdates  = 600
	fuzzedStatuses = 200
	// wholeOneIn: one of so many creates is filled anew all through, which
	// reaches fields that the corpus does not have; it is seldom valid.
	wholeOneIn = 12
)

// corpus reads the objects of a kind: what package kinds is tested with, and
// our own. An object without kind is of the kind that its file is named after.
func corpus(t target) ([]json.RawMessage, error) {
	plural := t.row.Describe().Resource.Plural
	var all []json.RawMessage
	for _, path := range []string{"../../kinds/testdata/" + plural + ".yaml", "testdata/" + plural + ".yaml"} {
		body, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the corpus: %w", err)
		}
		d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(body), 4096)
		for {
			var one json.RawMessage
			if err := d.Decode(&one); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, fmt.Errorf("decode %s: %w", path, err)
			}
			if len(one) > 0 && !bytes.Equal(one, []byte("null")) {
				all = append(all, one)
			}
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("there is no corpus of %s", plural)
	}
	return all, nil
}

// cases makes the cases of a kind.
func cases(t target, seed uint64) ([]oraclecase.Case, error) {
	bodies, err := corpus(t)
	if err != nil {
		return nil, err
	}
	var all []oraclecase.Case
	var objects []any
	for _, b := range bodies {
		o := t.row.NewObject()
		if err := json.Unmarshal(b, o); err != nil {
			return nil, fmt.Errorf("decode an object of the corpus of %s: %w", t.row.Describe().Resource.Plural, err)
		}
		objects = append(objects, o)
		all = append(all, oraclecase.Case{Op: oraclecase.Create, New: prepareName(o)})
	}
	f := newFuzzer(seed, objects)
	for len(all) < len(bodies)+fuzzedCreates {
		o := objects[f.rand.IntN(len(objects))].(kernel.Object).DeepCopyObject()
		if f.rand.IntN(wholeOneIn) == 0 {
			f.whole(reflect.ValueOf(o).Elem())
		}
		for range 1 + f.rand.IntN(f.rand.IntN(4)+1) {
			f.change(reflect.ValueOf(o))
		}
		all = append(all, oraclecase.Case{Op: oraclecase.Create, New: prepareName(o)})
	}
	return append(all, f.updates(t, all)...), nil
}

// updates makes updates of those creates that Kubernetes accepts.
func (f *fuzzer) updates(t target, creates []oraclecase.Case) []oraclecase.Case {
	var olds []json.RawMessage
	for _, c := range creates {
		if len(upstream(t, c).Errors) == 0 {
			olds = append(olds, stored(t, c))
		}
	}
	if len(olds) == 0 {
		return nil
	}
	var all []oraclecase.Case
	pick := func() (json.RawMessage, kernel.Object) {
		old := olds[f.rand.IntN(len(olds))]
		o := t.row.NewObject()
		if err := json.Unmarshal(old, o); err != nil {
			panic(fmt.Sprintf("what kubernetes stored does not decode: %v", err))
		}
		return old, o
	}
	for range fuzzedUpdates {
		old, o := pick()
		for range 1 + f.rand.IntN(3) {
			f.change(reflect.ValueOf(o))
		}
		all = append(all, oraclecase.Case{Op: oraclecase.Update, New: prepareName(o), Old: old})
	}
	if t.status == nil {
		return all
	}
	for range fuzzedStatuses {
		old, o := pick()
		s := reflect.ValueOf(o).Elem().FieldByName("Status")
		if f.rand.IntN(2) == 0 {
			f.fill("Status", s, 0)
		}
		for range 1 + f.rand.IntN(3) {
			f.change(s.Addr())
		}
		all = append(all, oraclecase.Case{Op: oraclecase.Status, New: prepareName(o), Old: old})
	}
	return all
}

// prepareName encodes the object with the name that a generateName would have
// given it: both sides make names before these rules.
func prepareName(o any) json.RawMessage {
	m, err := meta.Accessor(o)
	if err != nil {
		panic(fmt.Sprintf("%T has no metadata: %v", o, err))
	}
	if m.GetName() == "" && m.GetGenerateName() != "" {
		m.SetName(m.GetGenerateName() + "bcdfg")
	}
	return encode(o)
}
