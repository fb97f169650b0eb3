package test

import (
	"encoding/json"
	"errors"
	"net/http"
	"testing"

	"github.com/google/uuid"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/nodeagent"
)

// TestDoorFromBothSides lets the agent's half of the door speak with the
// apiserver's: what stands before the first bookmark, what comes later, a
// write, and its conflict.
func TestDoorFromBothSides(t *testing.T) {
	w := newWorld(t)
	servers, err := nodeagent.NewServers([]string{w.url}, w.node.Transport.(*http.Transport).TLSClientConfig)
	if err != nil {
		t.Fatal(err)
	}
	log := nodeagent.DialDoor(servers, "mine")
	last, err := log.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mine := kinds.Pods.Key("default", "mine")
	var pod kernel.Record
	wrote := events.Seq(0)
	for r, err := range log.Follow(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case r.Key == mine && wrote == 0:
			pod = r
		case r.Key == (kernel.Key{}) && wrote == 0: // all that there is was read
			if r.Seq != last || pod.Seq == 0 {
				t.Fatalf("the first bookmark is %d, the log ended at %d; the pod's event is %d", r.Seq, last, pod.Seq)
			}
			var o map[string]any
			if err := json.Unmarshal(pod.Body, &o); err != nil {
				t.Fatal(err)
			}
			o["status"] = map[string]any{"phase": "Running"}
			body, err := json.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			status := kernel.Record{Key: mine, Expect: pod.Seq, Body: body, Envelope: events.Envelope{ID: uuid.NewString(), Seen: r.Seq, Cause: []kernel.Seq{pod.Seq}}}
			if wrote, err = log.Append(t.Context(), status); err != nil {
				t.Fatal(err)
			}
			status.ID = uuid.NewString()
			if _, err := log.Append(t.Context(), status); !errors.Is(err, events.ErrConflict) {
				t.Errorf("a write on what was: %v", err)
			}
		case r.Key == mine:
			if r.Seq != wrote || r.Source != "nodeagent/mine" {
				t.Errorf("event %d by %s came back, event %d was written", r.Seq, r.Source, wrote)
			}
			return
		}
	}
	t.Error("the stream ended")
}
