package sim

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// phases: a pod that has run to its end, well or not, stays so. Controllers
// make another one in its place, and would have two if it came back.
type phases struct{}

func (*phases) see(e kernel.Event) error {
	p, old, ok := kinds.Pods.Of(e)
	if !ok || p == nil || old == nil || p.UID != old.UID {
		return nil
	}
	if was := old.Status.Phase; (was == corev1.PodFailed || was == corev1.PodSucceeded) && p.Status.Phase != was {
		return fmt.Errorf("event %d: pod %s had %s and is %s", e.Seq, p.Name, was, p.Status.Phase)
	}
	return nil
}

func (*phases) end() error { return nil }
