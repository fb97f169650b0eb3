//go:build e2e

package test

import (
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// traces are what a cluster may leave on a machine, by sort, as the lines that
// a person would look at.
type traces map[string][]string

// look takes a picture of the machine as the tests see it.
func look(t *testing.T) *traces {
	t.Helper()
	s := traces{
		"processes":  processes(t),
		"mounts":     mounts(t),
		"namespaces": entries("/run/netns"),
		"pins":       entries("/sys/fs/bpf"),
		"cgroups":    cgroups(),
		"links":      links(t),
		"forwarding": read("/proc/sys/net/ipv4/ip_forward"),
		"containerd": entries("/run/containerd/s"),
	}
	for name, command := range map[string]string{
		"addresses": "ip -4 -o addr", "routes": "ip -4 route show table all", "rules": "ip rule", "neighbours": "ip neigh show nud permanent",
		"iptables": "iptables-save", "nftables": "nft list ruleset", "filters": "tc filter show dev uplink0 ingress; tc filter show dev uplink0 egress; tc qdisc",
	} {
		out, err := exec.Command("sh", "-c", command).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
		s[name] = lines(string(out))
	}
	return &s
}

// compare fails the test for everything that was not there before, and for
// what is gone that was.
func (s *traces) compare(t *testing.T, after *traces) {
	t.Helper()
	for _, sort := range slices.Sorted(maps.Keys(*after)) {
		was, is := (*s)[sort], (*after)[sort]
		for _, line := range is {
			if !slices.Contains(was, line) {
				t.Errorf("left behind, %s: %s", sort, line)
			}
		}
		for _, line := range was {
			if sort != "mounts" && !slices.Contains(is, line) { // what others mounted may go with them
				t.Errorf("gone, %s: %s", sort, line)
			}
		}
	}
}

func lines(s string) []string {
	var out []string
	for l := range strings.Lines(s) {
		// Comments carry the time, chains carry counters, addresses their remaining life.
		if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "#") {
			out = append(out, l)
		}
	}
	return out
}

// processes are all but the tests' own.
func processes(t *testing.T) []string {
	t.Helper()
	all, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range all {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || pid == 1 {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if command := strings.TrimSpace(strings.ReplaceAll(string(b), "\x00", " ")); err == nil && command != "" { // empty: it is a zombie
			out = append(out, command)
		}
	}
	return out
}

func mounts(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for l := range strings.Lines(string(b)) {
		if f := strings.Fields(l); len(f) > 4 {
			out = append(out, f[4])
		}
	}
	return out
}

// entries are all paths below a folder.
func entries(dir string) []string {
	var out []string
	_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && path != dir && !strings.HasSuffix(path, ".debug") { // the kernel's own, made when first mounted
			out = append(out, path)
		}
		return nil // what is not there leaves no trace
	})
	return out
}

// cgroups are those that could be ours.
func cgroups() []string {
	var out []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasSuffix(path, "/rutter/"+nodeName) {
			out = append(out, path)
		}
		return nil // other groups come and go
	})
	return out
}

func links(t *testing.T) []string {
	t.Helper()
	all, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range all {
		out = append(out, l.Attrs().Name)
	}
	return out
}

func read(file string) []string {
	b, err := os.ReadFile(file)
	if err != nil {
		return []string{err.Error()}
	}
	return lines(string(b))
}
