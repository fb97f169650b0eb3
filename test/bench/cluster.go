package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// pprofAddress is where the cluster serves its profiles.
const pprofAddress = "127.0.0.1:26060"

// cluster is a rutter up that this process started.
type cluster struct {
	rutter string
	dir    string // of its data, run files and log
	pid    int
	url    string
	save   string      // folder for profiles; empty: none are taken
	tls    *tls.Config // of its administrator
}

func (c *cluster) folders() []string {
	return []string{"--data", filepath.Join(c.dir, "data"), "--run", filepath.Join(c.dir, "run")}
}

// start starts a cluster and waits until it is ready.
func start(ctx context.Context, o *options) (*cluster, error) {
	dir, err := os.MkdirTemp("", "rutter-bench")
	if err != nil {
		return nil, err
	}
	c := &cluster{rutter: o.rutter, dir: dir, save: o.profile}
	args := append([]string{"up", "--detach", "--node", "bench", "--listen", "127.0.0.1:26443", "--node-port", "26250",
		"--http", "127.0.0.1:26080", "--https", "127.0.0.1:26444", "--host-services=false", "--log-level", "warn"}, c.folders()...)
	if o.profile != "" {
		args = append(args, "--pprof", pprofAddress)
	}
	if out, err := exec.CommandContext(ctx, o.rutter, args...).CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("rutter up: %w: %s", err, out), c.stop())
	}
	if err := c.connect(); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

// connect reads how the cluster is reached.
func (c *cluster) connect() error {
	b, err := os.ReadFile(filepath.Join(c.dir, "run", "up.pid"))
	if err != nil {
		return err
	}
	if c.pid, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
		return fmt.Errorf("up.pid: %w", err)
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", filepath.Join(c.dir, "data", "admin.kubeconfig"))
	if err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	c.url = cfg.Host
	c.tls, err = rest.TLSConfigFor(cfg)
	return err
}

// stop ends the cluster and takes away all that it left.
func (c *cluster) stop() error {
	out, err := exec.Command(c.rutter, append([]string{"down"}, c.folders()...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("rutter down: %w: %s; its files are in %s", err, out, c.dir)
	}
	return os.RemoveAll(c.dir)
}

// client returns a client with a connection of its own.
func (c *cluster) client() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: c.tls.Clone(), ForceAttemptHTTP2: true}}
}

// profile saves what the process says of itself: at /debug/pprof/ of its --pprof.
func (c *cluster) profile(ctx context.Context, what, file string) error {
	if c.save == "" {
		return nil
	}
	body, err := (&cluster{url: "http://" + pprofAddress}).call(ctx, http.DefaultClient, http.MethodGet, "/debug/pprof/"+what, "", "")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.save, strings.ReplaceAll(file, " ", "-")), body, 0o644)
}

// tick is the unit of /proc/PID/stat on every Linux that Go runs on (USER_HZ).
const tick = 10 * time.Millisecond

// cpu is the user and system time that the process has used.
func (c *cluster) cpu() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), ") ") // the name may hold spaces
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: %q", c.pid, b)
	}
	// proc_pid_stat(5): utime is field 14, stime 15; the state is field 3.
	user, err := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * tick, errors.Join(err, err2)
}

const (
	quietWindow = 100 * time.Millisecond // in which a quiet process uses at most one tick
	quietWait   = 10 * time.Second       // for which it is awaited
)

// settledCPU is cpu once the process is quiet: what requests left to be done
// belongs to them.
func (c *cluster) settledCPU(ctx context.Context) (time.Duration, error) {
	last, err := c.cpu()
	for end := time.Now().Add(quietWait); err == nil && time.Now().Before(end); {
		select {
		case <-time.After(quietWindow):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		var now time.Duration
		if now, err = c.cpu(); now-last <= tick {
			return now, err
		}
		last = now
	}
	return last, err
}

// rss is the memory of the process in bytes, and the part of it that is no
// file's.
func (c *cluster) rss() (all, anon int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range bytes.Lines(b) {
		name, value, _ := strings.Cut(string(line), ":")
		kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64) // other lines are of no interest
		switch name {
		case "VmRSS":
			all = kb << 10
		case "RssAnon":
			anon = kb << 10
		}
	}
	return all, anon, nil
}

func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(b))[:3], " ")
}
