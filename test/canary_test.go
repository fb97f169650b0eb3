//go:build e2e

package test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/test/tools"
)

// trap looks for secrets where they must not be.
type trap struct {
	*cluster
	birds []string // what a secret looks like: plain, in base64, in the base64 of an annotation
}

// newTrap makes a secret that is like nothing else.
func newTrap(c *cluster) (t *trap, secret string) {
	random := make([]byte, 15) // a multiple of three: what follows does not change its base64
	_, _ = rand.Read(random)
	secret = "canary" + hex.EncodeToString(random)
	return &trap{c, []string{secret, base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret))}}, secret
}

// sings tells whether the secret stands in something.
func (t *trap) sings(in []byte) bool {
	for _, bird := range t.birds {
		if bytes.Contains(in, []byte(bird)) {
			return true
		}
	}
	return false
}

// TestCanary puts a secret into a Secret, has it used, changed and deleted, and
// looks for it in all that is kept and told: the log with its mirror, snapshots
// and keys, the cluster's own logs, a recording, what commands print, and what a
// core dump of one of them would hold.
func TestCanary(t *testing.T) {
	c := newCluster(t)
	c.up()
	c.importImages()
	trap, secret := newTrap(c)
	watcher := trap.startLog()
	c.apply(fmt.Sprintf(canaryManifests, secret, "first"))
	c.pods("the pod that uses the secret", "default", "app=user", allReady(1))
	if out := c.kubectl("exec", "user", "--", "cat", "/secret/password"); out != secret {
		t.Fatalf("the pod does not get the secret: %q", out)
	}
	c.apply(fmt.Sprintf(canaryManifests, secret+"-2", "second"))
	c.refused(strings.Replace(fmt.Sprintf(canaryManifests, secret, "third"), "type: Opaque", "type: kubernetes.io/tls", 1), "apply", "-f", "-")
	if code := c.command("", c.kubectlBin, "create", "secret", "generic", "canary", "--from-literal=password="+secret).code; code == 0 {
		t.Error("a second Secret of one name")
	}
	alive := trap.mark()
	trap.outputs("while it lives", alive)
	if out := c.rutter("get", "secrets/canary", "--at", alive, "-o", "yaml"); !trap.sings([]byte(out)) {
		t.Errorf("the past of a Secret that lives cannot be read:\n%s", out)
	}

	c.kubectl("delete", "secret/canary")
	poll(t, "the Secret's history to be unreadable", func() bool {
		return !trap.sings([]byte(c.rutter("get", "secrets/canary", "--at", alive, "-o", "yaml")))
	})
	if out := c.rutter("get", "secrets/canary", "--at", alive, "-o", "yaml"); !strings.Contains(out, "round: second") {
		t.Errorf("what is left of it:\n%s", out)
	}
	trap.outputs("once it is gone", alive)
	trap.files("while the cluster runs")
	trap.memory(watcher)
	c.kill()
	trap.files("after kill -9")
	c.up()
	trap.outputs("after a restart", alive)
	if trap.sings([]byte(c.rutter("get", "secrets/canary", "--at", alive, "-o", "yaml"))) {
		t.Error("its history can be read again after a restart")
	}
}

// mark is where the log ends.
func (t *trap) mark() string {
	t.t.Helper()
	list, err := t.api.CoreV1().ConfigMaps("default").List(t.t.Context(), metav1.ListOptions{})
	if err != nil {
		t.t.Fatal(err)
	}
	return list.ResourceVersion
}

// outputs reads what commands print, and a recording.
func (t *trap) outputs(when, alive string) {
	t.t.Helper()
	for _, args := range [][]string{
		{"log"}, {"log", "-o", "json"}, {"log", "--object", "secrets/canary", "-o", "json"}, {"why", "secrets/canary"}, {"why", "pods/user"},
		{"diff", "secrets/canary"}, {"diff", "secrets/canary", "-o", "json"}, {"get", "secrets", "--at", alive}, {"get", "pods", "--at", alive, "-o", "yaml"}, {"replay"}, {"replay", "-o", "json"},
	} {
		r := t.command("", t.rutterBin, args...)
		if t.sings([]byte(r.out + r.err)) {
			t.t.Errorf("%s, rutter %s tells", when, strings.Join(args, " "))
		}
	}
	for _, args := range [][]string{
		{"get", "events", "-A", "-o", "yaml"}, {"get", "secrets", "-A"}, {"get", "secrets", "-A", "-o", "wide"}, {"describe", "secrets", "-A"}, {"describe", "pods", "-A"}, {"get", "pods", "-A", "-o", "yaml"},
		{"get", "--raw", "/metrics"},
	} {
		r := t.command("", t.kubectlBin, args...)
		if t.sings([]byte(r.out + r.err)) {
			t.t.Errorf("%s, kubectl %s tells", when, strings.Join(args, " "))
		}
	}
	file := filepath.Join(t.dir, "recording")
	defer os.Remove(file)
	t.rutter("record", file)
	f, err := os.Open(file)
	if err != nil {
		t.t.Fatal(err)
	}
	defer f.Close()
	recording, err := history.OpenRecording(f)
	if err != nil {
		t.t.Fatal(err)
	}
	seen := 0
	for r, err := range recording.Past().Records {
		if err != nil {
			t.t.Fatal(err)
		}
		if r.Key.Plural == "secrets" {
			seen++
		}
		if t.sings(r.Body) || t.sings([]byte(fmt.Sprintf("%+v", r.Envelope))) {
			t.t.Errorf("%s, event %d of a recording tells", when, r.Seq)
		}
	}
	if seen < 2 {
		t.t.Errorf("%s, the recording has %d events of Secrets", when, seen)
	}
}

// files reads all that the cluster keeps, but for what is in its pods:
// containerd's own files, and the volume itself, which is in memory.
func (t *trap) files(when string) {
	t.t.Helper()
	read := 0
	for _, dir := range []string{t.data, t.run} {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			switch {
			case os.IsNotExist(err):
				return nil // it went meanwhile
			case err != nil:
				return err
			case e.IsDir() && (e.Name() == "containerd" || e.Name() == "volumes"):
				return filepath.SkipDir
			case !e.Type().IsRegular():
				return nil
			}
			b, err := os.ReadFile(path)
			if os.IsNotExist(err) || errors.Is(err, syscall.EINVAL) { // or a namespace that is pinned there
				return nil
			}
			read += len(b)
			if t.sings(b) {
				t.t.Errorf("%s, %s tells", when, strings.TrimPrefix(path, t.dir))
			}
			return err
		})
		if err != nil {
			t.t.Fatal(err)
		}
	}
	if read < 1<<16 {
		t.t.Errorf("%s, only %d bytes of files were found", when, read)
	}
}

// logging is a rutter log that follows the log.
type logging struct {
	cmd  *exec.Cmd
	seen chan string // the Secret's events, as they are printed
}

// startLog starts a rutter log that has the whole records of all that happens.
func (t *trap) startLog() *logging {
	t.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &logging{cmd: exec.CommandContext(ctx, t.rutterBin, "log", "-f", "-o", "json"), seen: make(chan string, 100)}
	l.cmd.Env = t.env()
	out, err := l.cmd.StdoutPipe()
	if err == nil {
		err = l.cmd.Start()
	}
	if err != nil {
		t.t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewReader(out); ; {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			if strings.Contains(line, "secrets/default/canary") {
				l.seen <- line
			}
		}
	}()
	t.t.Cleanup(func() {
		cancel()
		<-read
		_ = l.cmd.Wait() // killed: that is the error
	})
	return l
}

// memory reads the memory of the rutter log that has had every event of the
// Secret: all that a core dump would hold.
func (t *trap) memory(l *logging) {
	t.t.Helper()
	for last := ""; !strings.Contains(last, `"secret.deleted"`); {
		select {
		case last = <-l.seen:
			if t.sings([]byte(last)) {
				t.t.Errorf("rutter log -f tells: %s", last)
			}
		case <-time.After(awaitTimeout):
			t.t.Fatalf("rutter log -f does not bring the delete; the last was %s", last)
		}
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", l.cmd.Process.Pid))
	if err != nil {
		t.t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", l.cmd.Process.Pid))
	if err != nil {
		t.t.Fatal(err)
	}
	defer mem.Close()
	read, key := 0, false
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var rights string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &rights); err != nil || rights[0] != 'r' {
			continue
		}
		b := make([]byte, to-from)
		n, _ := mem.ReadAt(b, from) // the kernel's own pages cannot be read
		read += n
		key = key || bytes.Contains(b[:n], []byte("secrets/default/canary"))
		if t.sings(b[:n]) {
			t.t.Errorf("the memory of rutter log -f holds it, at %x", from)
		}
	}
	if read < 1<<20 || !key {
		t.t.Errorf("of the memory of rutter log -f %d bytes were read, the Secret's name among them: %v", read, key)
	}
}

// canaryManifests have the secret where it may be, and a pod that uses it.
const canaryManifests = `
apiVersion: v1
kind: Secret
metadata: {name: canary, labels: {round: %[2]s}}
type: Opaque
stringData: {password: %[1]s}
---
apiVersion: v1
kind: Pod
metadata: {name: user, labels: {app: user}}
spec:
  containers:
  - name: tools
    image: ` + tools.Image + `
    env:
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: canary, key: password}}}
    volumeMounts:
    - {name: secret, mountPath: /secret}
  volumes:
  - {name: secret, secret: {secretName: canary}}
`
