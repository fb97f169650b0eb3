//go:build e2e

package nodeagent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

func first(p *corev1.Pod) *corev1.Container { return &p.Spec.Containers[0] }

func never(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }

func succeeded(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded }
func failed(p *corev1.Pod) bool    { return p.Status.Phase == corev1.PodFailed }

// TestPods runs pods of many shapes on one node.
func TestPods(t *testing.T) {
	r := newRig(t)
	r.importBusybox()
	r.start()
	for _, c := range []struct {
		name string
		run  func(t *testing.T, r *rig)
	}{
		{"Values", testValues}, {"Volumes", testVolumes}, {"InitContainers", testInit}, {"Security", testSecurity},
		{"Failures", testFailures}, {"Restarts", testRestarts}, {"SharedShim", testSharedShim}, {"OOM", testOOM}, {"CPU", testCPU}, {"Probes", testProbes},
		{"Hooks", testHooks}, {"Images", testImages}, {"Streams", testStreams}, {"Attach", testAttach}, {"Routed", testRouted}, {"Admission", testAdmission},
	} {
		if !t.Run(c.name, func(t *testing.T) {
			old := r.t
			r.t = t
			defer func() { r.t = old }()
			c.run(t, r)
		}) {
			break
		}
	}
}

func testValues(t *testing.T, r *rig) {
	r.put(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm", Namespace: "default"}, Data: map[string]string{"A": "from-cm", "B": "b"}}, "")
	r.put(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "sec", Namespace: "default"}, Data: map[string][]byte{"pw": []byte("s3cret")}}, "")
	p := r.makePod("values", "", never, func(p *corev1.Pod) {
		p.Labels = map[string]string{"app": "x"}
		c := first(p)
		c.Command = []string{"/bin/sh", "-c", "echo $ONE; echo $TWO; echo $A-$PFX_B; echo $PW; echo $NAME/$NODE/$LABEL; echo $CPU; echo $FROM_IMAGE; pwd; hostname; echo $0", "arg-$(ONE)"}
		c.WorkingDir = "/tmp"
		c.EnvFrom = []corev1.EnvFromSource{
			{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}},
			{Prefix: "PFX_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}},
		}
		field := func(path string) *corev1.EnvVarSource {
			return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
		}
		c.Env = []corev1.EnvVar{
			{Name: "ONE", Value: "1"}, {Name: "TWO", Value: "$(ONE)2 $$(ONE) $(NOPE)"},
			{Name: "PW", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "sec"}, Key: "pw"}}},
			{Name: "NAME", ValueFrom: field("metadata.name")}, {Name: "NODE", ValueFrom: field("status.hostIP")}, {Name: "LABEL", ValueFrom: field("metadata.labels['app']")},
			{Name: "CPU", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "requests.cpu", Divisor: resource.MustParse("1m")}}},
		}
		c.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m")}
	})
	r.awaitPod("values", "succeeded", succeeded)
	want := "1\n12 $(ONE) $(NOPE)\nfrom-cm-b\ns3cret\nvalues/10.42.0.1/x\n50\nyes\n/tmp\nvalues\narg-1\n"
	if d := cmp.Diff(want, r.logOf(p, "c", 0)); d != "" {
		t.Errorf("output (-want +got):\n%s", d)
	}
}

func testVolumes(t *testing.T, r *rig) {
	host := t.TempDir()
	os.WriteFile(host+"/f", []byte("host\n"), 0o644)
	gid := int64(4321)
	p := r.makePod("volumes", "cat /cm/A /sec/p/w /down/labels /all/A /host/f; echo; stat -c %a /sec/p/w; cat /sub; ls /part; echo x > /shared/x; stat -c %g /shared; mount | grep -c ' /mem '; id -G; cat /etc/hosts | grep -c volumes; cat /etc/resolv.conf; while :; do sleep 0.05; cat /cm/A | grep new && break; done; echo done; sleep 1000", func(p *corev1.Pod) {
		p.Labels = map[string]string{"app": "v"}
		p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &gid}
		mode := int32(0o400)
		cm := corev1.LocalObjectReference{Name: "cm"}
		p.Spec.Volumes = []corev1.Volume{
			{Name: "cm", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: cm}}},
			{Name: "sec", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "sec", Items: []corev1.KeyToPath{{Key: "pw", Path: "p/w", Mode: &mode}}}}},
			{Name: "down", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}}},
			{Name: "all", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: cm}}}}}},
			{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host}}},
			{Name: "shared", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "mem", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: resource.NewQuantity(1<<20, resource.BinarySI)}}},
		}
		c := first(p)
		c.VolumeMounts = []corev1.VolumeMount{
			{Name: "cm", MountPath: "/cm"}, {Name: "sec", MountPath: "/sec"}, {Name: "down", MountPath: "/down"}, {Name: "all", MountPath: "/all"},
			{Name: "host", MountPath: "/host"}, {Name: "shared", MountPath: "/shared"}, {Name: "mem", MountPath: "/mem"},
			{Name: "cm", MountPath: "/sub", SubPath: "A"}, {Name: "shared", MountPath: "/part", SubPath: "a/b"},
		}
		second := *c.DeepCopy()
		second.Name, second.Command = "d", []string{"/bin/sh", "-c", "while [ ! -e /shared/x ]; do sleep 0.05; done; echo seen; ls /shared; sleep 1000"}
		p.Spec.Containers = append(p.Spec.Containers, second)
	})
	r.awaitPod("volumes", "ready", podReady)
	r.awaitLog(p, "d", "seen\na\nx\n")
	r.change(kinds.ConfigMaps.Key("default", "cm"), func(o kernel.Object) { o.(*corev1.ConfigMap).Data["A"] = "new\n" })
	got := r.awaitLog(p, "c", "done\n")
	want := "from-cms3cretapp=\"v\"from-cmhost\n\n440\nfrom-cm4321\n1\n0 4321\n1\nsearch default.svc.cluster.local svc.cluster.local cluster.local"
	if !strings.HasPrefix(got, want) || !strings.Contains(got, "nameserver 10.43.0.10\noptions ndots:5\nnew\ndone\n") {
		t.Errorf("got:\n%s\nwant prefix:\n%s", got, want)
	}
	short := int64(1)
	r.remove(key("volumes"), &short)
	r.awaitGone("volumes")
	if b, _ := os.ReadFile("/proc/self/mounts"); strings.Contains(string(b), r.agent.podDir(p)) {
		t.Errorf("mounts are left:\n%s", b)
	}
	if _, err := os.Stat(r.agent.podDir(p)); !os.IsNotExist(err) {
		t.Errorf("the pod's folder is left: %v", err)
	}
}

func testInit(t *testing.T, r *rig) {
	r.makePod("init", "cat /s/log; echo app >> /s/log", never, func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		c := first(p)
		c.VolumeMounts = []corev1.VolumeMount{{Name: "s", MountPath: "/s"}}
		step := func(name, script string) corev1.Container {
			i := *c.DeepCopy()
			i.Name, i.Command = name, []string{"/bin/sh", "-c", script}
			return i
		}
		p.Spec.InitContainers = []corev1.Container{step("one", "echo one >> /s/log"), step("two", "grep one /s/log && echo two >> /s/log")}
	})
	p := r.awaitPod("init", "succeeded", succeeded)
	if d := cmp.Diff("one\ntwo\n", r.logOf(p, "c", 0)); d != "" {
		t.Errorf("order (-want +got):\n%s", d)
	}
	for _, s := range p.Status.InitContainerStatuses {
		if s.State.Terminated == nil || s.State.Terminated.ExitCode != 0 {
			t.Errorf("init container %s: %+v", s.Name, s.State)
		}
	}
}

func testSecurity(t *testing.T, r *rig) {
	uid, gid, yes, no := int64(1234), int64(99), true, false
	p := r.makePod("user", "id -u; id -g; id -G; touch /x 2>&1 | grep -c 'Read-only'; grep CapEff /proc/self/status; cat /proc/self/cgroup | grep '^0::'; grep NoNewPrivs /proc/self/status", never, func(p *corev1.Pod) {
		p.Spec.SecurityContext = &corev1.PodSecurityContext{SupplementalGroups: []int64{55}}
		first(p).SecurityContext = &corev1.SecurityContext{RunAsUser: &uid, RunAsGroup: &gid, RunAsNonRoot: &yes, ReadOnlyRootFilesystem: &yes,
			AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
	})
	r.awaitPod("user", "succeeded", succeeded)
	want := "1234\n99\n99 55 77\n1\nCapEff:\t0000000000000000\n0::" + r.agent.cgroup(p, "c") + "\nNoNewPrivs:\t1\n"
	if d := cmp.Diff(want, r.logOf(p, "c", 0)); d != "" {
		t.Errorf("identity (-want +got):\n%s", d)
	}
	p = r.makePod("caps", "grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status", never, func(p *corev1.Pod) {
		first(p).SecurityContext = &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_BIND_SERVICE"}}}
	})
	r.awaitPod("caps", "succeeded", succeeded)
	if d := cmp.Diff("CapEff:\t0000000000000400\nNoNewPrivs:\t0\n", r.logOf(p, "c", 0)); d != "" {
		t.Errorf("capabilities (-want +got):\n%s", d)
	}
	r.makePod("root", "id", func(p *corev1.Pod) { first(p).SecurityContext = &corev1.SecurityContext{RunAsNonRoot: &yes} })
	r.awaitPod("root", "is refused by its security", waitsFor("CreateContainerConfigError"))
	r.makePod("priv", "ls /dev | grep -c kmsg; touch /sys/kernel/x 2>&1 | grep -c denied; hostname", never, func(p *corev1.Pod) {
		first(p).SecurityContext = &corev1.SecurityContext{Privileged: &yes}
		p.Spec.HostNetwork, p.Spec.HostPID = true, true
	})
	r.awaitPod("priv", "ends", func(p *corev1.Pod) bool { return succeeded(p) || failed(p) })
	r.remove(key("root"), nil)
	r.awaitGone("root")
}

// waitsFor tells whether the first container waits for a reason.
func waitsFor(reason string) func(p *corev1.Pod) bool {
	return func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == reason
	}
}

func testFailures(t *testing.T, r *rig) {
	r.makePod("fails", "echo last words > /dev/termination-log; exit 3", never)
	p := r.awaitPod("fails", "failed", failed)
	x := p.Status.ContainerStatuses[0].State.Terminated
	if x == nil || x.ExitCode != 3 || x.Reason != "Error" || x.Message != "last words\n" {
		t.Errorf("exit: %+v", x)
	}
	r.makePod("logs", "echo a; echo b; exit 1", never, func(p *corev1.Pod) {
		first(p).TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	})
	p = r.awaitPod("logs", "failed", failed)
	if x := p.Status.ContainerStatuses[0].State.Terminated; x.Message != "a\nb\n" {
		t.Errorf("message from the log: %q", x.Message)
	}
	r.makePod("noprog", "", never, func(p *corev1.Pod) { first(p).Command = []string{"/nope"} })
	p = r.awaitPod("noprog", "failed", failed)
	if x := p.Status.ContainerStatuses[0].State.Terminated; x.ExitCode != 128 || x.Reason != "StartError" || !strings.Contains(x.Message, "/nope") {
		t.Errorf("start error: %+v", x)
	}
	r.makePod("nocm", "", func(p *corev1.Pod) {
		first(p).EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "later"}}}}
		first(p).Command = []string{"/bin/sh", "-c", "echo $K; sleep 1000"}
	})
	r.awaitPod("nocm", "waits for its ConfigMap", waitsFor("CreateContainerConfigError"))
	r.put(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "later", Namespace: "default"}, Data: map[string]string{"K": "v"}}, "")
	r.awaitPod("nocm", "ready", podReady)
}

func testRestarts(t *testing.T, r *rig) {
	r.makePod("crash", "exit 7", func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure })
	p := r.awaitPod("crash", "backs off", waitsFor("CrashLoopBackOff"))
	s := p.Status.ContainerStatuses[0]
	if s.RestartCount != 1 || s.LastTerminationState.Terminated == nil || s.LastTerminationState.Terminated.ExitCode != 7 || p.Status.Phase != corev1.PodRunning {
		t.Errorf("crash loop: %s", describe(p))
	}
	r.await("an event tells of the back-off", func(v *kernel.View) bool {
		for _, e := range kinds.Events.List(v, "default") {
			if e.InvolvedObject.Name == "crash" && e.Reason == "BackOff" {
				return true
			}
		}
		return false
	})
	r.remove(key("crash"), nil)
	r.awaitGone("crash")
	r.makePod("once", "[ -e /s/x ] && exit 0; touch /s/x; exit 1", func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
		p.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		first(p).VolumeMounts = []corev1.VolumeMount{{Name: "s", MountPath: "/s"}}
	})
	p = r.awaitPod("once", "succeeds the second time", succeeded)
	if p.Status.ContainerStatuses[0].RestartCount != 1 {
		t.Errorf("restarts: %s", describe(p))
	}
}

// testSharedShim: the containers of a pod share a shim, which the first of them
// brought; the others must not notice when that one is restarted.
func testSharedShim(t *testing.T, r *rig) {
	r.makePod("shared", "sleep 0.3; exit 1", func(p *corev1.Pod) {
		d := *first(p).DeepCopy()
		d.Name, d.Command = "d", []string{"/bin/sh", "-c", "sleep 1000"}
		p.Spec.Containers = append(p.Spec.Containers, d)
	})
	p := r.awaitPod("shared", "restarts its first container", func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses
		return len(s) == 2 && s[0].RestartCount == 1 && s[0].State.Waiting != nil
	})
	d := p.Status.ContainerStatuses[1]
	if d.RestartCount != 0 || d.State.Running == nil {
		t.Errorf("the other container: %s", describe(p))
	}
	out, code, err := r.agent.rt.Output(t.Context(), strings.TrimPrefix(d.ContainerID, "containerd://"), []string{"/bin/echo", "alive"}, 5*time.Second, 100)
	if out != "alive\n" || code != 0 || err != nil {
		t.Errorf("exec beside it: %q %d %v", out, code, err)
	}
	short := int64(1)
	r.remove(key("shared"), &short)
	r.awaitGone("shared")
}

func testOOM(t *testing.T, r *rig) {
	r.makePod("oom", "tail /dev/zero", never, func(p *corev1.Pod) {
		first(p).Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi"), corev1.ResourceCPU: resource.MustParse("500m")}
	})
	p := r.awaitPod("oom", "failed", failed)
	if x := p.Status.ContainerStatuses[0].State.Terminated; x.Reason != "OOMKilled" || x.ExitCode != 137 {
		t.Errorf("oom: %+v", x)
	}
}

// testCPU: a limit and a request reach the cgroup.
func testCPU(t *testing.T, r *rig) {
	p := r.makePod("cpu", "sleep 1000", func(p *corev1.Pod) {
		first(p).Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m")}
	})
	r.awaitPod("cpu", "ready", podReady)
	for _, f := range []struct{ v1, v2, want1, want2 string }{
		{"cpu.cfs_quota_us", "cpu.max", "50000\n", "50000 100000\n"}, {"cpu.shares", "cpu.weight", "512\n", "20\n"},
	} {
		b, err := os.ReadFile("/sys/fs/cgroup/cpu" + r.agent.cgroup(p, "c") + "/" + f.v1)
		want := f.want1
		if err != nil {
			b, err = os.ReadFile("/sys/fs/cgroup" + r.agent.cgroup(p, "c") + "/" + f.v2)
			want = f.want2
		}
		if err != nil || string(b) != want {
			t.Errorf("%s: %q %v, want %q", f.v1, b, err, want)
		}
	}
}

func testProbes(t *testing.T, r *rig) {
	r.makePod("probed", "httpd -p 8080 -h /tmp; sleep 0.5; touch /tmp/ready; sleep 1000", func(p *corev1.Pod) {
		c := first(p)
		c.StartupProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}, PeriodSeconds: 1}
		c.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromInt32(8080)}}, PeriodSeconds: 1}
		c.LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/sh", "-c", "[ ! -e /tmp/sick ]"}}}, PeriodSeconds: 1, FailureThreshold: 1}
	})
	r.awaitPod("probed", "runs, not ready", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning && !podReady(p) })
	p := r.awaitPod("probed", "ready", podReady)
	id := p.Status.ContainerStatuses[0].ContainerID
	ctx := context.Background()
	if _, code, err := r.agent.rt.Output(ctx, strings.TrimPrefix(id, "containerd://"), []string{"/bin/touch", "/tmp/sick"}, time.Second*5, 100); err != nil || code != 0 {
		t.Fatal(code, err)
	}
	p = r.awaitPod("probed", "restarted by its liveness probe", func(p *corev1.Pod) bool {
		return podReady(p) && p.Status.ContainerStatuses[0].RestartCount == 1
	})
	if p.Status.ContainerStatuses[0].ContainerID == id {
		t.Error("the container id did not change")
	}
}

func testHooks(t *testing.T, r *rig) {
	dir := t.TempDir()
	os.Chmod(dir, 0o777)
	r.makePod("hooks", "trap 'echo term >> /h/log; exit 0' TERM; while :; do sleep 0.05; done", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "h", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}}}}
		c := first(p)
		c.VolumeMounts = []corev1.VolumeMount{{Name: "h", MountPath: "/h"}}
		hook := func(s string) *corev1.LifecycleHandler {
			return &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/sh", "-c", s}}}
		}
		c.Lifecycle = &corev1.Lifecycle{PostStart: hook("echo post >> /h/log"), PreStop: hook("sleep 0.3; echo pre >> /h/log")}
	})
	r.awaitPod("hooks", "ready", podReady)
	for range 200 {
		if b, _ := os.ReadFile(dir + "/log"); len(b) > 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.remove(key("hooks"), nil)
	r.awaitGone("hooks")
	b, _ := os.ReadFile(dir + "/log")
	if d := cmp.Diff("post\npre\nterm\n", string(b)); d != "" {
		t.Errorf("hooks (-want +got):\n%s", d)
	}
	r.makePod("deaf", "trap '' TERM; while :; do sleep 0.05; done")
	r.awaitPod("deaf", "ready", podReady)
	grace, begin := int64(1), time.Now()
	r.remove(key("deaf"), &grace)
	r.awaitGone("deaf")
	if took := time.Since(begin); took < time.Second || took > 4*time.Second {
		t.Errorf("a pod that ignores SIGTERM went after %s", took)
	}
}

func testImages(t *testing.T, r *rig) {
	r.makePod("noimage", "", func(p *corev1.Pod) {
		first(p).Image, first(p).ImagePullPolicy = "nothing.local/x:1", corev1.PullNever
	})
	r.awaitPod("noimage", "says that its image is not here", waitsFor("ErrImageNeverPull"))
	r.remove(key("noimage"), nil)
	r.awaitGone("noimage")
	reg := startRegistry(t, "")
	name := reg + "/app:1"
	r.makePod("pulled", "", func(p *corev1.Pod) {
		first(p).Image, first(p).ImagePullPolicy = name, corev1.PullAlways
	})
	r.awaitPod("pulled", "cannot pull yet", waitsFor("ErrImagePull"))
	pushImage(t, r, name)
	r.remove(key("pulled"), nil)
	r.awaitGone("pulled")
	r.makePod("pulled2", "sleep 1000", func(p *corev1.Pod) {
		first(p).Image, first(p).ImagePullPolicy = name, corev1.PullAlways
	})
	p := r.awaitPod("pulled2", "ready", podReady)
	if id := p.Status.ContainerStatuses[0].ImageID; !strings.HasPrefix(id, reg+"/app@sha256:") {
		t.Errorf("imageID: %s", id)
	}
	private := startRegistry(t, withUser(t, "me", "pw")) + "/app:1"
	pushImage(t, r, private, "--user", "me:pw")
	host, _, _ := strings.Cut(private, "/")
	r.put(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "pull", Namespace: "default"}, Type: corev1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths":{"` + host + `":{"username":"me","password":"pw"}}}`)}}, "")
	for name, secrets := range map[string][]corev1.LocalObjectReference{"stranger": nil, "friend": {{Name: "pull"}}} {
		r.makePod(name, "sleep 1000", func(p *corev1.Pod) {
			first(p).Image, first(p).ImagePullPolicy, p.Spec.ImagePullSecrets = private, corev1.PullAlways, secrets
		})
	}
	r.awaitPod("stranger", "is not let in", waitsFor("ErrImagePull"))
	r.awaitPod("friend", "ready", podReady)
}

func testAdmission(t *testing.T, r *rig) {
	r.makePod("big", "", func(p *corev1.Pod) {
		first(p).Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1000")}
	})
	p := r.awaitPod("big", "is refused", failed)
	if p.Status.Reason != "OutOfcpu" {
		t.Errorf("reason: %s", describe(p))
	}
	r.remove(key("big"), nil)
	r.awaitGone("big")
}

// testStreams: logs, exec and port-forward through kubelet's paths.
func testStreams(t *testing.T, r *rig) {
	p := r.makePod("streams", "echo one; echo two >&2; mkdir -p /tmp/w; echo page > /tmp/w/index.html; httpd -p 127.0.0.1:8081 -h /tmp/w; sleep 1000")
	r.awaitPod("streams", "ready", podReady)
	r.awaitLog(p, "c", "two")
	s := httptest.NewServer(r.agent.StreamHandler())
	defer s.Close()
	get := func(path string) string {
		t.Helper()
		res, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return string(b)
	}
	if got := get("/containerLogs/default/streams/c?tailLines=2"); !strings.Contains(got, "one\n") || !strings.Contains(got, "two\n") {
		t.Errorf("logs: %q", got)
	}
	if got := get("/containerLogs/default/streams/c?stream=Stderr"); got != "two\n" {
		t.Errorf("stderr: %q", got)
	}
	if got := get("/containerLogs/default/streams/c?previous=true"); !strings.Contains(got, "previous terminated container") {
		t.Errorf("previous: %q", got)
	}
	ws := "ws" + strings.TrimPrefix(s.URL, "http")
	out, status := execWS(t, ws+"/exec/default/streams/c?command=/bin/sh&command=-c&command=cat%3Becho+err+%3E%262%3Bexit+5&input=1&output=1&error=1", "hello\n")
	if out[1] != "hello\n" || out[2] != "err\n" {
		t.Errorf("exec: %q", out)
	}
	if status.Details == nil || status.Details.Causes[0].Message != "5" {
		t.Errorf("exit status: %+v", status)
	}
	out, status = execWS(t, ws+"/exec/default/streams/c?command=/bin/stty&command=size&tty=1&output=1&input=1", "")
	if status.Status != metav1.StatusSuccess || !strings.Contains(out[1], "33 77") {
		t.Errorf("tty: %q %+v", out, status)
	}
	if got := forwardWS(t, ws+"/portForward/default/streams?port=8081", "GET / HTTP/1.0\r\n\r\n"); !strings.Contains(got, "page") {
		t.Errorf("port-forward: %q", got)
	}
}

// testAttach: an attached client sees what is printed from then on and writes
// to the input.
func testAttach(t *testing.T, r *rig) {
	r.makePod("attach", "echo before; while read x; do echo got $x; done; echo end", never, func(p *corev1.Pod) {
		first(p).Stdin, first(p).StdinOnce = true, true
	})
	p := r.awaitPod("attach", "ready", podReady)
	r.awaitLog(p, "c", "before")
	s := httptest.NewServer(r.agent.StreamHandler())
	defer s.Close()
	out, status := execWS(t, "ws"+strings.TrimPrefix(s.URL, "http")+"/attach/default/attach/c?stdin=true&stdout=true&stderr=true", "one\ntwo\n")
	if out[1] != "got one\ngot two\nend\n" || status.Status != metav1.StatusSuccess {
		t.Errorf("attach: %q %+v", out, status)
	}
	r.awaitPod("attach", "ends with its input", succeeded)
}

// testRouted: SIGTERM waits until the pod's endpoint is not ready any more and the
// datapath knows it.
func testRouted(t *testing.T, r *rig) {
	p := r.makePod("routed", "trap 'echo term; exit 0' TERM; while :; do sleep 0.02; done")
	r.awaitPod("routed", "ready", podReady)
	yes, no := true, false
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "default"}, AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.42.0.9"}, Conditions: discoveryv1.EndpointConditions{Ready: &yes},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "routed", UID: p.UID}}}}
	r.put(slice, "")
	r.remove(key("routed"), nil)
	time.Sleep(300 * time.Millisecond)
	if got := r.logOf(p, "c", 0); strings.Contains(got, "term") {
		t.Error("SIGTERM came while the endpoint was ready")
	}
	begin := time.Now()
	r.change(kinds.EndpointSlices.Key("default", "s"), func(o kernel.Object) { o.(*discoveryv1.EndpointSlice).Endpoints[0].Conditions.Ready = &no })
	r.awaitGone("routed")
	if took := time.Since(begin); took > time.Second {
		t.Errorf("it went %s after its endpoint", took)
	}
}

// execWS runs a command by the fifth channel protocol.
func execWS(t *testing.T, url, input string) (map[byte]string, metav1.Status) {
	t.Helper()
	d := websocket.Dialer{Subprotocols: []string{"v5.channel.k8s.io"}}
	c, _, err := d.Dial(url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.WriteMessage(websocket.BinaryMessage, []byte(string([]byte{channelResize})+`{"Width":77,"Height":33}`))
	if input != "" {
		c.WriteMessage(websocket.BinaryMessage, append([]byte{channelStdin}, input...))
		c.WriteMessage(websocket.BinaryMessage, []byte{255, channelStdin})
	}
	out := map[byte]string{}
	for {
		_, b, err := c.ReadMessage()
		if err != nil {
			break
		}
		out[b[0]] += string(b[1:])
	}
	var s metav1.Status
	if err := json.Unmarshal([]byte(out[channelError]), &s); err != nil {
		t.Fatalf("status: %v in %q", err, out)
	}
	return out, s
}

// forwardWS forwards one port by the fourth channel protocol.
func forwardWS(t *testing.T, url, request string) string {
	t.Helper()
	d := websocket.Dialer{Subprotocols: []string{"v4.channel.k8s.io"}}
	c, _, err := d.Dial(url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.WriteMessage(websocket.BinaryMessage, append([]byte{0}, request...))
	var out bytes.Buffer
	for {
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, b, err := c.ReadMessage()
		if err != nil {
			return out.String()
		}
		if b[0] == 0 {
			out.Write(b[1:])
		} else if len(b) > 3 {
			return fmt.Sprintf("error: %s", b[1:])
		}
		if strings.Contains(out.String(), "page") {
			return out.String()
		}
	}
}

// freePort finds a port that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
