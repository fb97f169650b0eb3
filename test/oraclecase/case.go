package oraclecase

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// Op is what is done with the object of a Case.
type Op string

// The operations. Update and Status have an old object.
const (
	Create Op = "create"
	Update Op = "update"
	Status Op = "status"
)

// Case is one write. Old is as Kubernetes would have stored it.
type Case struct {
	Op  Op              `json:"op"`
	New json.RawMessage `json:"new"`
	Old json.RawMessage `json:"old,omitempty"`
}

// Answer is what became of a Case, in a form that can be compared.
type Answer struct {
	Defaulted string   `json:"defaulted"` // hash of the object after defaulting
	Prepared  string   `json:"prepared"`  // and after preparation
	Errors    []string `json:"errors,omitempty"`
}

// Equal tells whether two answers agree.
func (a Answer) Equal(b Answer) bool {
	return a.Defaulted == b.Defaulted && a.Prepared == b.Prepared && slices.Equal(a.Errors, b.Errors)
}

// Recorded is a Case with Kubernetes' answer.
type Recorded struct {
	Case
	Answer Answer `json:"answer"`
}

// Kind is what the file holds of one kind. Agreed is how many of the recorded
// cases the row answered alike when the file was written.
type Kind struct {
	Agreed int        `json:"agreed"`
	Cases  []Recorded `json:"cases"`
}

// File is the whole record, by plural.
type File struct {
	Kubernetes string          `json:"kubernetes"` // the version that answered
	Kinds      map[string]Kind `json:"kinds"`
}

// Write writes the file, compressed.
func (f *File) Write(w io.Writer) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return fmt.Errorf("compress the record: %w", err)
	}
	if err := json.NewEncoder(z).Encode(f); err != nil {
		return fmt.Errorf("encode the record: %w", err)
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("compress the record: %w", err)
	}
	return nil
}

// Read reads what Write wrote.
func Read(r io.Reader) (*File, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("decompress the record: %w", err)
	}
	var f File
	if err := json.NewDecoder(z).Decode(&f); err != nil {
		return nil, fmt.Errorf("decode the record: %w", err)
	}
	return &f, nil
}

// Outcome is an Answer before it was shortened: for finding out what differs.
type Outcome struct {
	Defaulted, Prepared map[string]any
	Errors              []string
}

// Answer shortens the outcome.
func (o *Outcome) Answer() Answer {
	return Answer{Defaulted: hash(o.Defaulted), Prepared: hash(o.Prepared), Errors: o.Errors}
}

// hash is enough of a SHA-256 of the canonical JSON to tell objects apart.
func hash(m map[string]any) string {
	b, err := json.Marshal(m) // keys in order
	if err != nil {
		panic(fmt.Sprintf("what came from JSON does not go back: %v", err))
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}

// Plain gives an object as the comparison sees it: without type and without
// what the server alone sets.
func Plain(o any) map[string]any {
	b, err := json.Marshal(o)
	if err != nil {
		return map[string]any{"does not encode": err.Error()}
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		panic(fmt.Sprintf("what was encoded does not decode: %v", err))
	}
	delete(m, "kind")
	delete(m, "apiVersion")
	if meta, ok := m["metadata"].(map[string]any); ok {
		for _, f := range []string{"generation", "managedFields", "creationTimestamp"} {
			delete(meta, f)
		}
	}
	status, _ := m["status"].(map[string]any)
	conditions, _ := status["conditions"].([]any)
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok {
			delete(c, "lastTransitionTime") // preparation reads the clock for it
		}
	}
	return m
}

// Errors gives errors as the comparison sees them: the types and fields, in
// order, each once.
func Errors(list field.ErrorList) []string {
	var out []string
	for _, e := range list {
		out = append(out, string(e.Type)+" "+e.Field)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Run says what the row makes of a Case. It does what kinds.Schema.Finish does
// around the row's functions, but for admission, and panics for JSON that is
// not an object of the kind.
func Run(row kinds.Row, c Case) *Outcome {
	o, old := decode(row, c.New), kernel.Object(nil)
	if c.Old != nil {
		old = decode(row, c.Old)
	}
	row.DefaultObject(o)
	out := &Outcome{Defaulted: Plain(o)}
	info := row.Describe()
	switch c.Op {
	case Create:
		if info.Status && info.Kind != "Node" {
			part(o, "Status").SetZero()
		}
		row.PrepareObject(o, nil)
		errs := row.ValidateObject(o, nil, "")
		if len(errs) == 0 {
			errs = common(o, nil, info)
		}
		out.Errors = Errors(errs)
	case Update:
		if info.Status {
			part(o, "Status").Set(part(old.DeepCopyObject(), "Status"))
		}
		row.PrepareObject(o, old)
		out.Errors = Errors(append(common(o, old, info), row.ValidateObject(o, old, "")...))
	case Status:
		part(o, "Spec").Set(part(old.DeepCopyObject(), "Spec"))
		row.PrepareObject(o, old)
		out.Errors = Errors(append(common(o, old, info), row.ValidateObject(o, old, "status")...))
	}
	out.Prepared = Plain(o)
	return out
}

// common are the rules for the metadata of every kind, which Finish checks.
func common(o, old kernel.Object, i *kinds.Info) field.ErrorList {
	at := field.NewPath("metadata")
	errs := validation.ValidateObjectMetaAccessor(o, !i.Cluster, path.ValidatePathSegmentName, at)
	if old != nil {
		errs = append(errs, validation.ValidateObjectMetaAccessorUpdate(o, old, at)...)
	}
	return errs
}

// part is a field of the struct behind o, settable.
func part(o any, name string) reflect.Value { return reflect.ValueOf(o).Elem().FieldByName(name) }

func decode(row kinds.Row, body []byte) kernel.Object {
	o := row.NewObject()
	if err := json.Unmarshal(body, o); err != nil {
		panic(fmt.Sprintf("a case of %s does not decode: %v", row.Describe().Resource.Plural, err))
	}
	return o
}
