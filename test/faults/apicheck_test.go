package faults

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// done tells what a client was told of its write: that it happened, that it
// did not, or neither.
func (r *request) done() (yes, no bool) {
	return r.code >= 200 && r.code < 300, r.code >= 400 && r.code < 500
}

// checkAPI compares what clients of the API were told with what the log holds.
func checkAPI(t testing.TB, all []request, log []events.Record) {
	t.Helper()
	logtest.CheckOrder(t, log, 0)
	// Of several deletes of one object whose outcome is not known, the first
	// one is taken for what happened: it explains the most.
	slices.SortStableFunc(all, func(a, b request) int { return cmp.Compare(a.begun, b.begun) })
	markers := map[string][]events.Seq{}
	tombs := map[string]events.Seq{} // by uid
	for _, e := range log {
		var o object
		if err := json.Unmarshal(e.Body, &o); err != nil {
			t.Fatal(err)
		}
		if e.Delete {
			if before, twice := tombs[o.Metadata.UID]; twice {
				t.Errorf("%s was deleted twice: %d and %d", o.Metadata.UID, before, e.Seq)
			}
			tombs[o.Metadata.UID] = e.Seq
		} else if m := o.Data["marker"]; m != "" {
			markers[m] = append(markers[m], e.Seq)
		}
	}
	var ops []porcupine.Operation
	deleted := map[string]bool{} // uids whose tombstone a client accounts for
	for _, r := range all {
		if yes, _ := r.done(); yes && r.method == "DELETE" {
			if deleted[r.uid] {
				t.Errorf("two clients were told that they deleted %s", r.uid)
			}
			deleted[r.uid] = true
		}
	}
	for i := range all {
		r := &all[i]
		op := porcupine.Operation{ClientId: r.client, Input: *r, Output: r.seq, Call: r.begun, Return: r.end}
		if r.method != "GET" {
			at := r.check(t, markers[r.marker], tombs, deleted)
			if yes, no := r.done(); !yes && !no {
				if at == 0 {
					continue // it never happened
				}
				op.Return = int64(1) << 62
			}
			op.Output = at
		}
		ops = append(ops, op)
	}
	for uid, at := range tombs {
		if !deleted[uid] {
			t.Errorf("the log has %s deleted at %d: whoever asked for that was told that it did not happen", uid, at)
		}
	}
	if res := porcupine.CheckOperationsTimeout(apiRegister, ops, time.Minute); res != porcupine.Ok {
		t.Errorf("%d requests are not linearizable: %s", len(ops), res)
	}
}

// check holds one write against the log, and returns where it is in it.
func (r *request) check(t testing.TB, written []events.Seq, tombs map[string]events.Seq, deleted map[string]bool) (at events.Seq) {
	t.Helper()
	yes, no := r.done()
	if r.method == "DELETE" {
		tomb := tombs[r.uid]
		switch {
		case yes && tomb == 0:
			t.Errorf("a client was told that it deleted %s, which is not deleted", r.uid)
		case no:
			return 0 // and does not account for a tombstone: see checkAPI
		case !yes && deleted[r.uid]:
			return 0 // another did
		case !yes && tomb != 0:
			deleted[r.uid] = true // this one, for all that anybody can know
		}
		return tomb
	}
	if len(written) > 1 {
		t.Errorf("%s %s was written %d times: %v", r.method, r.marker, len(written), written)
	}
	if len(written) > 0 {
		at = written[0]
	}
	switch {
	case yes && at != r.seq:
		t.Errorf("%s %s: its client was told version %d, the log has it at %d", r.method, r.marker, r.seq, at)
	case no && at != 0:
		t.Errorf("%s %s: its client was told %d %s, the log has it at %d", r.method, r.marker, r.code, r.reason, at)
	case r.method == "PATCH" && r.code == http.StatusConflict:
		t.Errorf("PATCH %s, which names no version: %s", r.marker, r.reason)
	case r.method == "POST" && r.code == http.StatusConflict && r.reason != "AlreadyExists":
		t.Errorf("POST %s: %s", r.marker, r.reason)
	}
	return at
}

// apiRegister is one object of the API.
var apiRegister = porcupine.Model{
	Partition: func(ops []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[events.Key][]porcupine.Operation{}
		for _, op := range ops {
			k := op.Input.(request).record.Key
			byKey[k] = append(byKey[k], op)
		}
		var out [][]porcupine.Operation
		for _, one := range byKey {
			out = append(out, one)
		}
		return out
	},
	Init: func() any { return events.Seq(0) },
	// The state is the Seq of the live object, or 0; a Seq as output of a write
	// says that it happened.
	Step: func(state, input, output any) (bool, any) {
		r, is, at := input.(request), state.(events.Seq), output.(events.Seq)
		happened := at != 0
		switch {
		case r.method == "GET":
			return at == is, is
		case r.method == "DELETE" && happened:
			return is != 0, events.Seq(0)
		case r.method == "POST" && happened:
			return is == 0, at
		case r.method == "POST":
			return is != 0, is
		case happened:
			return is != 0 && (r.record.Expect == 0 || r.record.Expect == is), at
		case r.code == http.StatusNotFound:
			return is == 0, is
		case r.method == "PUT":
			return r.record.Expect != is, is
		}
		return true, is // a delete of one that is no longer it
	},
	DescribeOperation: func(input, output any) string {
		r := input.(request)
		return fmt.Sprintf("%s %s expecting %d: %d %s → %d", r.method, r.marker, r.record.Expect, r.code, r.reason, output)
	},
}
