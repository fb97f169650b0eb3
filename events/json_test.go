package events

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func full() Record {
	return Record{
		Key: Key{Resource: Resource{Group: "apps", Plural: "deployments"}, Namespace: "default", Name: "web"},
		Seq: 7, Expect: 3, Delete: true,
		Envelope: Envelope{
			ID: "b1", Source: "controllers/deployment", Type: "deployment.scaled",
			Time: time.Date(2026, 11, 23, 18, 0, 0, 123456789, time.UTC), Seen: 6, Cause: []Seq{4, 5},
			Decision: &DecisionRef{Decider: "controllers/deployment", Key: "deployments.apps/default/web", Index: 0, Count: 2, Build: "v0"},
			Trace:    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Note: "2 < 3 & \"so\"\nünïcode",
		},
		Body: []byte(`{"kind":"Deployment","metadata":{"name":"web"},"x":"<&>"}`),
	}
}

func TestRecordJSON(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]Record{
		"full":      full(),
		"cluster":   {Key: Key{Resource: Resource{Plural: "nodes"}, Name: "n1"}, Seq: 1, Body: []byte(`{}`)},
		"bookmark":  {Seq: 9},
		"only body": {Body: []byte(`[1, 2]`)},
		"zero":      {},
	} {
		b, err := r.MarshalJSON()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var back Record
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatalf("%s: %s: %v", name, b, err)
		}
		if diff := cmp.Diff(r, back); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestRecordJSONShape(t *testing.T) {
	t.Parallel()
	b, err := Record{Seq: 7}.MarshalJSON()
	if err != nil || string(b) != `{"seq":7}` {
		t.Errorf("bookmark: %s, %v", b, err)
	}
	r := full()
	b, err = r.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, append([]byte(`"body":`), r.Body...)) {
		t.Errorf("the body is not there byte for byte: %s", b)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	if m["key"] != "deployments.apps/default/web" || m["time"] != "2026-11-23T18:00:00.123456789Z" {
		t.Errorf("got %s", b)
	}
	if bytes.ContainsAny(b, "\n") {
		t.Errorf("a record must be one line: %s", b)
	}
}

func TestRecordJSONRefuses(t *testing.T) {
	t.Parallel()
	if b, err := (Record{Seq: 1, Body: []byte(`{`)}).MarshalJSON(); err == nil {
		t.Errorf("a body that is no json was written: %s", b)
	}
	for _, bad := range []string{`{"key":"pods"}`, `{"time":"yesterday"}`, `[]`, `{"seq":-1}`} {
		var r Record
		if err := json.Unmarshal([]byte(bad), &r); err == nil {
			t.Errorf("%s was read as %+v", bad, r)
		}
	}
}
