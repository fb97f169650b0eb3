//go:build e2e

package test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/sim/logs"
)

// TestReplayElsewhere replays the recordings of sim/logs with the real binary
// where there is nothing but it and them: an empty root folder without /etc,
// /proc or a zone file, namespaces of its own, a user without rights, another
// number of processors, zone and language. All decisions come to what they come
// to here. (deploy/replay.sh varies more, and does it a thousand times.)
func TestReplayElsewhere(t *testing.T) {
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"../bin/rutter": "rutter"}
	for _, name := range logs.Names() {
		files["../sim/logs/"+name+".rec"] = name + ".rec"
	}
	for from, to := range files {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(root, to), b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range logs.Names() {
		here, err := logs.Replay(name, logs.Deciders())
		if err != nil {
			t.Fatal(err)
		}
		c := exec.Command("/rutter", "replay", "/"+name+".rec", "--what-if", "-o", "json")
		c.Dir = "/"
		c.Env = []string{"GOMAXPROCS=5", "TZ=Asia/Kathmandu", "LANG=tr_TR.UTF-8", "LC_ALL=tr_TR.UTF-8", "GOGC=30"}
		c.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, Pdeathsig: syscall.SIGKILL,
			Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID}
		var said bytes.Buffer
		c.Stderr = &said
		out, err := c.Output()
		if err != nil {
			t.Fatalf("%s: %v: %s", name, err, &said)
		}
		var there history.Report
		if err := json.Unmarshal(out, &there); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
		if there.Digest != here.Digest || there.Decisions != here.Decisions || there.Decisions == 0 {
			t.Errorf("%s: there %d decisions come to %s, here %d to %s", name, there.Decisions, there.Digest, here.Decisions, here.Digest)
		}
		t.Logf("%s: %d decisions, %d changes, %s", name, there.Decisions, there.Changes, there.Digest)
	}
}
