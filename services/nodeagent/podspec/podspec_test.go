package podspec

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

func TestExpand(t *testing.T) {
	values := map[string]string{"A": "a", "EMPTY": ""}
	for in, want := range map[string]string{
		"plain": "plain", "$(A)": "a", "x$(A)y$(A)": "xaya", "$(EMPTY)": "", "$(NOPE)": "$(NOPE)", "$$(A)": "$(A)", "$$$(A)": "$a",
		"$A": "$A", "$(A": "$(A", "$": "$", "a$": "a$", "$()": "$()", "$$": "$",
	} {
		if got := Expand(in, values); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func view(objects ...kernel.Object) *kernel.View {
	return kernel.NewView(kinds.Schema{}).With(objects...)
}

func TestEnvOfServices(t *testing.T) {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "my-db"}, Spec: corev1.ServiceSpec{ClusterIP: "10.43.0.7",
		Ports: []corev1.ServicePort{{Name: "sql", Port: 5432, Protocol: corev1.ProtocolTCP}}}}
	headless := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "headless"}, Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}}
	got, err := Env(view(s, headless), p, &corev1.Container{Env: []corev1.EnvVar{{Name: "URL", Value: "db://$(MY_DB_SERVICE_HOST)"}}}, Facts{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"MY_DB_SERVICE_HOST=10.43.0.7", "MY_DB_SERVICE_PORT=5432", "MY_DB_SERVICE_PORT_SQL=5432", "MY_DB_PORT=tcp://10.43.0.7:5432",
		"MY_DB_PORT_5432_TCP=tcp://10.43.0.7:5432", "MY_DB_PORT_5432_TCP_PROTO=tcp", "MY_DB_PORT_5432_TCP_PORT=5432", "MY_DB_PORT_5432_TCP_ADDR=10.43.0.7",
		"URL=db://10.43.0.7"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("environment (-want +got):\n%s", d)
	}
	no := false
	p.Spec.EnableServiceLinks = &no
	if got, _ := Env(view(s), p, &corev1.Container{}, Facts{}); len(got) != 0 {
		t.Errorf("service links are off, and yet: %v", got)
	}
}

func TestEnvSaysWhatIsMissing(t *testing.T) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}}
	yes := true
	ref := corev1.LocalObjectReference{Name: "x"}
	key := func(opt *bool) *corev1.Container {
		return &corev1.Container{Env: []corev1.EnvVar{{Name: "K", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref, Key: "k", Optional: opt}}}}}
	}
	var said *Error
	if _, err := Env(view(), p, key(nil), Facts{}); !errors.As(err, &said) || said.Message != `secret "x" not found` {
		t.Errorf("secret: %v", err)
	}
	x := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "x"}}
	if _, err := Env(view(x), p, key(nil), Facts{}); !errors.As(err, &said) || said.Message != "couldn't find key k in Secret ns/x" {
		t.Errorf("key: %v", err)
	}
	if got, err := Env(view(), p, key(&yes), Facts{}); err != nil || len(got) != 0 {
		t.Errorf("optional: %v %v", got, err)
	}
	from := &corev1.Container{EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: ref}}}}
	if _, err := Env(view(), p, from, Facts{}); !errors.As(err, &said) || said.Message != `configmap "x" not found` {
		t.Errorf("configmap: %v", err)
	}
}

func TestFieldsAndResources(t *testing.T) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u", Labels: map[string]string{"b": "2", "a": `q"`}},
		Spec: corev1.PodSpec{NodeName: "n", ServiceAccountName: "sa", Containers: []corev1.Container{{Name: "c",
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1500m"), corev1.ResourceMemory: resource.MustParse("65Mi")}}}}}}
	f := Facts{PodIPs: []string{"1.1.1.1"}, HostIPs: []string{"2.2.2.2", "::2"}, Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4")}}
	for path, want := range map[string]string{
		"metadata.name": "p", "metadata.namespace": "ns", "metadata.uid": "u", "metadata.labels": "a=\"q\\\"\"\nb=\"2\"", "metadata.labels['b']": "2",
		"metadata.annotations['x']": "", "spec.nodeName": "n", "spec.serviceAccountName": "sa", "status.podIP": "1.1.1.1", "status.hostIPs": "2.2.2.2,::2",
	} {
		if got, err := Field(p, path, f); err != nil || got != want {
			t.Errorf("%s: %q %v, want %q", path, got, err, want)
		}
	}
	if _, err := Field(p, "spec.bogus", f); err == nil {
		t.Error("an unknown field was accepted")
	}
	for _, c := range []struct{ res, divisor, want string }{
		{"requests.cpu", "0", "2"}, {"requests.cpu", "1m", "1500"}, {"requests.memory", "1Mi", "65"}, {"requests.memory", "1Gi", "1"}, {"limits.cpu", "1", "4"},
	} {
		got, err := Resource(p, "c", &corev1.ResourceFieldSelector{Resource: c.res, Divisor: resource.MustParse(c.divisor)}, f)
		if err != nil || got != c.want {
			t.Errorf("%s by %s: %q %v, want %q", c.res, c.divisor, got, err, c.want)
		}
	}
}

func TestProjectedFiles(t *testing.T) {
	seconds := int64(600)
	vol := corev1.Volume{Name: "api", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}},
	}}}}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{vol}}}
	want := Tokens(p)
	if len(want) != 1 || want[0].Seconds != 600 {
		t.Fatalf("tokens: %v", want)
	}
	if _, _, err := Files(view(), p, &vol, Facts{}, nil, []byte("CA")); err == nil {
		t.Error("a token that nobody got was not missed")
	}
	got, isFiles, err := Files(view(), p, &vol, Facts{}, map[Token]string{want[0]: "T"}, []byte("CA"))
	if err != nil || !isFiles {
		t.Fatal(isFiles, err)
	}
	if d := cmp.Diff(map[string]File{
		"token": {Data: []byte("T"), Mode: 0o644, Mine: true}, "ca.crt": {Data: []byte("CA"), Mode: 0o644}, "namespace": {Data: []byte("ns"), Mode: 0o644},
	}, got); d != "" {
		t.Errorf("files (-want +got):\n%s", d)
	}
}
