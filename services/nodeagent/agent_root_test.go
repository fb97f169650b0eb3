//go:build e2e

package nodeagent

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/uuid"
	"github.com/rs/zerolog"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/memory"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/nodeagent/logs"
)

// TestMain runs the tests in a network and a mount namespace of their own, so
// that they leave nothing behind, and lets the test's binary be the log keeper.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "keeper" {
		if err := logs.RunKeeper(context.Background(), os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv("RUTTER_TEST_APART") == "" {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), "RUTTER_TEST_APART=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
		if err := cmd.Run(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		panic(err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		panic(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// clusterUID of the tests' cluster.
const clusterUID = "6f8d1a2e-0000-4000-8000-000000000001"

// ownLog applies the rules of a write to what the agent appends, as the door
// of the API server does.
type ownLog struct {
	events.Log
	schema *kinds.Schema
	mirror *kernel.Mirror
}

func (l *ownLog) Append(ctx context.Context, r events.Record) (events.Seq, error) {
	v, err := l.mirror.At(ctx, max(r.Seen, r.Expect))
	if err != nil {
		return 0, err
	}
	e := v.Entry(r.Key)
	if e != nil && e.Seq != r.Expect || e == nil && r.Expect != 0 {
		return 0, events.ErrConflict
	}
	w := kernel.Write{Key: r.Key, Subresource: kernel.Whole, By: r.Source}
	if r.Delete {
		w.Grace = new(int64)
	} else if w.New, err = l.schema.Decode(r.Key, r.Body); err != nil {
		return 0, err
	}
	done, refused := l.schema.Propose(v, w, time.Now())
	if refused != nil {
		return 0, refused
	}
	if done == nil {
		return r.Expect, nil
	}
	r.Delete, r.Body = done.Delete, done.Body
	return l.Log.Append(ctx, r)
}

// rig is one node with a containerd of its own, on a log in memory.
type rig struct {
	t      *testing.T
	dir    string
	log    *memory.Log
	own    *ownLog
	schema *kinds.Schema
	mirror *kernel.Mirror
	cfg    Config
	agent  *Agent
	stop   func()
	socket string
	ctrd   *exec.Cmd
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "rna")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: dir, log: memory.New(), schema: &kinds.Schema{Cluster: clusterUID, Seal: bytes.Repeat([]byte{7}, 32)}, socket: filepath.Join(dir, "c.sock")}
	t.Cleanup(func() {
		r.cleanUp()
	})
	r.startContainerd()
	ctx, cancel := context.WithCancel(context.Background())
	r.mirror = kernel.NewMirror(r.log, r.schema, nil)
	done := make(chan struct{})
	go func() { r.mirror.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	r.own = &ownLog{Log: r.log, schema: r.schema, mirror: r.mirror}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	lg := zerolog.Nop()
	if testing.Verbose() {
		lg = zerolog.New(zerolog.NewTestWriter(t)).With().Timestamp().Logger()
	}
	r.cfg = Config{
		Node: "n" + filepath.Base(dir), Log: r.own, Schema: r.schema, Containerd: r.socket, DataDir: dir + "/data", RunDir: dir + "/run",
		Helper: []string{exe, "keeper"}, Addresses: []netip.Addr{netip.MustParseAddr("10.42.0.1")}, Logger: lg,
		ClusterDNS: netip.MustParseAddr("10.43.0.10"), RootCA: []byte("ca"),
	}
	os.MkdirAll(r.cfg.DataDir, 0o755)
	r.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, "")
	r.put(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "default"}}, "")
	return r
}

// startContainerd returns once it listens: between its making of the socket and
// that whoever connects is refused.
func (r *rig) startContainerd() {
	r.t.Helper()
	config := filepath.Join(r.dir, "config.toml")
	os.WriteFile(config, []byte("version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.aufs\", \"io.containerd.snapshotter.v1.devmapper\"]\n"), 0o600)
	out, err := os.OpenFile(filepath.Join(r.dir, "containerd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		r.t.Fatal(err)
	}
	r.ctrd = exec.Command("containerd", "--config", config, "--root", r.dir+"/croot", "--state", r.dir+"/cstate", "--address", r.socket)
	r.ctrd.Stdout, r.ctrd.Stderr = out, out
	if err := r.ctrd.Start(); err != nil {
		r.t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("unix", r.socket)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("containerd does not answer: %v", err)
		}
	}
}

func (r *rig) killContainerd() {
	r.ctrd.Process.Kill()
	r.ctrd.Wait()
}

// start runs an agent; r.stop ends it as a crash would: nothing is taken down.
func (r *rig) start() {
	r.t.Helper()
	a, err := New(r.cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.agent = a
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("agent: %v", err)
		}
		r.stop = func() {}
	}
	r.await("the node is registered", func(v *kernel.View) bool {
		_, ok := kinds.Nodes.Get(v, "", r.cfg.Node)
		return ok
	})
	r.change(kinds.Nodes.Key("", r.cfg.Node), func(o kernel.Object) { o.(*corev1.Node).Spec.PodCIDR = "10.42.0.0/24" })
	r.await("the node is ready", func(v *kernel.View) bool {
		n, _ := kinds.Nodes.Get(v, "", r.cfg.Node)
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	})
}

func (r *rig) cleanUp() {
	if r.stop != nil {
		r.stop()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := down(ctx, r.cfg); err != nil {
		r.t.Errorf("down: %v", err)
	}
	r.ctrd.Process.Signal(syscall.SIGTERM)
	r.ctrd.Wait()
	if r.t.Failed() && testing.Verbose() {
		b, _ := os.ReadFile(filepath.Join(r.dir, "containerd.log"))
		lines := strings.Split(string(b), "\n")
		r.t.Log(strings.Join(lines[max(0, len(lines)-3):], "\n"))
	}
	exec.Command("sh", "-c", "grep ' "+r.dir+"' /proc/self/mounts | cut -d' ' -f2 | tac | xargs -r umount -l").Run()
	os.RemoveAll(r.dir)
}

// put appends an object as a user would.
func (r *rig) put(o kernel.Object, subresource string) kernel.Object {
	r.t.Helper()
	ctx := context.Background()
	last, _ := r.log.Last(ctx)
	v, err := r.mirror.At(ctx, last)
	if err != nil {
		r.t.Fatal(err)
	}
	k := r.schema.KeyOf(o)
	return r.write(v, kernel.Write{Key: k, Subresource: subresource, New: o, By: "user:test", UID: uuid.NewString()})
}

func (r *rig) write(v *kernel.View, w kernel.Write) kernel.Object {
	r.t.Helper()
	p, refused := r.schema.Make(v, w, time.Now().UTC())
	if refused != nil {
		r.t.Fatalf("%s: %v", w.Key, refused)
	}
	if p == nil {
		return v.Entry(w.Key).Object()
	}
	p.ID = uuid.NewString()
	seq, err := r.log.Append(context.Background(), p.Record)
	if err != nil {
		r.t.Fatal(err)
	}
	r.mirror.At(context.Background(), seq)
	return p.Object
}

// change updates an object, spec and status.
func (r *rig) change(k kernel.Key, f func(kernel.Object)) {
	r.t.Helper()
	o, ok := r.mirror.View().Get(k)
	if !ok {
		r.t.Fatalf("%s is not there", k)
	}
	next := o.DeepCopyObject().(kernel.Object)
	f(next)
	r.put(next, kernel.Whole)
}

// remove asks for an object's deletion.
func (r *rig) remove(k kernel.Key, grace *int64) {
	r.t.Helper()
	r.write(r.mirror.View(), kernel.Write{Key: k, By: "user:test", Grace: grace})
}

// patience is how long a test waits for what should take a second.
const patience = 30 * time.Second

// await waits for the log to say something.
func (r *rig) await(what string, ok func(v *kernel.View) bool) *kernel.View {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var found *kernel.View
	for step := range r.mirror.Follow(ctx) {
		if found == nil && ok(step.View) {
			found = step.View
			cancel()
		}
	}
	if found != nil {
		return found
	}
	for _, n := range kinds.Nodes.List(r.mirror.View(), "") {
		r.t.Logf("node %s: %v", n.Name, n.Status.Conditions)
	}
	for _, p := range kinds.Pods.List(r.mirror.View(), "") {
		r.t.Logf("pod %s: %s", p.Name, describe(p))
	}
	for _, e := range kinds.Events.List(r.mirror.View(), "") {
		r.t.Logf("event %s %s: %s", e.InvolvedObject.Name, e.Reason, e.Message)
	}
	r.t.Fatalf("not in time: %s", what)
	return nil
}

func describe(p *corev1.Pod) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s", p.Status.Phase, p.Status.Reason, p.Status.Message)
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, c := range list {
			fmt.Fprintf(&b, "; %s ready=%v restarts=%d %v last=%v", c.Name, c.Ready, c.RestartCount, c.State, c.LastTerminationState)
		}
	}
	return b.String()
}

func (r *rig) awaitPod(name, what string, ok func(p *corev1.Pod) bool) *corev1.Pod {
	r.t.Helper()
	var found *corev1.Pod
	r.await("pod "+name+": "+what, func(v *kernel.View) bool {
		p, there := kinds.Pods.Get(v, "default", name)
		found = p
		return there && ok(p)
	})
	return found
}

func podReady(p *corev1.Pod) bool {
	c := condition(&p.Status, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

func (r *rig) awaitGone(name string) {
	r.t.Helper()
	r.await("pod "+name+" is gone", func(v *kernel.View) bool {
		_, there := kinds.Pods.Get(v, "default", name)
		return !there
	})
}

const busybox = "docker.io/library/busybox:test"

// makePod is a pod of one container that runs a shell script, bound to the node.
func (r *rig) makePod(name, script string, more ...func(*corev1.Pod)) *corev1.Pod {
	no := false
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.PodSpec{
			NodeName: r.cfg.Node, AutomountServiceAccountToken: &no, TerminationGracePeriodSeconds: new(int64),
			Containers: []corev1.Container{{Name: "c", Image: busybox, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"/bin/sh", "-c", script}}},
		},
	}
	*p.Spec.TerminationGracePeriodSeconds = 5
	for _, f := range more {
		f(p)
	}
	return r.put(p, "").(*corev1.Pod)
}

func key(name string) kernel.Key { return kinds.Pods.Key("default", name) }

// log returns what a container printed.
func (r *rig) logOf(p *corev1.Pod, container string, attempt int) string {
	var b bytes.Buffer
	logs.Read(context.Background(), r.agent.logPath(p, container, attempt), logs.Options{Tail: -1, LimitBytes: -1}, &b, nil)
	return b.String()
}

// awaitLog waits for a container to have printed something.
func (r *rig) awaitLog(p *corev1.Pod, container, want string) string {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	pr, pw := io.Pipe()
	go func() {
		logs.Read(ctx, r.agent.logPath(p, container, 0), logs.Options{Tail: -1, LimitBytes: -1, Follow: true}, pw, func() bool { return false })
		pw.Close()
	}()
	defer pr.Close()
	var all []byte
	buf := make([]byte, 4096)
	for {
		n, err := pr.Read(buf)
		all = append(all, buf[:n]...)
		if strings.Contains(string(all), want) {
			return string(all)
		}
		if err != nil {
			r.t.Fatalf("%q was not printed, but %q", want, all)
		}
	}
}

// busyboxTar builds an image of Debian's static busybox, without any daemon.
func busyboxTar(t *testing.T, dir, tag string, change func(*v1.Config)) (string, v1.Image) {
	t.Helper()
	bin, err := os.ReadFile("/usr/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, data []byte) {
		h.Size = int64(len(data))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		w.Write(data)
	}
	for _, d := range []string{"bin/", "etc/", "tmp/", "root/", "home/", "var/"} {
		add(tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: 0o777}, nil)
	}
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, bin)
	for _, n := range strings.Fields("sh cat echo sleep ls id env hostname kill touch mkdir stat wget nc httpd ip dd tail head yes true false date ps mount grep seq tr od readlink stty") {
		add(tar.Header{Name: "bin/" + n, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil)
	}
	add(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:0::/root:/bin/sh\napp:x:1234:1235::/home:/bin/sh\n"))
	add(tar.Header{Name: "etc/group", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:\napp:x:1235:\nextra:x:77:app\n"))
	w.Close()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", "amd64"
	file.Config = v1.Config{Env: []string{"FROM_IMAGE=yes"}, Cmd: []string{"/bin/sh"}}
	if change != nil {
		change(&file.Config)
	}
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewTag(tag)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, strings.NewReplacer("/", "_", ":", "_").Replace(tag)+".tar")
	if err := tarball.WriteToFile(path, ref, img); err != nil {
		t.Fatal(err)
	}
	return path, img
}

func (r *rig) importBusybox() {
	r.t.Helper()
	path, _ := busyboxTar(r.t, r.dir, busybox, nil)
	names, err := importImage(context.Background(), r.socket, path)
	if err != nil {
		r.t.Fatal(err)
	}
	if len(names) != 1 || names[0] != busybox {
		r.t.Fatalf("imported %v", names)
	}
}

func TestOnePod(t *testing.T) {
	r := newRig(t)
	r.importBusybox()
	r.start()
	begin := time.Now()
	r.makePod("web", "echo hello; trap 'echo bye; exit 0' TERM; while :; do sleep 0.1; done")
	p := r.awaitPod("web", "is ready", podReady)
	t.Logf("ready after %s", time.Since(begin))
	r.awaitLog(p, "c", "hello")
	if p.Status.PodIP == "" || p.Status.HostIP != "10.42.0.1" || p.Status.Phase != corev1.PodRunning {
		t.Errorf("status: %+v", p.Status)
	}
	var written int
	for rec, err := range r.log.Follow(t.Context(), 0) {
		if err != nil {
			break
		}
		if rec.Key == key("web") {
			written++
		}
		if last, _ := r.log.Last(t.Context()); rec.Seq == last {
			break
		}
	}
	if written != 2 {
		t.Errorf("%d events of the pod until it was ready, want 2: created and started", written)
	}
	r.remove(key("web"), nil)
	r.awaitGone("web")
	infos, err := r.agent.rt.List(t.Context())
	if err != nil || len(infos) != 0 {
		t.Errorf("containers are left: %v %v", infos, err)
	}
}
