//go:build e2e

package nodeagent

import (
	"fmt"
	"os/exec"
	"slices"
	"testing"
	"time"
)

// BenchmarkPodStart compares a pod, from its event in the log to the event that
// says it is ready, with `ctr run -d` of the same image. Both in one run, in turn.
func BenchmarkPodStart(b *testing.B) {
	t := &testing.T{}
	r := newRig(t)
	defer r.cleanUp()
	r.importBusybox()
	r.start()
	var pods, ctr []time.Duration
	for i := 0; b.Loop(); i++ {
		begin := time.Now()
		name := fmt.Sprintf("bench-%d", i)
		r.makePod(name, "exec sleep 1000")
		r.awaitPod(name, "ready", podReady)
		pods = append(pods, time.Since(begin))
		begin = time.Now()
		if out, err := exec.Command("ctr", "-a", r.socket, "-n", "rutter", "run", "-d", busybox, name, "/bin/sleep", "1000").CombinedOutput(); err != nil {
			b.Fatalf("ctr: %v: %s", err, out)
		}
		ctr = append(ctr, time.Since(begin))
		exec.Command("ctr", "-a", r.socket, "-n", "rutter", "task", "rm", "-f", name).Run()
		exec.Command("ctr", "-a", r.socket, "-n", "rutter", "container", "rm", name).Run()
		r.remove(key(name), new(int64))
		r.awaitGone(name)
	}
	p50 := func(d []time.Duration) time.Duration { slices.Sort(d); return d[len(d)/2] }
	b.ReportMetric(float64(p50(pods).Microseconds())/1000, "pod-p50-ms")
	b.ReportMetric(float64(pods[len(pods)*99/100].Microseconds())/1000, "pod-p99-ms")
	b.ReportMetric(float64(p50(ctr).Microseconds())/1000, "ctr-p50-ms")
	b.ReportMetric(float64(p50(pods))/float64(p50(ctr)), "pod/ctr")
}
