//go:build e2e

package bpf

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const vip = "10.43.7.7:80"

func TestTCP(t *testing.T) {
	n := newNetwork(t)
	b1, b2 := "10.42.0.11:8080", "10.42.0.12:8080"
	n.serve(b1)
	n.serve(b2)
	d := open(t, Config{Node: testNode(t, "a")})
	set(t, d, service(TCP, vip, b1, b2))
	c := n.client(d.cfg.CgroupPath)

	a := c.ask("tcp", 100, vip)
	if a.Err != "" {
		t.Fatal(a.Err)
	}
	seen := map[string]int{}
	for i := range a.Names {
		seen[a.Names[i]]++
		if a.Peers[i] != vip {
			t.Fatalf("getpeername shows %s, want the service %s", a.Peers[i], vip)
		}
	}
	// 100 fair picks of two leave one out, or nearly so, less than once in 10^9 runs.
	if seen[b1] < 20 || seen[b2] < 20 || len(seen) != 2 {
		t.Errorf("backends were picked %v", seen)
	}
	if a := c.ask("tcp6", 1, vip); a.Err != "" || a.Peers[0] != vip || seen[a.Names[0]] == 0 {
		t.Errorf("by an IPv6 socket: %+v", a)
	}
	if a := c.ask("tcp", 1, b1); a.Err != "" || a.Peers[0] != b1 || a.Names[0] != b1 {
		t.Errorf("directly: %+v", a)
	}
	if s, err := d.Stats(); err != nil || s != (Stats{Picked: 101}) {
		t.Errorf("stats are %+v, %v", s, err)
	}
}

func TestNoBackends(t *testing.T) {
	n := newNetwork(t)
	d := open(t, Config{Node: testNode(t, "a"), Range: netipPrefix("10.43.0.0/16")})
	set(t, d, service(TCP, vip), service(UDP, vip))
	c := n.client(d.cfg.CgroupPath)
	for _, test := range []struct{ op, addr string }{
		{"tcp", vip}, {"tcp6", vip}, {"udp", vip}, {"udp6", vip}, {"udpconnect", vip}, // empty
		{"tcp", "10.43.7.7:81"}, {"udp", "10.43.9.9:53"}, // unknown, in the range
	} {
		start := time.Now()
		a := c.ask(test.op, 1, test.addr)
		if a.Errno != int(unix.ECONNREFUSED) {
			t.Errorf("%s to %s: %q, want connection refused", test.op, test.addr, a.Err)
		}
		if took := time.Since(start); took > patience/2 {
			t.Errorf("%s to %s: refused only after %s", test.op, test.addr, took)
		}
	}
	if s, err := d.Stats(); err != nil || s != (Stats{Empty: 5, Unknown: 2}) {
		t.Errorf("stats are %+v, %v", s, err)
	}
	if a := c.ask("tcp", 1, "10.44.0.1:80"); a.Errno != int(unix.ENETUNREACH) {
		t.Errorf("outside the range: %q, want that it goes where the routes lead", a.Err)
	}
}

func TestUDP(t *testing.T) {
	n := newNetwork(t)
	var backends []string
	for i := range 10 {
		backends = append(backends, fmt.Sprintf("10.42.0.%d:5353", 20+i))
		n.serve(backends[i])
	}
	d := open(t, Config{Node: testNode(t, "a")})
	const vip2 = "10.43.7.8:53"
	set(t, d, service(UDP, vip, backends...), service(UDP, vip2, backends[:5]...))
	c := n.client(d.cfg.CgroupPath)

	for _, op := range []string{"udp", "udp6", "udpconnect"} {
		a := c.ask(op, 50, vip)
		if a.Err != "" {
			t.Fatalf("%s: %s", op, a.Err)
		}
		if names := slices.Compact(a.Names); len(names) != 1 {
			t.Errorf("%s: 50 datagrams of one socket went to %v, want one backend", op, names)
		}
		if peers := slices.Compact(a.Peers); len(peers) != 1 || peers[0] != vip {
			t.Errorf("%s: answers came from %v, want the service", op, peers)
		}
	}

	// Two services through one socket, and a backend by its own address.
	a := c.ask("udp", 3, vip, vip2)
	for i, p := range a.Peers {
		if want := []string{vip, vip2}[i%2]; p != want {
			t.Errorf("answer %d came from %s, want %s", i, p, want)
		}
	}
	kept := a.Names[0]
	if a := c.ask("udp", 1, kept); a.Err != "" || a.Peers[0] != kept {
		t.Errorf("directly to a backend: %+v, want its own address", a)
	}

	// The socket stays with its backend for as long as that is one, and then moves.
	kept = c.ask("udp", 1, vip).Names[0]
	set(t, d, service(UDP, vip, kept, "10.42.0.20:5353"))
	if a := c.ask("udp", 5, vip); a.Err != "" || len(slices.Compact(a.Names)) != 1 || a.Names[0] != kept {
		t.Errorf("after an update that keeps the backend %s: %+v", kept, a)
	}
	other := backends[3]
	if kept == other {
		other = backends[4]
	}
	set(t, d, service(UDP, vip, other))
	if a := c.ask("udp", 5, vip); a.Err != "" || len(slices.Compact(a.Names)) != 1 || a.Names[0] != other {
		t.Errorf("after the backend went: %+v, want %s", a, other)
	}
	set(t, d)
	if a := c.ask("udp", 1, vip); a.Err == "" {
		t.Errorf("after the service went: %+v, want an error", a)
	}
}

// A connection stays with its backend when the service changes or goes; new
// connections go by the new configuration.
func TestUpdatesLeaveConnectionsAlone(t *testing.T) {
	n := newNetwork(t)
	b1, b2 := "10.42.0.11:8080", "10.42.0.12:8080"
	n.serve(b1)
	n.serve(b2)
	d := open(t, Config{Node: testNode(t, "a")})
	set(t, d, service(TCP, vip, b1))
	c := n.client(d.cfg.CgroupPath)
	if a := c.ask("hold", 0, vip); a.Err != "" || a.Names[0] != b1 {
		t.Fatalf("%+v", a)
	}
	for _, backends := range [][]string{{b2}, {b1, b2}, {b2}} {
		set(t, d, service(TCP, vip, backends...))
		if a := c.ask("ping", 5); a.Err != "" {
			t.Errorf("with backends %v: %s", backends, a.Err)
		}
	}
	if a := c.ask("tcp", 20, vip); a.Err != "" || slices.Contains(a.Names, b1) {
		t.Errorf("new connections: %+v, want %s", a, b2)
	}
	set(t, d)
	if a := c.ask("ping", 5); a.Err != "" {
		t.Errorf("without the service: %s", a.Err)
	}
}

// Under updates and restarts no connection fails.
func TestRestartsUnderLoad(t *testing.T) {
	n := newNetwork(t)
	b1, b2 := "10.42.0.11:8080", "10.42.0.12:8080"
	n.serve(b1)
	n.serve(b2)
	cfg := Config{Node: testNode(t, "a"), Range: netipPrefix("10.43.0.0/16")}
	d := open(t, cfg)
	set(t, d, service(TCP, vip, b1, b2))
	c := n.client(d.cfg.CgroupPath)
	stop := filepath.Join(t.TempDir(), "stop")
	c.start("load", 0, vip, stop)
	for i := range 50 {
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		d = open(t, cfg)
		if have, err := d.Services(); err != nil || !slices.ContainsFunc(have, func(s Service) bool { return len(s.Backends) == 2 }) {
			t.Fatalf("after a restart the maps hold %v, %v", have, err)
		}
		set(t, d, service(TCP, vip, []string{b1, b2}[i%2]), service(TCP, "10.43.1.1:1", b1))
		set(t, d, service(TCP, vip, b1, b2))
	}
	if err := os.WriteFile(stop, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a := c.wait()
	t.Logf("%d connections during 50 restarts and 100 updates, %d failed", a.OK, a.Failed)
	if a.Failed > 0 || a.OK < 100 {
		t.Errorf("%d connections failed: %s", a.Failed, a.Err)
	}
}
