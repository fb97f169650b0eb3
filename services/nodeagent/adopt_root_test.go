//go:build e2e

package nodeagent

import (
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/nodeagent/runtime"
)

// pidOf finds the process of a pod's first container.
func (r *rig) pidOf(p *corev1.Pod) uint32 {
	r.t.Helper()
	infos, err := r.agent.rt.List(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, i := range infos {
		if i.Labels[runtime.LabelPodUID] == string(p.UID) && i.Running {
			return i.PID
		}
	}
	return 0
}

// TestAdoption: an agent that died is followed by one that takes over what
// runs, learns what ended meanwhile, and ends what nobody wants any more.
func TestAdoption(t *testing.T) {
	r := newRig(t)
	r.importBusybox()
	r.start()
	stays := r.makePod("stays", "i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.02; done")
	r.makePod("dies", "sleep 1; exit 4", never)
	r.makePod("goes", "sleep 1000")
	crash := r.makePod("crash", "sleep 0.2; exit 1")
	for _, name := range []string{"stays", "goes", "dies"} {
		r.awaitPod(name, "ready", podReady)
	}
	r.awaitPod("crash", "backs off", waitsFor("CrashLoopBackOff"))
	pid := r.pidOf(stays)
	r.stop()

	// While nobody looks: one container ends, one pod is deleted for good.
	gone := r.mirror.View().Entry(key("goes"))
	r.remove(key("goes"), new(int64))
	time.Sleep(1500 * time.Millisecond)
	before := r.logOf(stays, "c", 0)
	r.start()

	p := r.awaitPod("dies", "failed", failed)
	if x := p.Status.ContainerStatuses[0].State.Terminated; x == nil || x.ExitCode != 4 {
		t.Errorf("exit while the agent was away: %s", describe(p))
	}
	p = r.awaitPod("stays", "ready", podReady)
	if p.Status.ContainerStatuses[0].RestartCount != 0 || r.pidOf(stays) != pid {
		t.Errorf("the container was restarted: %s, pid %d, was %d", describe(p), r.pidOf(stays), pid)
	}
	if !strings.Contains(before, "tick 40\n") {
		t.Errorf("nothing was logged while the agent was away: ...%q", before[max(0, len(before)-100):])
	}
	uid := string(gone.Object().GetUID())
	for range 500 {
		if _, err := os.Stat(r.agent.cfg.DataDir + "/pods/" + uid); os.IsNotExist(err) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	infos, err := r.agent.rt.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		if i.Labels[runtime.LabelPodUID] == uid {
			t.Errorf("a container of a pod that is gone is left: %+v", i)
		}
	}
	p, _ = kinds.Pods.Get(r.mirror.View(), "default", "crash")
	if p.Status.ContainerStatuses[0].RestartCount < 1 || p.UID != crash.UID {
		t.Errorf("the restart count was lost: %s", describe(p))
	}
}

// TestContainerdRestart: containers go on without containerd, and the agent
// finds them again.
func TestContainerdRestart(t *testing.T) {
	r := newRig(t)
	r.importBusybox()
	r.start()
	stays := r.makePod("stays", "sleep 1000")
	r.makePod("dies", "sleep 1; exit 4", never)
	for _, name := range []string{"stays", "dies"} {
		r.awaitPod(name, "ready", podReady)
	}
	pid := r.pidOf(stays)
	r.killContainerd()
	time.Sleep(1500 * time.Millisecond)
	r.startContainerd()
	p := r.awaitPod("dies", "failed", failed)
	if x := p.Status.ContainerStatuses[0].State.Terminated; x == nil || x.ExitCode != 4 {
		t.Errorf("exit while containerd was away: %s", describe(p))
	}
	if r.pidOf(stays) != pid {
		t.Error("the container was restarted")
	}
	r.makePod("next", "sleep 1000")
	r.awaitPod("next", "ready", podReady)
}

// TestSameName: a pod whose name was given to a new one goes before that one
// starts.
func TestSameName(t *testing.T) {
	r := newRig(t)
	r.importBusybox()
	r.start()
	old := r.makePod("twin", "trap 'exit 0' TERM; while :; do sleep 0.05; done")
	r.awaitPod("twin", "ready", podReady)
	r.remove(key("twin"), new(int64))
	r.await("it is gone", func(v *kernel.View) bool { _, ok := v.Get(key("twin")); return !ok })
	now := r.makePod("twin", "sleep 1000")
	p := r.awaitPod("twin", "ready", podReady)
	if p.UID != now.UID || p.UID == old.UID {
		t.Errorf("uid %s", p.UID)
	}
	infos, err := r.agent.rt.List(t.Context())
	if err != nil || len(infos) != 1 {
		t.Errorf("containers: %v %v", infos, err)
	}
}
