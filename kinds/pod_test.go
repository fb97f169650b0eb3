package kinds

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/rutterhq/rutter/kernel"
)

// A pod as most are written is accepted as a whole: defaults, admission,
// validation. A second pass of the defaults changes nothing.
func TestPodsAreAccepted(t *testing.T) {
	body, err := os.ReadFile("testdata/pods.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range strings.Split(string(body), "\n---\n") {
		p := &corev1.Pod{}
		if err := yaml.UnmarshalStrict([]byte(doc), p); err != nil {
			t.Fatal(err)
		}
		w := newWorld(t)
		made := w.create(p).(*corev1.Pod)
		again := made.DeepCopy()
		defaultPod(again)
		if d := cmp.Diff(made.Spec, again.Spec); d != "" {
			t.Errorf("%s: defaulting twice: %s", made.Name, d)
		}
	}
}

func running(name string, restarts int32) corev1.ContainerStatus {
	return corev1.ContainerStatus{
		Name: name, Ready: true, RestartCount: restarts,
		State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
	}
}

func waiting(name, reason string) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: name, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}
}

func ended(name string, code int32, reason string) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: name, State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason}}}
}

func TestPodColumns(t *testing.T) {
	at := metav1.NewTime(testNow.Add(-time.Hour))
	died := running("c", 3)
	died.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{FinishedAt: metav1.NewTime(testNow.Add(-5 * time.Minute))}
	ready := []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	for want, p := range map[string]corev1.Pod{
		"1/1 Running 0":          {Status: corev1.PodStatus{Phase: "Running", Conditions: ready, ContainerStatuses: []corev1.ContainerStatus{running("c", 0)}}},
		"1/1 Running 3 (5m ago)": {Status: corev1.PodStatus{Phase: "Running", ContainerStatuses: []corev1.ContainerStatus{died}}},
		"0/1 CrashLoopBackOff 0": {Status: corev1.PodStatus{Phase: "Running", ContainerStatuses: []corev1.ContainerStatus{waiting("c", "CrashLoopBackOff")}}},
		"0/1 ImagePullBackOff 0": {Status: corev1.PodStatus{Phase: "Pending", ContainerStatuses: []corev1.ContainerStatus{waiting("c", "ImagePullBackOff")}}},
		"0/1 Pending 0":          {Status: corev1.PodStatus{Phase: "Pending"}},
		"0/1 Completed 0":        {Status: corev1.PodStatus{Phase: "Succeeded", ContainerStatuses: []corev1.ContainerStatus{ended("c", 0, "Completed")}}},
		"0/1 ExitCode:3 0":       {Status: corev1.PodStatus{Phase: "Failed", ContainerStatuses: []corev1.ContainerStatus{ended("c", 3, "")}}},
		"0/1 Evicted 0":          {Status: corev1.PodStatus{Phase: "Failed", Reason: "Evicted"}},
		"0/1 Init:0/1 0": {
			Spec:   corev1.PodSpec{InitContainers: []corev1.Container{{Name: "i"}}},
			Status: corev1.PodStatus{Phase: "Pending", InitContainerStatuses: []corev1.ContainerStatus{running("i", 0)}, ContainerStatuses: []corev1.ContainerStatus{waiting("c", "PodInitializing")}},
		},
		"0/1 Init:Error 0": {
			Spec:   corev1.PodSpec{InitContainers: []corev1.Container{{Name: "i"}}},
			Status: corev1.PodStatus{Phase: "Pending", InitContainerStatuses: []corev1.ContainerStatus{ended("i", 1, "Error")}},
		},
		"0/1 PodInitializing 0": {
			Spec:   corev1.PodSpec{InitContainers: []corev1.Container{{Name: "i"}}},
			Status: corev1.PodStatus{Phase: "Pending", InitContainerStatuses: []corev1.ContainerStatus{ended("i", 0, "Completed")}, ContainerStatuses: []corev1.ContainerStatus{waiting("c", "PodInitializing")}},
		},
		"1/1 Terminating 0": {
			ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &at},
			Status:     corev1.PodStatus{Phase: "Running", ContainerStatuses: []corev1.ContainerStatus{running("c", 0)}},
		},
		"0/1 SchedulingGated 0": {Status: corev1.PodStatus{Phase: "Pending", Conditions: []corev1.PodCondition{{Type: "PodScheduled", Reason: "SchedulingGated"}}}},
	} {
		p.Name, p.CreationTimestamp, p.Spec.Containers = "p", at, []corev1.Container{{Name: "c"}}
		var cells []string
		for _, c := range Pods.Cells(&p, testNow) {
			cells = append(cells, c.(string))
		}
		if got := strings.Join(cells, " "); got != "p "+want+" 60m <none> <none> <none> <none>" {
			t.Errorf("columns %q, want %q between name and age", got, want)
		}
	}
}

func TestPodGrace(t *testing.T) {
	for _, c := range []struct {
		name  string
		node  string
		phase corev1.PodPhase
		spec  int64
		asked *int64
		want  int64
	}{
		{"the pod's own", "n", corev1.PodRunning, 30, nil, 30},
		{"what was asked for", "n", corev1.PodRunning, 30, pointer[int64](5), 5},
		{"by force", "n", corev1.PodRunning, 30, pointer[int64](0), 0},
		{"less than none", "n", corev1.PodRunning, 30, pointer[int64](-1), 1},
		{"not bound", "", corev1.PodPending, 30, nil, 0},
		{"failed", "n", corev1.PodFailed, 30, pointer[int64](9), 0},
		{"done", "n", corev1.PodSucceeded, 30, nil, 0},
	} {
		p := testPod("p")
		p.Spec.NodeName, p.Spec.TerminationGracePeriodSeconds, p.Status.Phase = c.node, &c.spec, c.phase
		if got := Pods.GraceOf(p, c.asked); got != c.want {
			t.Errorf("%s: %d s, want %d", c.name, got, c.want)
		}
	}
}

func TestPodChangesAreNamed(t *testing.T) {
	condition := func(p *corev1.Pod, kind corev1.PodConditionType, is corev1.ConditionStatus, reason string) {
		p.Status.Conditions = []corev1.PodCondition{{Type: kind, Status: is, Reason: reason}}
	}
	old := func(change func(*corev1.Pod)) *corev1.Pod {
		p := testPod("p")
		p.Spec.NodeName, p.Status.Phase = "n", corev1.PodRunning
		p.Status.ContainerStatuses = []corev1.ContainerStatus{running("c", 0)}
		change(p)
		return p
	}
	for _, c := range []struct {
		want     string
		old, now func(*corev1.Pod)
	}{
		{"pod.bound", func(p *corev1.Pod) { p.Spec.NodeName = "" }, func(p *corev1.Pod) {}},
		{"pod.started", func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }, func(p *corev1.Pod) {}},
		{"pod.succeeded", func(p *corev1.Pod) {}, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }},
		{"pod.failed", func(p *corev1.Pod) {}, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }},
		{"pod.ready", func(p *corev1.Pod) {}, func(p *corev1.Pod) { condition(p, corev1.PodReady, corev1.ConditionTrue, "") }},
		{"pod.unready", func(p *corev1.Pod) { condition(p, corev1.PodReady, corev1.ConditionTrue, "") }, func(p *corev1.Pod) {}},
		{"pod.unschedulable", func(p *corev1.Pod) {}, func(p *corev1.Pod) {
			condition(p, corev1.PodScheduled, corev1.ConditionFalse, corev1.PodReasonUnschedulable)
		}},
		{"container.died", func(p *corev1.Pod) {}, func(p *corev1.Pod) { p.Status.ContainerStatuses[0] = ended("c", 1, "Error") }},
		{"container.restarted", func(p *corev1.Pod) { p.Status.ContainerStatuses[0] = ended("c", 1, "Error") },
			func(p *corev1.Pod) { p.Status.ContainerStatuses[0] = running("c", 1) }},
		{"pod.deleting", func(p *corev1.Pod) {}, func(p *corev1.Pod) {
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: testNow}, pointer[int64](30)
		}},
		{"pod.deleted", func(p *corev1.Pod) {}, func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: testNow} }},
		{"pod.updated", func(p *corev1.Pod) {}, func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} }},
	} {
		if got := Pods.TypeOfChange(old(c.now), old(c.old)); got != c.want {
			t.Errorf("a change is named %q, want %q", got, c.want)
		}
	}
	if got := Pods.TypeOfChange(old(func(*corev1.Pod) {}), nil); got != "pod.created" {
		t.Errorf("a create is named %q", got)
	}
}

func TestPodQOS(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		l := corev1.ResourceList{}
		for n, q := range map[corev1.ResourceName]string{corev1.ResourceCPU: cpu, corev1.ResourceMemory: memory} {
			if q != "" {
				l[n] = resource.MustParse(q)
			}
		}
		return l
	}
	container := func(requests, limits corev1.ResourceList) corev1.Container {
		return corev1.Container{Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits}}
	}
	full := container(list("1", "1Gi"), list("1", "1Gi"))
	for _, c := range []struct {
		want       corev1.PodQOSClass
		containers []corev1.Container
	}{
		{corev1.PodQOSBestEffort, []corev1.Container{{}, {}}},
		{corev1.PodQOSGuaranteed, []corev1.Container{full, full}},
		{corev1.PodQOSBurstable, []corev1.Container{full, {}}},
		{corev1.PodQOSBurstable, []corev1.Container{container(list("1", ""), list("1", ""))}},
		{corev1.PodQOSBurstable, []corev1.Container{container(list("1", "1Gi"), list("2", "1Gi"))}},
	} {
		if got := podQOS(&corev1.PodSpec{Containers: c.containers}); got != c.want {
			t.Errorf("%v: %s, want %s", c.containers, got, c.want)
		}
	}
}

func TestPodAdmission(t *testing.T) {
	w := newWorld(t,
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "quiet", Namespace: "default"},
			AutomountServiceAccountToken: pointer(false), ImagePullSecrets: []corev1.LocalObjectReference{{Name: "registry"}}},
		&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 1000, PreemptionPolicy: pointer(corev1.PreemptNever)},
		&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "usual"}, Value: 10, GlobalDefault: true},
	)
	p := w.create(testPod("p")).(*corev1.Pod)
	if p.Spec.ServiceAccountName != "default" || p.Spec.PriorityClassName != "usual" || *p.Spec.Priority != 10 {
		t.Errorf("account %q, class %q, priority %d", p.Spec.ServiceAccountName, p.Spec.PriorityClassName, *p.Spec.Priority)
	}
	if len(p.Spec.Volumes) != 1 || !strings.HasPrefix(p.Spec.Volumes[0].Name, "kube-api-access-") ||
		len(p.Spec.Containers[0].VolumeMounts) != 1 || p.Spec.Containers[0].VolumeMounts[0].Name != p.Spec.Volumes[0].Name {
		t.Errorf("the token is not mounted: %v, %v", p.Spec.Volumes, p.Spec.Containers[0].VolumeMounts)
	}
	if len(p.Spec.Tolerations) != 2 || *p.Spec.Tolerations[0].TolerationSeconds != 300 {
		t.Errorf("tolerations %v", p.Spec.Tolerations)
	}
	other := testPod("q")
	other.Spec.ServiceAccountName, other.Spec.PriorityClassName = "quiet", "high"
	other.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	q := w.create(other).(*corev1.Pod)
	if len(q.Spec.Volumes) != 0 || q.Spec.ImagePullSecrets[0].Name != "registry" || *q.Spec.Priority != 1000 ||
		*q.Spec.PreemptionPolicy != corev1.PreemptNever || len(q.Spec.Tolerations) != 1 {
		t.Errorf("admitted as %+v", q.Spec)
	}
	for words, change := range map[string]func(*corev1.Pod){
		`serviceaccount "nobody" not found`:                      func(p *corev1.Pod) { p.Spec.ServiceAccountName = "nobody" },
		"no PriorityClass with name none":                        func(p *corev1.Pod) { p.Spec.PriorityClassName = "none" },
		"the integer value of priority (7) must not be provided": func(p *corev1.Pod) { p.Spec.Priority = pointer[int32](7) },
	} {
		bad := testPod("bad")
		change(bad)
		if _, err := w.finish(kernel.Write{Verb: Create, New: bad}); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", words, err)
		}
	}
}

// Who binds a pod must say so: an update of its spec may not.
func TestPodBinding(t *testing.T) {
	w := newWorld(t)
	p := w.create(testPod("p"))
	bind := func(o kernel.Object) { o.(*corev1.Pod).Spec.NodeName = "n" }
	if _, err := w.update(p, "", bind); err == nil || !strings.Contains(err.Error(), "spec.nodeName") {
		t.Errorf("an update bound a pod: %v", err)
	}
	for _, sub := range []string{kernel.Whole, "binding"} {
		if _, err := w.update(p, sub, bind); err != nil {
			t.Errorf("%q: %v", sub, err)
		}
	}
}

func TestPodUpdates(t *testing.T) {
	w := newWorld(t)
	gated := testPod("p")
	gated.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/wait"}}
	gated.Spec.NodeSelector = map[string]string{"a": "b"}
	old := w.create(gated)
	for _, c := range []struct {
		name   string
		change func(*corev1.Pod)
		wrong  string // "": it is right
	}{
		{"image", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "j" }, ""},
		{"no image", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "" }, "spec.containers[0].image"},
		{"command", func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"a"} }, "spec: Forbidden"},
		{"one container more", func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, p.Spec.Containers[0]) }, "spec.containers"},
		{"toleration", func(p *corev1.Pod) {
			p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: "a", Operator: "Exists"})
		}, ""},
		{"longer toleration", func(p *corev1.Pod) { p.Spec.Tolerations[0].TolerationSeconds = pointer[int64](9) }, ""},
		{"other toleration", func(p *corev1.Pod) { p.Spec.Tolerations[0].Effect = "NoSchedule" }, "spec.tolerations"},
		{"gate taken away", func(p *corev1.Pod) { p.Spec.SchedulingGates = nil }, ""},
		{"gate added", func(p *corev1.Pod) {
			p.Spec.SchedulingGates = append(p.Spec.SchedulingGates, corev1.PodSchedulingGate{Name: "b"})
		}, "spec.schedulingGates[1].name"},
		{"stricter while gated", func(p *corev1.Pod) { p.Spec.NodeSelector["c"] = "d" }, ""},
		{"looser while gated", func(p *corev1.Pod) { p.Spec.NodeSelector = nil }, "spec.nodeSelector"},
	} {
		_, err := w.update(old, "", func(o kernel.Object) { c.change(o.(*corev1.Pod)) })
		if (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s: %v, want %q", c.name, err, c.wrong)
		}
	}
}

// What ended stays ended, if nothing starts it again.
func TestPodStatusGoesForward(t *testing.T) {
	for _, c := range []struct {
		policy corev1.RestartPolicy
		code   int32
		may    bool
	}{
		{corev1.RestartPolicyAlways, 0, true}, {corev1.RestartPolicyOnFailure, 1, true},
		{corev1.RestartPolicyOnFailure, 0, false}, {corev1.RestartPolicyNever, 1, false},
	} {
		w := newWorld(t)
		p := testPod("p")
		p.Spec.RestartPolicy = c.policy
		o := w.create(p).(*corev1.Pod).DeepCopy()
		o.Status.ContainerStatuses = []corev1.ContainerStatus{ended("c", c.code, "")}
		_, err := w.update(w.put(o), "status", func(o kernel.Object) {
			o.(*corev1.Pod).Status.ContainerStatuses[0] = running("c", 1)
		})
		if (err == nil) != c.may {
			t.Errorf("%s after %d: %v", c.policy, c.code, err)
		}
	}
}

// What no part acts on is refused by name, and what is acted on is not.
func TestUnsupportedPodFields(t *testing.T) {
	for want, change := range map[string]func(*corev1.PodSpec){
		"": func(s *corev1.PodSpec) {
			s.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
			s.OS = &corev1.PodOS{Name: corev1.Linux}
		},
		"spec.volumes[0].nfs": func(s *corev1.PodSpec) {
			s.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}}}
		},
		"spec.initContainers[0].restartPolicy": func(s *corev1.PodSpec) {
			s.InitContainers = []corev1.Container{{RestartPolicy: pointer(corev1.ContainerRestartPolicyAlways)}}
		},
		"spec.containers[0].resources.limits[example.com/gpu]": func(s *corev1.PodSpec) {
			s.Containers[0].Resources.Limits = corev1.ResourceList{"example.com/gpu": resource.MustParse("1")}
		},
		"spec.hostUsers":             func(s *corev1.PodSpec) { s.HostUsers = pointer(false) },
		"spec.activeDeadlineSeconds": func(s *corev1.PodSpec) { s.ActiveDeadlineSeconds = pointer[int64](1) },
		"spec.runtimeClassName":      func(s *corev1.PodSpec) { s.RuntimeClassName = pointer("kata") },
	} {
		s := &corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}
		change(s)
		var got []string
		for _, e := range unsupportedPodFields(s, field.NewPath("spec")) {
			got = append(got, e.Field)
			if e.Detail != "not supported yet" {
				t.Errorf("%s: %s", e.Field, e.Detail)
			}
		}
		if want := strings.Fields(want); !slices.Equal(got, want) {
			t.Errorf("refused %v, want %v", got, want)
		}
	}
}

// Who makes pods is told of it at once, and once.
func TestUnsupportedTemplateFields(t *testing.T) {
	tmpl := &corev1.PodTemplateSpec{Spec: corev1.PodSpec{HostUsers: pointer(false)}}
	path := field.NewPath("spec", "template")
	if errs := admitPodTemplate(tmpl, nil, path); len(errs) != 1 || errs[0].Field != "spec.template.spec.hostUsers" {
		t.Errorf("a create: %v", errs)
	}
	if errs := admitPodTemplate(tmpl, tmpl.DeepCopy(), path); len(errs) != 0 {
		t.Errorf("an update of something else: %v", errs)
	}
}

// A namespace that asks for a level of pod security gets it.
func TestPodSecurityLevels(t *testing.T) {
	level := func(name string) kernel.Object {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Labels: map[string]string{enforceLabel: name}}}
	}
	host := testPod("host")
	host.Spec.HostNetwork = true
	hardened := testPod("hardened")
	hardened.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: pointer(true), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
	hardened.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{
		AllowPrivilegeEscalation: pointer(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
	for _, c := range []struct {
		level string
		pod   *corev1.Pod
		wrong string
	}{
		{"privileged", host, ""}, {"baseline", host, "host namespaces (spec.hostNetwork)"}, {"baseline", testPod("p"), ""},
		{"restricted", testPod("p"), "runAsNonRoot != true"}, {"restricted", hardened, ""}, {"unheard-of", testPod("p"), "restricted:latest"},
	} {
		w := newWorld(t, level(c.level))
		errs := admitPodSecurity(w.view, "default", c.pod)
		if (len(errs) == 0) != (c.wrong == "") || len(errs) > 0 && !strings.Contains(errs[0].Detail, c.wrong) {
			t.Errorf("%s of %s: %v, want %q", c.level, c.pod.Name, errs, c.wrong)
		}
	}
}
