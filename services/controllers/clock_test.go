package controllers

import (
	"fmt"
	"testing"
	"time"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// TestPodGCGoesByAnotherClock: who deleted the node had a clock that was ahead
// or behind. Its pods wait for the quarantine at most twice.
func TestPodGCGoesByAnotherClock(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for ahead, want := range map[time.Duration]time.Duration{ // until they are ended
		-3 * time.Hour:             0,
		0:                          nodeQuarantine,
		nodeQuarantine:             2 * nodeQuarantine,
		nodeQuarantine + 1:         0,
		3 * time.Hour:              0,
		-nodeQuarantine + 1:        1,
		-nodeQuarantine:            0,
		365 * 24 * time.Hour:       0,
		nodeQuarantine - 1:         2*nodeQuarantine - 1,
		-nodeQuarantine - 1:        0,
		-365 * 24 * time.Hour:      0,
		nodeQuarantine / 2:         nodeQuarantine * 3 / 2,
		-nodeQuarantine / 2:        nodeQuarantine / 2,
		100 * 365 * 24 * time.Hour: 0,
	} {
		node := kernel.Record{Key: kinds.Nodes.Key("", "n1"), Seq: 1, Body: []byte(`{"kind":"Node","apiVersion":"v1","metadata":{"name":"n1","uid":"1"}}`)}
		pod := kernel.Record{Key: kinds.Pods.Key("default", "p"), Seq: 2,
			Body: []byte(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","namespace":"default","uid":"2"},"spec":{"nodeName":"n1","containers":null},"status":{"phase":"Running"}}`)}
		gone := node
		gone.Seq, gone.Delete, gone.Expect, gone.Envelope = 3, true, 1, events.Envelope{Time: now.Add(ahead)}
		v, _ := kernel.NewView(&kinds.Schema{}).Fold(node, pod, gone)
		d := decidePodGC(v, podGCKey, now)
		got := fmt.Sprintf("in %s", d.Revisit.Sub(now))
		if d.Revisit.IsZero() && len(d.Changes) == 1 {
			got = "in 0s"
		}
		if want := fmt.Sprintf("in %s", want); got != want {
			t.Errorf("deleted by a clock that is %s ahead: its pods are ended %s, want %s", ahead, got, want)
		}
	}
}

// TestEvictionGoesByAnotherClock: a taint that was put there by a clock that
// was ahead counts from now on.
func TestEvictionGoesByAnotherClock(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for ahead, want := range map[time.Duration]time.Duration{
		3 * time.Hour: 0, 2 * time.Minute: 0, time.Minute: time.Minute, time.Second: time.Second, -time.Second: -time.Second, -time.Hour: -time.Hour,
	} {
		node := kernel.Record{Key: kinds.Nodes.Key("", "n1"), Seq: 1, Body: fmt.Appendf(nil,
			`{"kind":"Node","apiVersion":"v1","metadata":{"name":"n1","uid":"1"},"spec":{"taints":[{"key":"out","effect":"NoExecute","timeAdded":%q},{"key":"in","effect":"NoSchedule"}]},
			"status":{"conditions":[{"type":"Ready","status":"True"}]}}`, now.Add(ahead).Format(time.RFC3339))}
		v, _ := kernel.NewView(&kinds.Schema{}).Fold(node)
		n, _ := kinds.Nodes.Get(v, "", "n1")
		taints := taintsFor(v, n, now)
		if got := taints[0].TimeAdded.Sub(now); got != want || taints[1].TimeAdded != nil {
			t.Errorf("put there by a clock that is %s ahead: it counts from %s on, want %s", ahead, got, want)
		}
	}
}
