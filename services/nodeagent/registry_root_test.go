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

	"golang.org/x/crypto/bcrypt"
)

// startRegistry runs Debian's docker-registry on loopback and returns its
// address.
func startRegistry(t *testing.T, auth string) string {
	t.Helper()
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	config := filepath.Join(t.TempDir(), "registry.yml")
	os.WriteFile(config, []byte(fmt.Sprintf("version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: %s\n%s", t.TempDir(), addr, auth)), 0o600)
	cmd := exec.Command("docker-registry", "serve", config)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for range 500 {
		res, err := http.Get("http://" + addr + "/v2/")
		if err == nil {
			res.Body.Close()
			return addr
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the registry does not answer")
	return ""
}

// withUser is a registry's configuration that lets one user in.
func withUser(t *testing.T, user, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "htpasswd")
	os.WriteFile(path, []byte(user+":"+string(hash)+"\n"), 0o600)
	return fmt.Sprintf("auth:\n  htpasswd:\n    realm: test\n    path: %s\n", path)
}

// pushImage puts busybox into a registry; more are arguments of ctr push.
func pushImage(t *testing.T, r *rig, ref string, more ...string) {
	t.Helper()
	path, _ := busyboxTar(t, t.TempDir(), ref, nil)
	for _, args := range [][]string{{"import", path}, append(append([]string{"push", "--plain-http"}, more...), ref), {"rm", ref}} {
		out, err := exec.Command("ctr", append([]string{"-a", r.socket, "-n", "rutter", "images"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("ctr %v: %v: %s", args, err, out)
		}
	}
}
