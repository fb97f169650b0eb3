package kerneltest

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/rutterhq/rutter/kernel"
)

var pods = kernel.Resource{Plural: "pods"}

// stepNodes is the model of all nodes: a bound pod is running and ready at
// once, a deleted one is gone at once. It returns whether anything changed.
func (w *World) stepNodes() bool {
	changed := false
	for e := range w.view.Entries(pods, "") {
		o := e.Object()
		spec, status := podFields(w.t, o)
		if spec == "" {
			continue
		}
		switch {
		case o.GetDeletionTimestamp() != nil:
			w.write("nodeagent/"+spec, "", kernel.Write{Key: e.Key, Grace: new(int64)})
			changed = true
		case status == "" || status == "Pending":
			at := w.Now.Format("2006-01-02T15:04:05Z")
			w.Put("nodeagent/"+spec, e.Key, "", fmt.Sprintf(`
status:
  phase: Running
  podIP: 10.42.0.%[1]d
  podIPs: [{ip: 10.42.0.%[1]d}]
  conditions:
  - {type: PodScheduled, status: "True", lastTransitionTime: %[2]q}
  - {type: Initialized, status: "True", lastTransitionTime: %[2]q}
  - {type: ContainersReady, status: "True", lastTransitionTime: %[2]q}
  - {type: Ready, status: "True", lastTransitionTime: %[2]q}
`, len(w.all)%250+1, at))
			changed = true
		}
	}
	return changed
}

// podFields reads a pod without knowing its Go type, as all of the kernel.
func podFields(t testing.TB, o kernel.Object) (node, phase string) {
	var p struct {
		Spec   struct{ NodeName string }
		Status struct{ Phase string }
	}
	mustUnmarshal(t, mustJSON(o), &p)
	return p.Spec.NodeName, p.Status.Phase
}

func mustUnmarshal(t testing.TB, body []byte, into any) {
	if err := json.Unmarshal(body, into); err != nil {
		t.Fatal(err)
	}
}
