//go:build e2e

package nodeagent

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// startRegistry runs Debian's docker-registry on loopback and returns its
// address.
func startRegistry(t *testing.T, r *rig) string {
	t.Helper()
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	config := filepath.Join(t.TempDir(), "registry.yml")
	os.WriteFile(config, []byte(fmt.Sprintf("version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: %s\n", t.TempDir(), addr)), 0o600)
	cmd := exec.Command("docker-registry", "serve", config)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for range 500 {
		if res, err := http.Get("http://" + addr + "/v2/"); err == nil {
			res.Body.Close()
			return addr
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the registry does not answer")
	return ""
}

func pushImage(t *testing.T, r *rig, ref string) {
	t.Helper()
	path, _ := busyboxTar(t, t.TempDir(), ref, nil)
	for _, args := range [][]string{{"import", path}, {"push", "--plain-http", ref}, {"rm", ref}} {
		out, err := exec.Command("ctr", append([]string{"-a", r.socket, "-n", "rutter", "images"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("ctr %v: %v: %s", args, err, out)
		}
	}
}
