package nodeagent

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestAContainerThatExitedInTheFuture: the clock was hours ahead when it exited,
// and is set back. Its next run does not wait for hours.
func TestAContainerThatExitedInTheFuture(t *testing.T) {
	s := newStory(t, `
metadata: {namespace: default, name: web, uid: "1"}
spec: {containers: [{name: app, image: app}]}
`)
	s.settle()
	s.ends("app", 1)
	s.settle()
	s.ends("app", 1) // the second run: now it is held back
	s.settle()
	c := s.w.container("app")
	if c.Phase != Exited || heldBack(c) == 0 {
		t.Fatalf("the container is %v, held back for %s: want it held back", c.Phase, heldBack(c))
	}
	c.Restarted = s.now.Add(3*time.Hour - time.Second)
	c.Last = &corev1.ContainerStateTerminated{ExitCode: 1, FinishedAt: metav1.NewTime(s.now.Add(3 * time.Hour))}
	if a := Decide(s.g, &s.w, s.now); a.Do == Wait {
		t.Errorf("it waits until %v, now being %v", a.Until, s.now)
	}
}
