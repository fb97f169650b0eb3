package apiserver

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/kernel"
)

// TestRecordOfAPart: a part of the log is recorded with the state that it begins
// with, and replays; Secrets are hashes in both.
func TestRecordOfAPart(t *testing.T) {
	c, a := decided(t)
	a.want(201, "POST", "/api/v1/namespaces/default/secrets", `{"metadata":{"name":"s"},"stringData":{"password":"canary-1234"}}`)
	a.want(200, "DELETE", configMaps+"/one-mark", "") // and it is marked again by nobody: a tombstone
	from := c.mark()
	a.want(201, "POST", configMaps, configMap("two", "a", "1"))
	w := a.watch(configMaps + "?watch=1&fieldSelector=metadata.name%3Dtwo-mark")
	w.next()
	to := c.mark()
	a.want(200, "DELETE", configMaps+"/two", "")

	code, out, _ := a.do("GET", "/rutter/v1/record?from="+from+"&to="+to, "")
	if code != 200 || strings.Contains(out, "canary-1234") || strings.Contains(out, "Y2FuYXJ5LTEyMzQ") {
		t.Fatalf("%d: %s", code, out)
	}
	var records []kernel.Record
	lines := history.NewLines(strings.NewReader(out))
	h, err := history.ReadHeading(lines)
	if err == nil {
		err = history.EachRecord(lines, h, func(_ []byte, r kernel.Record) error { records = append(records, r); return nil })
	}
	if err != nil || fmt.Sprint(h.From, h.To) != from+" "+to || h.Cluster != "test" {
		t.Fatalf("%+v: %v\n%s", h, err, out)
	}
	of := map[string]int{}
	for _, r := range records {
		if r.Seq <= h.From {
			of[fmt.Sprint("state ", r.Key, r.Delete)]++
		} else {
			of[r.Type+" "+r.Key.Name]++
		}
	}
	for _, want := range []string{"state configmaps/default/one false", "state configmaps/default/one-mark true", "state secrets/default/s false", "configmap.created two", "configmap.marked two-mark"} {
		if of[want] != 1 {
			t.Errorf("%q is there %d times: %v", want, of[want], of)
		}
	}
	replayer := &history.Replayer{Schema: a.s.cfg.Schema, Deciders: c.deciders}
	report, err := replayer.Replay(history.Past{From: h.From, Records: func(yield func(kernel.Record, error) bool) {
		for _, r := range records {
			if !yield(r, nil) {
				return
			}
		}
	}})
	if err != nil || report.Failed() || report.Decisions != 1 {
		t.Errorf("%v: %+v", err, report)
	}
	for _, bad := range []string{"from=9&to=2", "from=99999", "to=x"} {
		a.want(400, "GET", "/rutter/v1/record?"+bad, "")
	}
}
