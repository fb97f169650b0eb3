package events

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBinary(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]Record{
		"full":    full(),
		"zero":    {},
		"cluster": {Key: Key{Resource: Resource{Plural: "nodes"}, Name: "n1"}, Seq: 1 << 60, Body: []byte(`{}`)},
	} {
		b := r.AppendBinary(nil)
		got, err := ReadBinary(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(r, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		for n := range b { // what was cut off is noticed
			if got, err := ReadBinary(b[:n]); err == nil {
				t.Errorf("%s: %d of %d bytes are read as %+v", name, n, len(b), got)
			}
		}
		if _, err := ReadBinary(append(b, 0)); err == nil {
			t.Errorf("%s: a byte too many is not noticed", name)
		}
	}
}

func FuzzReadBinary(f *testing.F) {
	f.Add(full().AppendBinary(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ReadBinary(b)
		if err != nil {
			return
		}
		again, err := ReadBinary(r.AppendBinary(nil))
		if diff := cmp.Diff(r, again); err != nil || diff != "" {
			t.Fatalf("%v: %s", err, diff)
		}
	})
}
