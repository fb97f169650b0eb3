//go:build e2e

package test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/test/load"
	"github.com/rutterhq/rutter/test/tools"
)

const (
	shopHost = "shop.example"
	// rate is what each of the two loads sends, in requests per second.
	rate = 200
	// enough is how many requests both loads send at least, together.
	enough = 10_000
)

var shopServices = []string{"redis", "catalog", "cart", "orders", "web"}

// story is the life of the shop: applied, updated under load, every pod
// deleted, the whole cluster's process killed, and all of it asked about
// afterwards.
type story struct {
	*cluster
	trust        *x509.CertPool
	client       string // URL of the load generator that runs in a pod
	beforeDelete time.Time
	old, now     []string // names of the shop's pods before and after the delete
	claim        string   // the address of a Service that was deleted early
}

// TestShop is the story, chapter by chapter. A chapter that fails ends it.
func TestShop(t *testing.T) {
	s := &story{cluster: newCluster(t)}
	s.up()
	s.importImages("*.tar")
	for _, chapter := range []struct {
		name string
		tell func(*story)
	}{
		{"Apply", (*story).applyShop}, {"Aside", (*story).aside}, {"Update", (*story).update}, {"Delete", (*story).deletePods},
		{"Kill", (*story).killAll}, {"Aftermath", (*story).aftermath}, {"Past", (*story).past}, {"Replay", (*story).replay},
	} {
		begun := time.Now()
		if !t.Run(chapter.name, func(t *testing.T) {
			in := *s
			in.cluster = s.inside(t)
			defer func() { in.cluster = s.cluster; *s = in }()
			chapter.tell(&in)
		}) {
			return
		}
		t.Logf("%s: %.1f s", chapter.name, time.Since(begun).Seconds())
	}
}

// applyShop brings the shop up and buys in it, through its Ingress.
func (s *story) applyShop() {
	cert, key, pool := selfSigned(s.t, shopHost)
	s.trust = pool
	for file, b := range map[string][]byte{"cert": cert, "key": key} {
		if err := os.WriteFile(filepath.Join(s.dir, file), b, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	s.kubectl("create", "secret", "tls", "shop-tls", "--cert", filepath.Join(s.dir, "cert"), "--key", filepath.Join(s.dir, "key"))
	s.kubectl("apply", "-f", "../deploy/examples/shop/manifests")
	s.apply(clientManifests)
	for _, d := range shopServices {
		s.kubectl("rollout", "status", "deployment/"+d, "--timeout=60s")
	}
	pods := s.pods("the client and the echo server to run", "client", "", allReady(2))
	for _, p := range pods {
		if p.Name == "client" {
			s.client = "http://" + p.Status.PodIP + ":9000"
		}
	}
	s.order("ada")
	// From a pod, by name, it is the same shop.
	if out := s.kubectl("-n", "client", "exec", "client", "--", "wget", "-q", "-O", "-", "http://web.default/api/orders/ada"); !strings.Contains(out, `"cents":18900`) {
		s.t.Fatalf("the order: %s", out)
	}
}

// order buys a sextant through the ingress, over HTTPS: an order goes through
// every service and Redis. A customer buys once.
func (s *story) order(customer string) {
	s.t.Helper()
	if answer := s.through(s.ingressTarget("/api/products")); !strings.Contains(answer, "Sextant") {
		s.t.Fatalf("the shop's products: %s", answer)
	}
	for _, path := range []string{"/api/carts/" + customer + "/sextant", "/api/orders/" + customer} {
		s.once(http.MethodPost, s.ingressTarget(path))
	}
	if answer := s.once(http.MethodGet, s.ingressTarget("/api/orders/"+customer)); strings.Count(answer, `"sextant":1`) != 1 || !strings.Contains(answer, `"cents":18900`) {
		s.t.Fatalf("the orders of %s: %s", customer, answer)
	}
}

// clientManifests are a client and a server that outlive what happens to the shop.
const clientManifests = `
apiVersion: v1
kind: Namespace
metadata: {name: client}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: client, labels: {app: client}}
spec:
  containers:
  - {name: loadgen, image: ` + tools.Image + `}
---
apiVersion: v1
kind: Pod
metadata: {name: echo, namespace: client, labels: {app: echo}}
spec:
  containers:
  - {name: loadgen, image: ` + tools.Image + `}
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: client}
spec:
  selector: {app: echo}
  ports: [{port: 7}]
`

// aside makes happen what the shop's own life does not need, so that every
// decider has decided something in the end: see Replay.
func (s *story) aside() {
	s.apply(asideManifests)
	s.kubectl("-n", "aside", "rollout", "status", "deployment/short", "--timeout=60s")
	s.claim = s.kubectl("-n", "aside", "get", "service", "short", "-o", "jsonpath={.spec.clusterIP}")
	s.kubectl("-n", "aside", "delete", "deployment", "short", "--wait=false") // its pods: the garbage collector's
	gone[*corev1.Pod](s.cluster, "the pods of a deployment that is gone", func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		return s.api.CoreV1().Pods("aside").Watch(ctx, o)
	})
	s.kubectl("delete", "namespace", "aside", "--timeout=60s")
	// The ghost is a node that nobody has ever heard.
	await(s.cluster, "the silent node to be tainted", func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		o.FieldSelector = "metadata.name=ghost"
		return s.api.CoreV1().Nodes().Watch(ctx, o)
	}, func(ns []*corev1.Node) bool {
		return len(ns) == 1 && slices.ContainsFunc(ns[0].Spec.Taints, func(t corev1.Taint) bool {
			return t.Key == corev1.TaintNodeUnreachable && t.Effect == corev1.TaintEffectNoExecute
		})
	})
	s.kubectl("delete", "node", "ghost")
}

const asideManifests = `
apiVersion: v1
kind: Namespace
metadata: {name: aside}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: short, namespace: aside}
spec:
  replicas: 2
  selector: {matchLabels: {app: short}}
  template:
    metadata: {labels: {app: short}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: sleep, image: ` + tools.Image + `}
---
apiVersion: v1
kind: Service
metadata: {name: short, namespace: aside}
spec:
  selector: {app: short}
  ports: [{port: 9000}]
---
apiVersion: v1
kind: Node
metadata: {name: ghost}
---
apiVersion: v1
kind: Pod
metadata: {name: haunted, namespace: client}
spec:
  nodeName: ghost
  containers:
  - {name: sleep, image: ` + tools.Image + `}
`

func (s *story) ingressTarget(path string) load.Target {
	return load.Target{Address: hostAddress + ":443", Host: shopHost, Path: path, Rate: rate, TLS: &tls.Config{ServerName: shopHost, RootCAs: s.trust}}
}

// through asks the ingress until it answers with 200: it hears of pods a moment
// after they are ready.
func (s *story) through(t load.Target) string {
	s.t.Helper()
	var said string
	var err error
	for deadline := time.Now().Add(awaitTimeout); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if said, err = request(http.MethodGet, t); err == nil {
			return said
		}
	}
	s.t.Fatalf("through the ingress: %v", err)
	return ""
}

// once asks the ingress one time.
func (s *story) once(method string, t load.Target) string {
	s.t.Helper()
	said, err := request(method, t)
	if err != nil {
		s.t.Fatalf("through the ingress: %s %s: %v", method, t.Path, err)
	}
	return said
}

// request asks over HTTPS, on a connection of its own. An answer other than 200
// is an error.
func request(method string, t load.Target) (string, error) {
	client := &http.Client{Timeout: commandTimeout, Transport: &http.Transport{TLSClientConfig: t.TLS, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, t.Address)
	}}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequest(method, "https://"+t.Host+t.Path, nil)
	if err != nil {
		return "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s", res.Status, body)
	}
	return string(body), err
}

// startInPod begins a load from inside the client's pod; nowInPod and stopInPod
// tell how it goes.
func (s *story) startInPod(t load.Target) {
	s.t.Helper()
	b, err := json.Marshal(t)
	if err != nil {
		s.t.Fatal(err)
	}
	ask(s.t, "POST", s.client+"/load", bytes.NewReader(b))
}

func (s *story) nowInPod() (r load.Report)  { s.report("GET", "/load", &r); return r }
func (s *story) stopInPod() (r load.Report) { s.report("DELETE", "/load", &r); return r }

func (s *story) report(method, path string, into any) {
	s.t.Helper()
	if err := json.Unmarshal(ask(s.t, method, s.client+path, nil), into); err != nil {
		s.t.Fatal(err)
	}
}

// update rolls web and catalog to a new version, and back, and so on, while
// clients in a pod and outside ask for what goes through both.
func (s *story) update() {
	inside := load.Target{Address: "web.default:80", Host: "web.default", Path: "/api/products", Rate: rate}
	s.startInPod(inside)
	outside := load.Start(s.ingressTarget("/api/products"))
	rollouts := 0
	for sent := 0; sent < enough || rollouts%2 == 0; sent = s.nowInPod().Sent + outside.Now().Sent {
		version := []string{"v2", "v1"}[rollouts%2]
		for _, name := range []string{"web", "catalog"} {
			s.kubectl("set", "image", "deployment/"+name, name+"=rutter.dev/shop/"+name+":"+version)
			s.kubectl("rollout", "status", "deployment/"+name, "--timeout=90s")
		}
		// The old ones go on answering until their clients have left.
		s.pods("the old pods to be gone", "default", "app in (web,catalog)", allReady(4))
		rollouts++
	}
	s.t.Logf("web and catalog were set to another image %d times each", rollouts)
	in, out := s.stopInPod(), outside.Stop()
	s.t.Logf("through the Service, from a pod: %s", &in)
	s.t.Logf("through the ingress, with TLS:   %s", &out)
	if in.Failed+out.Failed > 0 {
		s.t.Errorf("failed:\n%s", strings.Join(append(in.Failures, out.Failures...), "\n"))
	}
	version := s.kubectl("-n", "client", "exec", "client", "--", "wget", "-q", "-O", "-", "http://web.default/version")
	if !strings.Contains(version, `"v2"`) {
		s.t.Errorf("web's version: %s", version)
	}
}

func (s *story) shopPods(what string) []string {
	s.t.Helper()
	var names []string
	for _, p := range s.pods(what, "default", "part-of=shop", allReady(9)) {
		names = append(names, p.Name)
	}
	return names
}

// deletePods deletes every pod of the shop; others take their place, and can
// say why they are there.
func (s *story) deletePods() {
	s.old = s.shopPods("all pods before the delete")
	s.beforeDelete = time.Now()
	s.kubectl("delete", "pod", "--all", "--timeout=60s")
	s.now = s.shopPods("all pods to be back")
	for _, name := range s.now {
		if slices.Contains(s.old, name) {
			s.t.Errorf("pod %s was not replaced", name)
		}
	}
	var web string
	for _, name := range s.now {
		if strings.HasPrefix(name, "web-") {
			web = name
		}
	}
	why := s.rutter("why", "pods/default/"+web)
	s.t.Logf("rutter why pods/default/%s\n%s", web, why)
	if !slices.ContainsFunc(strings.Split(why, "\n"), func(l string) bool {
		return strings.Contains(l, "user:admin") && strings.Contains(l, "pod.delet") && slices.ContainsFunc(s.old, func(o string) bool { return strings.Contains(l, o) })
	}) {
		s.t.Errorf("why does not lead to the delete of an old pod by user:admin")
	}
}

// killAll kills the cluster's whole process under load, while something is
// being written, and starts it again.
func (s *story) killAll() {
	ip := s.kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	echo := s.kubectl("-n", "client", "get", "service", "echo", "-o", "jsonpath={.spec.clusterIP}")
	ask(s.t, "POST", s.client+"/echo?address="+echo+":7", nil)
	s.startInPod(load.Target{Address: ip + ":80", Host: "web", Path: "/version", Rate: rate})
	before, containers, objects := s.shopPods("all pods before the kill"), s.containers(), s.objects()
	ids := s.containerIDs()

	acknowledged := make(chan []string)
	go func() { acknowledged <- s.writeUntilRefused() }()
	poll(s.t, "load and writes", func() bool { return s.nowInPod().Sent >= 200 })
	s.kill()
	written := <-acknowledged
	killed := s.nowInPod().Sent
	poll(s.t, "a second of load without the control plane", func() bool { return s.nowInPod().Sent >= killed+rate })
	s.up()

	after := s.shopPods("all pods after the kill")
	up := s.nowInPod().Sent
	poll(s.t, "a second of load with the control plane back", func() bool { return s.nowInPod().Sent >= up+rate })
	r := s.stopInPod()
	var e load.EchoReport
	s.report("DELETE", "/echo", &e)
	s.t.Logf("through the Service over the kill: %s", &r)
	s.t.Logf("one connection over the kill: %d lines to %s, the slowest took %s", e.Lines, e.Peer, e.Pause.Round(time.Microsecond))
	s.t.Logf("writes acknowledged before the kill: %d", len(written))
	if r.Failed > 0 {
		s.t.Errorf("failed:\n%s", strings.Join(r.Failures, "\n"))
	}
	if answer := s.through(s.ingressTarget("/api/products")); !strings.Contains(answer, "Sextant") {
		s.t.Errorf("the shop's products after the kill: %s", answer)
	}
	if e.Broken != "" || e.Lines < 100 || e.Peer != echo+":7" {
		s.t.Errorf("the connection between two pods: %+v", e)
	}
	if d := cmp.Diff(before, after); d != "" {
		s.t.Errorf("pods: %s", d)
	}
	if d := cmp.Diff(ids, s.containerIDs()); d != "" {
		s.t.Errorf("containers as the API knows them: %s", d)
	}
	if d := cmp.Diff(containers, s.containers()); d != "" {
		s.t.Errorf("processes of containers, with the time of their start: %s", d)
	}
	again := s.objects()
	for k, uid := range objects {
		if again[k] != uid {
			s.t.Errorf("%s had uid %s before the kill, and %q after", k, uid, again[k])
		}
	}
	for _, name := range written {
		if _, ok := again["configmaps/client/"+name]; !ok {
			s.t.Errorf("config map %s was acknowledged and is not there", name)
		}
	}
}

// writeUntilRefused creates config maps until the apiserver is gone, and
// returns the names of those that it acknowledged.
func (s *story) writeUntilRefused() []string {
	var names []string
	for i := 0; ; i++ {
		name := fmt.Sprintf("written-%d", i)
		_, err := s.api.CoreV1().ConfigMaps("client").Create(context.Background(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil {
			return names
		}
		names = append(names, name)
	}
}

// containerIDs are the containers of all pods, with the time of their start.
func (s *story) containerIDs() map[string]string {
	s.t.Helper()
	pods, err := s.api.CoreV1().Pods("").List(s.t.Context(), metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	out := map[string]string{}
	for _, p := range pods.Items {
		for _, c := range p.Status.ContainerStatuses {
			out[p.Name+"/"+c.Name] = fmt.Sprint(c.ContainerID, c.RestartCount, c.State.Running)
		}
	}
	return out
}

// containers are the processes in containers: what they run, and when they
// were started, in ticks of the kernel's clock.
func (s *story) containers() []string {
	s.t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		s.t.Fatal(err)
	}
	var out []string
	for _, file := range all {
		groups, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(groups), "/rutter/"+nodeName+"/") {
			continue // it is gone, or no container's
		}
		dir := filepath.Dir(file)
		stat, statErr := os.ReadFile(filepath.Join(dir, "stat"))
		command, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if statErr != nil || err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		if fields := strings.Fields(rest); len(fields) > 19 { // starttime, the 22nd of all
			out = append(out, fmt.Sprintf("%s started %s: %s", filepath.Base(dir), fields[19], strings.ReplaceAll(string(command), "\x00", " ")))
		}
	}
	slices.Sort(out)
	return out
}

// objects are the uids of all objects, but for those that come and go by themselves.
func (s *story) objects() map[string]string {
	s.t.Helper()
	client, err := dynamic.NewForConfig(s.rest)
	if err != nil {
		s.t.Fatal(err)
	}
	out := map[string]string{}
	for _, row := range kinds.All {
		k := row.Describe()
		if k.Resource == kinds.Events.Resource || k.Resource == kinds.Leases.Resource {
			continue
		}
		list, err := client.Resource(schema.GroupVersionResource{Group: k.Resource.Group, Version: k.Version, Resource: k.Resource.Plural}).List(s.t.Context(), metav1.ListOptions{})
		if err != nil {
			s.t.Fatalf("%s: %v", k.Resource, err)
		}
		for _, o := range list.Items {
			out[k.Resource.String()+"/"+o.GetNamespace()+"/"+o.GetName()] = string(o.GetUID())
		}
	}
	return out
}

// aftermath waits for what takes its time: the pod of a node that is gone, the
// address of a Service that is gone.
func (s *story) aftermath() {
	gone[*corev1.Pod](s.cluster, "the pod of the node that is gone", func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		o.FieldSelector = "metadata.name=haunted"
		return s.api.CoreV1().Pods("client").Watch(ctx, o)
	})
	gone[object](s.cluster, "the claim of address "+s.claim, func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		o.FieldSelector = "metadata.name=" + s.claim
		return s.api.NetworkingV1().IPAddresses().Watch(ctx, o)
	})
	if _, err := s.api.CoreV1().Namespaces().Get(s.t.Context(), "aside", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		s.t.Errorf("namespace aside: %v", err)
	}
}

// past asks for what was before the delete.
func (s *story) past() {
	at := s.beforeDelete.Format(time.RFC3339Nano)
	then := s.rutter("get", "pods", "--at", at)
	for _, name := range s.old {
		if !strings.Contains(then, name) {
			s.t.Errorf("rutter get pods --at %s does not show %s:\n%s", at, name, then)
		}
	}
	today := s.rutter("get", "pods")
	for _, name := range s.now {
		if strings.Contains(then, name) || !strings.Contains(today, name) {
			s.t.Errorf("%s belongs to today, not to %s:\n%s\n%s", name, at, then, today)
		}
	}
	for _, name := range s.old[:1] { // also of what is gone
		if why := s.rutter("why", "pods/default/"+name); !strings.Contains(why, name) {
			s.t.Errorf("rutter why of a pod that is gone: %s", why)
		}
	}
}

// poll waits for something that nothing tells of.
func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(awaitTimeout); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not so after %s", what, awaitTimeout)
		}
	}
}

// selfSigned makes a certificate for a host.
func selfSigned(t *testing.T, host string) (cert, key []byte, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{host}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	private8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private8}), pool
}
