//go:build e2e

package test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// commandTimeout bounds one command that a test runs.
	commandTimeout = 100 * time.Second
	// logTold bounds what a failing test prints of each of the cluster's logs, in bytes.
	logTold = 12 << 10
)

// program is where a binary is: in bin, or where the environment says.
func program(t *testing.T, name string) string {
	t.Helper()
	path := os.Getenv("RUTTER_TEST_" + strings.ToUpper(name))
	if path == "" {
		path = filepath.Join("..", "bin", name)
	}
	path, err := filepath.Abs(path)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("%v (make build images)", err)
	}
	return path
}

// cluster is a Rutter of its own, with its folders, for one test.
type cluster struct {
	t                     *testing.T
	dir, data, run        string
	rutterBin, kubectlBin string
	before                *traces
	alone                 []*process     // its services, if each is a process of its own
	patience              map[string]int // how often a description was asked for in vain
	rest                  *rest.Config
	api                   kubernetes.Interface
}

// newCluster makes the folders of a cluster that does not run yet. When the
// test ends it is taken down, and nothing of it may be left.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, dir: dir, data: filepath.Join(dir, "data"), run: filepath.Join(dir, "run"),
		rutterBin: program(t, "rutter"), kubectlBin: program(t, "kubectl"), before: look(t)}
	t.Cleanup(func() {
		if t.Failed() {
			c.tell()
		}
		for _, p := range c.alone {
			p.kill()
		}
		c.rutter("down", "--data", c.data, "--run", c.run)
		c.before.compare(t, look(t))
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return c
}

// inside are the same cluster for a subtest.
func (c *cluster) inside(t *testing.T) *cluster {
	sub := *c
	sub.t = t
	return &sub
}

// up starts the whole cluster as one process and waits until it is ready.
func (c *cluster) up() {
	c.t.Helper()
	begun := time.Now()
	c.rutter("up", "--detach", "--data", c.data, "--run", c.run, "--node", nodeName, "--node-address", hostAddress)
	c.t.Logf("up after %.1f s", time.Since(begun).Seconds())
	c.connect()
}

// connect makes clients for the API.
func (c *cluster) connect() {
	c.t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig())
	if err != nil {
		c.t.Fatal(err)
	}
	config.QPS = -1
	c.rest = config
	if c.api, err = kubernetes.NewForConfig(config); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) kubeconfig() string { return filepath.Join(c.data, "admin.kubeconfig") }

// pid is the cluster's process.
func (c *cluster) pid() int {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(c.run, "up.pid"))
	if err != nil {
		c.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		c.t.Fatal(err)
	}
	return pid
}

// kill ends the cluster's process with SIGKILL and returns when it is gone.
func (c *cluster) kill() {
	c.t.Helper()
	pid := c.pid()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	awaitReadable(c.t, fd)
}

// awaitReadable waits until a pidfd says that its process has ended.
func awaitReadable(t *testing.T, fd int) {
	t.Helper()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			t.Fatalf("the process does not end: %v", err)
		}
		return
	}
}

// importImages loads the shop's images and the tests' own.
func (c *cluster) importImages(shop ...string) {
	c.t.Helper()
	archive, err := toolsArchive()
	if err != nil {
		c.t.Fatal(err)
	}
	files := []string{archive}
	for _, name := range shop {
		found, err := filepath.Glob(filepath.Join("..", "bin", "images", name))
		if err != nil || len(found) == 0 {
			c.t.Fatalf("no images %s (make images): %v", name, err)
		}
		files = append(files, found...)
	}
	c.rutter(append([]string{"image", "import", "--data", c.data, "--run", c.run}, files...)...)
}

// result is what a command did.
type result struct {
	out, err string
	code     int
}

// command runs a program as a user of this cluster would.
func (c *cluster) command(stdin, program string, args ...string) result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = c.env()
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	r := result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
	if err != nil && (r.code < 0 || ctx.Err() != nil) {
		r.err += err.Error() + ": " + fmt.Sprint(ctx.Err())
	}
	return r
}

func (c *cluster) env() []string {
	return append(os.Environ(), "KUBECONFIG="+c.kubeconfig(), "HOME="+c.dir, "KUBECTL_KUBERC=false", "TERM=xterm")
}

// must is command; it has to end well. It returns what was printed.
func (c *cluster) must(stdin, program string, args ...string) string {
	c.t.Helper()
	r := c.command(stdin, program, args...)
	if r.code != 0 {
		c.t.Fatalf("%s %s: exit code %d\n%s%s", filepath.Base(program), strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r.out
}

func (c *cluster) rutter(args ...string) string {
	c.t.Helper()
	return c.must("", c.rutterBin, args...)
}

func (c *cluster) kubectl(args ...string) string {
	c.t.Helper()
	return c.must("", c.kubectlBin, args...)
}

// apply applies manifests.
func (c *cluster) apply(manifests string) string {
	c.t.Helper()
	return c.must(manifests, c.kubectlBin, "apply", "-f", "-")
}

// refused runs a kubectl command that must fail, and returns what it said.
func (c *cluster) refused(stdin string, args ...string) string {
	c.t.Helper()
	r := c.command(stdin, c.kubectlBin, args...)
	if r.code == 0 {
		c.t.Fatalf("kubectl %s: expected to fail\n%s", strings.Join(args, " "), r.out)
	}
	return r.err
}

// tell prints what the cluster says about itself.
func (c *cluster) tell() {
	for _, args := range [][]string{{"get", "pods,nodes,services", "-A", "-o", "wide"}, {"get", "events", "-A"}} {
		r := c.command("", c.kubectlBin, args...)
		c.t.Logf("kubectl %s\n%s%s", strings.Join(args, " "), r.out, r.err)
	}
	for name := range strings.FieldsSeq(c.command("", c.kubectlBin, "get", "pods", "-o", "name").out) {
		r := c.command("", c.kubectlBin, "logs", "--tail=5", "--all-containers", name)
		c.t.Logf("kubectl logs %s\n%s%s", name, r.out, r.err)
	}
	r := c.command("", c.rutterBin, "log", "--tail", "60")
	c.t.Logf("rutter log --tail 60\n%s%s", r.out, r.err)
	logs := map[string]string{"rutter up": filepath.Join(c.data, "rutter.log"), "containerd": filepath.Join(c.run, "containerd", "log")}
	for _, p := range c.alone {
		logs["rutter "+p.args[0]] = p.log
	}
	for name, file := range logs {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it was never started
		}
		var told strings.Builder
		for l := range strings.Lines(string(b)) {
			if !strings.Contains(l, "level=info") { // containerd's
				told.WriteString(l)
			}
		}
		c.t.Logf("%s\n%s", name, told.String()[max(0, told.Len()-logTold):])
	}
}

// ask sends a request to a program in a pod, from the host.
func ask(t *testing.T, method, url string, body io.Reader) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s %s %v", method, url, res.Status, out, err)
	}
	return out
}

// process is one service in a process of its own.
type process struct {
	t    *testing.T
	args []string
	log  string
	cmd  *exec.Cmd
}

// start starts a service of the cluster in a process of its own.
func (c *cluster) start(args ...string) *process {
	c.t.Helper()
	p := &process{t: c.t, args: args, log: filepath.Join(c.dir, args[0]+".log")}
	p.run(c)
	c.alone = append(c.alone, p)
	return p
}

func (p *process) run(c *cluster) {
	p.t.Helper()
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer out.Close()
	p.cmd = exec.Command(c.rutterBin, append(p.args, "--data", c.data, "--run", c.run)...)
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = c.env(), out, out
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
}

// kill ends the process with SIGKILL and waits until it is gone.
func (p *process) kill() {
	if p.cmd.ProcessState != nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may have ended by itself
	_ = p.cmd.Wait()         // killed: that is the error
}

// exists tells whether a file is there.
func exists(path ...string) bool {
	_, err := os.Stat(filepath.Join(path...))
	return err == nil
}
