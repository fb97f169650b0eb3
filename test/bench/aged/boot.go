package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// bootWait bounds how long a start may take.
const bootWait = 10 * time.Minute

// booted is how a start went.
type booted struct {
	ready  time.Duration // from the start of the process until /readyz says ok
	listed time.Duration // until a list was read
	memory string        // then
}

func (b booted) String() string {
	return fmt.Sprintf("ready after %.2f s, a list read after %.2f s; %s", b.ready.Seconds(), b.listed.Seconds(), b.memory)
}

// boot starts a process of Rutter, waits until it serves, and ends it by a
// signal.
func boot(ctx context.Context, m *machine, end syscall.Signal) (booted, error) {
	if err := m.start(); err != nil {
		return booted{}, err
	}
	b, err := m.serves(ctx)
	m.stop(end)
	return b, err
}

// machine is a process of Rutter that serves the API.
type machine struct {
	rutter string
	args   []string // the command, and its flags but for the folders
	dir    string   // holds the folders data and run, and what was printed
	begun  time.Time
	cmd    *exec.Cmd // nil: it does not run
}

// single is a cluster of one machine.
func single(o *options) *machine {
	return &machine{rutter: o.rutter, dir: o.dir, args: []string{"up", "--node", "aged",
		"--listen", "127.0.0.1:26443", "--node-port", "26250", "--http", "127.0.0.1:26080", "--https", "127.0.0.1:26444", "--host-services=false"}}
}

func (m *machine) data() string { return filepath.Join(m.dir, "data") }

func (m *machine) start() error {
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(filepath.Join(m.dir, "out.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	c := exec.Command(m.rutter, slices.Concat(m.args, []string{"--data", m.data(), "--run", filepath.Join(m.dir, "run"), "--log-level", "warn"})...)
	c.Stdout, c.Stderr = out, out
	m.begun = time.Now()
	if err := c.Start(); err != nil {
		return err
	}
	m.cmd = c
	return nil
}

// stop ends the process, if it runs. A kill is meant to end it badly, and so
// does who is told to end while it begins.
func (m *machine) stop(end syscall.Signal) {
	if m.cmd == nil {
		return
	}
	_ = m.cmd.Process.Signal(end)
	_ = m.cmd.Wait()
	m.cmd = nil
}

// serves waits until the machine serves.
func (m *machine) serves(ctx context.Context) (b booted, err error) {
	ctx, cancel := context.WithTimeout(ctx, bootWait)
	defer cancel()
	if err := m.await(ctx, "/readyz"); err != nil {
		return b, err
	}
	b.ready = time.Since(m.begun)
	if err := m.await(ctx, "/api/v1/nodes"); err != nil {
		return b, err
	}
	b.listed = time.Since(m.begun)
	b.memory = memory(m.cmd.Process.Pid)
	return b, nil
}

// await asks until the answer is 200.
func (m *machine) await(ctx context.Context, path string) error {
	for {
		err := m.ask(ctx, path)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s of %s: %w", path, m.dir, errors.Join(ctx.Err(), err))
		}
	}
}

func (m *machine) ask(ctx context.Context, path string) error {
	cfg, err := clientcmd.BuildConfigFromFlags("", filepath.Join(m.data(), "admin.kubeconfig"))
	if err != nil {
		return err
	}
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, cfg.Host+path, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, answer.Status)
	}
	return nil
}

// memory tells what a process takes, took at most, and has computed.
func memory(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err.Error()
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if kb := 0; name == "VmRSS" || name == "VmHWM" {
			if _, err := fmt.Sscan(value, &kb); err == nil {
				out = append(out, fmt.Sprintf("%s %d MiB", map[string]string{"VmRSS": "RSS", "VmHWM": "at most"}[name], kb>>10))
			}
		}
	}
	return strings.Join(out, ", ") + ", CPU " + cpu(pid)
}

// cpu is the user and system time that a process has used.
func cpu(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return err.Error()
	}
	_, rest, _ := strings.Cut(string(b), ") ") // the name may hold spaces
	var skip string
	var user, system int // ticks of 10 ms
	fields := append(make([]any, 0, 13), &skip)
	for range 10 {
		fields = append(fields, &skip)
	}
	if _, err := fmt.Sscan(rest, append(fields, &user, &system)...); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%.2f s", float64(user+system)/100)
}

func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(b))[:3], " ")
}
