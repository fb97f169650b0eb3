package kinds

import (
	"bytes"
	"encoding/json"
	"math/rand"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/kernel"
)

// TestCodecEqualsEncodingJSON holds the fast encoder and decoder to the one that
// Kubernetes' clients use, on filled objects of every kind.
func TestCodecEqualsEncodingJSON(t *testing.T) {
	const objects = 100
	for _, row := range All {
		t.Run(row.Describe().Resource.String(), func(t *testing.T) {
			fill, r := randomObjects(3), rand.New(rand.NewSource(3))
			for range objects {
				o := row.NewObject()
				fill.Fill(o)
				plainStrings(reflect.ValueOf(o), r)
				SetTypeMeta(o)
				o.SetResourceVersion("7")
				want, err := json.Marshal(o)
				if err != nil {
					t.Fatal(err)
				}
				got, err := EncodeJSON(o)
				if err != nil || !bytes.Equal(want, got) {
					t.Fatalf("encoded, %v:\n%s\nencoding/json:\n%s", err, got, want)
				}
				checkDecode(t, row, o, want)
			}
		})
	}
}

// checkDecode reads what was written, by way of the log, strictly and by
// encoding/json.
func checkDecode(t *testing.T, row Row, o kernel.Object, doc []byte) {
	t.Helper()
	theirs := row.NewObject()
	if err := json.Unmarshal(doc, theirs); err != nil {
		t.Fatal(err)
	}
	strictly, strict, err := DecodeStrict(row, doc, ContentJSON)
	if err != nil || len(strict) > 0 {
		t.Fatalf("decode strictly: %v, %v\n%s", err, strict, doc)
	}
	if !equality.Semantic.DeepEqual(theirs, strictly) {
		t.Fatalf("decoded strictly (-encoding/json):\n%s", cmp.Diff(theirs, strictly))
	}
	s := keyed()
	body, err := s.Encode(o)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := s.Decode(s.KeyOf(o), body)
	if err != nil {
		t.Fatal(err)
	}
	theirs.SetResourceVersion("")
	if secret, ok := theirs.(*corev1.Secret); ok {
		for k, v := range secret.StringData {
			if secret.Data == nil {
				secret.Data = map[string][]byte{}
			}
			secret.Data[k] = []byte(v)
		}
		secret.StringData = nil
	}
	if !equality.Semantic.DeepEqual(theirs, ours) {
		t.Fatalf("decoded from the log (-encoding/json):\n%s", cmp.Diff(theirs, ours))
	}
}

func TestEncodeFillsInType(t *testing.T) {
	for _, c := range []metav1.TypeMeta{{}, {Kind: "ConfigMap"}, {APIVersion: "v1"}} {
		o := &corev1.ConfigMap{TypeMeta: c, ObjectMeta: metav1.ObjectMeta{Name: "c"}}
		body, err := Schema{}.Encode(o)
		want := `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c"}}`
		if err != nil || string(body) != want {
			t.Errorf("%+v is encoded as %s, %v", c, body, err)
		}
		if o.TypeMeta != c {
			t.Errorf("Encode changed the object to %+v", o.TypeMeta)
		}
	}
}

func TestTypeOf(t *testing.T) {
	o := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}
	if got := TypeOf(nil, o); got != "configmap.created" {
		t.Errorf("a new one is %s", got)
	}
	if got := TypeOf(o, o); got != "configmap.updated" {
		t.Errorf("a change is %s", got)
	}
}

func TestKeyOfUnknownTypePanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("an object without a row has a key")
		}
	}()
	Schema{}.KeyOf(&corev1.ReplicationController{})
}
