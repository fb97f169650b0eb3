package nodeagent

import (
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func asks(cpu, memory string) *corev1.Pod {
	return &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}}}}}}
}

func listens(port int32, ip string) *corev1.Pod {
	return &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{HostPort: port, HostIP: ip, Protocol: corev1.ProtocolTCP}}}}}}
}

func TestAdmitPod(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"disk": "ssd"}}}
	node.Status.Allocatable = resources(2, 1<<30, 1<<30)
	full := make([]*corev1.Pod, podsMax)
	for i := range full {
		full[i] = &corev1.Pod{}
	}
	selects := &corev1.Pod{Spec: corev1.PodSpec{NodeSelector: map[string]string{"disk": "hdd"}}}
	for _, c := range []struct {
		name   string
		others []*corev1.Pod
		pod    *corev1.Pod
		want   string
	}{
		{"fits", []*corev1.Pod{asks("1", "512Mi")}, asks("1", "512Mi"), ""},
		{"cpu", []*corev1.Pod{asks("1500m", "1Mi")}, asks("501m", "1Mi"), "OutOfcpu"},
		{"memory", []*corev1.Pod{asks("1m", "1Gi")}, asks("1m", "1"), "OutOfmemory"},
		{"nothing asked of a full node", []*corev1.Pod{asks("2", "1Gi")}, &corev1.Pod{}, ""},
		{"pods", full, &corev1.Pod{}, "OutOfpods"},
		{"port", []*corev1.Pod{listens(80, "")}, listens(80, "10.0.0.1"), "NodePorts"},
		{"port of another address", []*corev1.Pod{listens(80, "10.0.0.2")}, listens(80, "10.0.0.1"), ""},
		{"selector", nil, selects, "NodeAffinity"},
	} {
		got := ""
		if v := AdmitPod(node, c.others, c.pod); v != nil {
			got = v.Reason
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestRequestsOfInitContainersAndSidecars(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	c := func(cpu string, p *corev1.ContainerRestartPolicy) corev1.Container {
		return corev1.Container{RestartPolicy: p, Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}}
	}
	p := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{c("3", nil), c("1", &always), c("4", nil)},
		Containers:     []corev1.Container{c("2", nil), c("1", nil)},
	}}
	if got := Requests(p)[corev1.ResourceCPU]; got.String() != "5" {
		t.Errorf("requests %s cpu, want 5: the last init container beside the sidecar", got.String())
	}
}

func TestResolvFile(t *testing.T) {
	node := "nameserver 1.1.1.1\nsearch example.org .\noptions edns0\n"
	two := "2"
	for _, c := range []struct {
		name string
		spec corev1.PodSpec
		want string
	}{
		{"cluster first", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst},
			"search ns.svc.cluster.local svc.cluster.local cluster.local example.org\nnameserver 10.43.0.10\noptions ndots:5\n"},
		{"default", corev1.PodSpec{DNSPolicy: corev1.DNSDefault}, "search example.org\nnameserver 1.1.1.1\noptions edns0\n"},
		{"host network", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, HostNetwork: true}, "search example.org\nnameserver 1.1.1.1\noptions edns0\n"},
		{"none, with config", corev1.PodSpec{DNSPolicy: corev1.DNSNone, DNSConfig: &corev1.PodDNSConfig{
			Nameservers: []string{"9.9.9.9"}, Searches: []string{"a", "a"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}, {Name: "rotate"}}}},
			"search a\nnameserver 9.9.9.9\noptions ndots:2 rotate\n"},
		{"config over the policy", corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst, DNSConfig: &corev1.PodDNSConfig{
			Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}}}},
			"search ns.svc.cluster.local svc.cluster.local cluster.local example.org\nnameserver 10.43.0.10\noptions ndots:2\n"},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: c.spec}
		if d := cmp.Diff(c.want, resolvFile(p, node, "10.43.0.10", "cluster.local")); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}

func TestHostsFile(t *testing.T) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "db-0", Namespace: "ns"}, Spec: corev1.PodSpec{Subdomain: "db",
		HostAliases: []corev1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"a", "b"}}}}}
	got := hostsFile(p, []string{"10.42.0.5"}, "cluster.local")
	for _, want := range []string{"10.42.0.5\tdb-0.db.ns.svc.cluster.local\tdb-0\n", "1.2.3.4\ta\tb\n", "127.0.0.1\tlocalhost\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in:\n%s", want, got)
		}
	}
}

func TestStopSignal(t *testing.T) {
	for name, want := range map[string]syscall.Signal{"": syscall.SIGTERM, "SIGQUIT": syscall.SIGQUIT, "USR1": syscall.SIGUSR1, "9": syscall.SIGKILL, "nonsense": syscall.SIGTERM} {
		if got := stopSignal(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}

// TestNodeOfIsSteady: a Node that nothing happened to is not written again, and
// what others wrote stays.
func TestNodeOfIsSteady(t *testing.T) {
	cfg := &Config{Node: "n1", Hostname: "n1", Listen: "10.0.0.1:10250", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
	m := machine{cpus: 2, memory: 1 << 30, memoryAvailable: 1 << 29, disk: 1 << 30, diskAvailable: 1 << 29, pidsMax: 100, pids: 5}
	at := time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)
	n := NodeOf(nil, cfg, m, at)
	n.Labels["mine"] = "yes"
	n.Spec.PodCIDR = "10.42.0.0/24"
	again := NodeOf(n, cfg, m, at.Add(time.Hour))
	if !apiequality.Semantic.DeepEqual(n, again) {
		t.Errorf("the Node changed (-first +second):\n%s", cmp.Diff(n, again))
	}
	m.notReady = "no network"
	bad := NodeOf(n, cfg, m, at.Add(time.Hour))
	for _, c := range bad.Status.Conditions {
		if c.Type == corev1.NodeReady && (c.Status != corev1.ConditionFalse || !c.LastTransitionTime.Time.Equal(at.Add(time.Hour)) || c.Message != "no network") {
			t.Errorf("not ready: %+v", c)
		}
	}
	if bad.Status.DaemonEndpoints.KubeletEndpoint.Port != 10250 {
		t.Error("the port of the streams is not told")
	}
}

func TestOOMScore(t *testing.T) {
	node := resources(1, 1000<<20, 0)
	for _, c := range []struct {
		class  corev1.PodQOSClass
		memory string
		want   int
	}{{corev1.PodQOSGuaranteed, "1Mi", -997}, {corev1.PodQOSBestEffort, "0", 1000}, {corev1.PodQOSBurstable, "500Mi", 500}, {corev1.PodQOSBurstable, "1", 999}} {
		p := asks("1", c.memory)
		p.Status.QOSClass = c.class
		if got := oomScore(p, &p.Spec.Containers[0], node); got != c.want {
			t.Errorf("%s with %s: %d, want %d", c.class, c.memory, got, c.want)
		}
	}
}

func TestNoteOf(t *testing.T) {
	running := func(name, id string) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: name, ContainerID: id, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	}
	old := &corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{running("a", "1"), {Name: "b"}, {Name: "c"}}}
	now := &corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{
		{Name: "a", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3, Reason: "Error"}}}, running("b", "2"), running("c", "3")}}
	if d := cmp.Diff("container a ended with 3 (Error); started containers b, c", NoteOf(old, now)); d != "" {
		t.Error(d)
	}
}

// TestFirstProbe: a container is asked for the first time when its delay is
// over, whatever the clock was set to since it started.
func TestFirstProbe(t *testing.T) {
	const delay = 10 * time.Second
	for ran, want := range map[time.Duration]time.Duration{
		0: delay, 4 * time.Second: 6 * time.Second, delay: 0, 3 * time.Hour: 0,
		-3 * time.Hour: delay, // it started before the clock was set back
	} {
		if got := firstProbe(ran, delay); got != want {
			t.Errorf("after %s: %s, want %s", ran, got, want)
		}
	}
}

// TestEndedByMistake: a pod that was ended because a View lacked it, and that is
// there after all, begins again.
func TestEndedByMistake(t *testing.T) {
	p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	if a := Decide(Goal{Pod: p}, &World{Admitted: true, TornDown: true}, time.Now()); a.Do != Forget {
		t.Errorf("%+v, want its state to be forgotten", a)
	}
}
