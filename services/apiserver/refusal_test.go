package apiserver

import (
	"strings"
	"testing"
)

// A kind of Rutter's own has no protobuf form: who asks for protobuf or JSON
// gets JSON, as for custom resources, and who takes nothing else is told so.
func TestAKindWithoutProtobufIsJSON(t *testing.T) {
	a := newCluster(t).start()
	const refusals = "/apis/rutter.dev/v1/refusals"
	body := `{"kind":"Refusal","apiVersion":"rutter.dev/v1","metadata":{"name":"one"},"spec":{"decider":"d","key":"pods/default/p","refused":1,"attempts":1,"retryTime":null}}`
	a.want(201, "POST", refusals, body)
	both := a.with("Accept", "application/vnd.kubernetes.protobuf,application/json")
	for _, path := range []string{refusals, refusals + "/one"} {
		code, got, header := both.do("GET", path, "")
		if code != 200 || !strings.HasPrefix(header.Get("Content-Type"), "application/json") || !strings.Contains(got, `"decider":"d"`) {
			t.Errorf("GET %s: %d, %s: %s", path, code, header.Get("Content-Type"), got)
		}
	}
	if code, got, _ := a.with("Accept", "application/vnd.kubernetes.protobuf").do("GET", refusals, ""); code != 406 {
		t.Errorf("protobuf alone: %d %s, want 406", code, got)
	}
	a.want(422, "POST", refusals, `{"kind":"Refusal","apiVersion":"rutter.dev/v1","metadata":{"name":"two"}}`)
}
