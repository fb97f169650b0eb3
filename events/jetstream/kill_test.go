package jetstream

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rutterhq/rutter/events/logtest"
)

// The test binary is also the server that TestKilled kills.
const (
	serveDir    = "RUTTER_TEST_LOG_DIR"
	serveListen = "RUTTER_TEST_LOG_LISTEN"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(serveDir); dir != "" {
		serve(dir, os.Getenv(serveListen))
		return
	}
	if arguments := os.Getenv(cutEnv); arguments != "" {
		if err := serveUntilCut(arguments); err != nil {
			fmt.Fprintln(os.Stderr, "the server that is to lose its power:", err)
			os.Exit(1)
		}
		return
	}
	if arguments := os.Getenv(writerEnv); arguments != "" {
		fmt.Fprintln(os.Stderr, "the writer that is to be killed:", writeUntilKilled(arguments))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// serve runs a server until standard input ends.
func serve(dir, listen string) {
	s, err := StartServer(ServerConfig{Dir: dir, Listen: listen, Token: "secret", Log: func(level, message string) {
		if level == "error" || level == "fatal" {
			fmt.Fprintln(os.Stderr, message)
		}
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(s.URL())
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// serverProcess is a server in a process of its own.
type serverProcess struct {
	*exec.Cmd
	stdin io.Closer
	url   string
}

func startProcess(t *testing.T, dir, listen string) *serverProcess {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &serverProcess{Cmd: exec.Command(self)}
	p.Env = append(os.Environ(), serveDir+"="+dir, serveListen+"="+listen)
	p.Stderr = os.Stderr
	if p.stdin, err = p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if p.url = strings.TrimSpace(line); err != nil || !strings.HasPrefix(p.url, "nats://") {
		t.Fatalf("the server said %q, %v", line, err)
	}
	return p
}

// kill ends the process with SIGKILL.
func (p *serverProcess) kill() {
	_ = p.Process.Kill()
	_ = p.Wait()
	_ = p.stdin.Close()
}

var kills = flag.Int("kills", 5, "how many times TestKilled kills a server, at least")

// TestKilled kills the server's process under load, again and again: what was
// acknowledged is there, and a follower sees every event once and in order.
func TestKilled(t *testing.T) {
	t.Parallel()
	for done := 0; done < *kills; {
		done += killUnderLoad(t)
	}
}

// killUnderLoad is the life of one log, and returns how often it was killed.
func killUnderLoad(t *testing.T) (killed int) {
	dir := t.TempDir()
	listen := logtest.Addresses(t, 1)[0]
	p := startProcess(t, dir, listen)
	defer func() { p.kill() }()
	token := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(token, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := dialFile(t, p.url, token, Options{Budget: 1 << 30})
	underLoad(t, l, func(i int) {
		if i%4 == 0 {
			p.kill()
			p = startProcess(t, dir, listen)
			killed++
		}
	})
	l.Close()
	return killed
}
