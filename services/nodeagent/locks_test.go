package nodeagent

import (
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// An agent whose pods' steps and whose look at what an event concerns wait for
// each other does nothing any more, and says nothing of it: one did, while its
// first pods began and what they mount became visible.
func TestAgentsLocksHaveAnOrder(t *testing.T) {
	a := &Agent{pods: map[kernel.Key]*pod{}, now: time.Now}
	spec := &corev1.Pod{}
	spec.Name, spec.Namespace = "web", "default"
	k := kinds.Pods.Key("default", "web")
	p := &pod{key: k, spec: spec, world: World{Ended: true}}
	a.pods[k] = p
	mounted := kernel.Event{Entry: &kernel.Entry{Record: events.Record{Key: kinds.ConfigMaps.Key("default", "products")}}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var both sync.WaitGroup
		for _, look := range []func(){
			func() { a.wakes(nil, mounted) },
			func() { a.facts(p) },
			// Of what has ended nothing is written.
			func() { _, _ = a.reportStatus(t.Context(), nil, p, Goal{Pod: spec}, Action{}) },
		} {
			both.Go(func() {
				for range 500_000 {
					look()
				}
			})
		}
		both.Wait()
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("they wait for each other")
	}
}
