//go:build e2e

package bpf

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

const vip = "10.43.7.7:80"

func TestTCP(t *testing.T) {
	n := newNetwork(t)
	b1, b2 := "10.42.0.11:8080", "10.42.0.12:8080"
	n.serve(b1)
	n.serve(b2)
	d := open(t, Config{Node: testNode(t, "a")})
	set(t, d, svcFor(TCP, vip, b1, b2))
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
	set(t, d, svcFor(TCP, vip), svcFor(UDP, vip))
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
	set(t, d, svcFor(UDP, vip, backends...), svcFor(UDP, vip2, backends[:5]...))
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

	// Two services that lead to one backend: the answer is for the last question.
	set(t, d, svcFor(UDP, vip, backends[0]), svcFor(UDP, vip2, backends[0]))
	a = c.ask("udp", 3, vip, vip2)
	for i, p := range a.Peers {
		if want := []string{vip, vip2}[i%2]; p != want {
			t.Errorf("of one backend, answer %d came from %s, want %s", i, p, want)
		}
	}
	set(t, d, svcFor(UDP, vip, backends...))

	// The socket stays with its backend for as long as that is one, and then moves.
	kept = c.ask("udp", 1, vip).Names[0]
	set(t, d, svcFor(UDP, vip, kept, "10.42.0.20:5353"))
	if a := c.ask("udp", 5, vip); a.Err != "" || len(slices.Compact(a.Names)) != 1 || a.Names[0] != kept {
		t.Errorf("after an update that keeps the backend %s: %+v", kept, a)
	}
	other := backends[3]
	if kept == other {
		other = backends[4]
	}
	set(t, d, svcFor(UDP, vip, other))
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
	set(t, d, svcFor(TCP, vip, b1))
	c := n.client(d.cfg.CgroupPath)
	if a := c.ask("hold", 0, vip); a.Err != "" || a.Names[0] != b1 {
		t.Fatalf("%+v", a)
	}
	for _, backends := range [][]string{{b2}, {b1, b2}, {b2}} {
		set(t, d, svcFor(TCP, vip, backends...))
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
	set(t, d, svcFor(TCP, vip, b1, b2))
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
		set(t, d, svcFor(TCP, vip, []string{b1, b2}[i%2]), svcFor(TCP, "10.43.1.1:1", b1))
		set(t, d, svcFor(TCP, vip, b1, b2))
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

// Nodes on one machine have services of their own, even for the same address.
func TestNodesAreApart(t *testing.T) {
	n := newNetwork(t)
	b1, b2 := "10.42.0.11:8080", "10.42.0.12:8080"
	n.serve(b1)
	n.serve(b2)
	one, two := open(t, Config{Node: testNode(t, "one")}), open(t, Config{Node: testNode(t, "two")})
	set(t, one, svcFor(TCP, vip, b1))
	set(t, two, svcFor(TCP, vip, b2), svcFor(TCP, "10.43.7.8:80", b2))
	c1, c2 := n.client(one.cfg.CgroupPath), n.client(two.cfg.CgroupPath)
	for range 5 {
		if a := c1.ask("tcp", 1, vip); a.Err != "" || a.Names[0] != b1 {
			t.Errorf("on node one: %+v, want %s", a, b1)
		}
		if a := c2.ask("tcp", 1, vip); a.Err != "" || a.Names[0] != b2 {
			t.Errorf("on node two: %+v, want %s", a, b2)
		}
	}
	if a := c1.ask("tcp", 1, "10.43.7.8:80"); a.Err == "" {
		t.Errorf("node one reaches a service of node two: %+v", a)
	}
	if err := one.Remove(); err != nil {
		t.Fatal(err)
	}
	if a := c2.ask("tcp", 1, vip); a.Err != "" || a.Names[0] != b2 {
		t.Errorf("on node two after node one was removed: %+v", a)
	}
}

// With host services the node's own programs are served, in any cgroup, and
// pods as before; programs in network namespaces of others are not.
func TestHostServices(t *testing.T) {
	host, pods, others := newNetwork(t), newNetwork(t), newNetwork(t)
	backend := "10.42.0.11:8080"
	for _, n := range []*network{host, pods, others} {
		n.serve(backend)
	}
	cfg := Config{Node: testNode(t, "a"), HostServices: true, Range: netipPrefix("10.43.0.0/16")}
	var d *Datapath
	take := func() {
		t.Helper()
		host.do(func() (err error) {
			d, err = Open(cfg)
			return err
		})
	}
	take()
	t.Cleanup(func() {
		if err := Remove(cfg); err != nil {
			t.Error(err)
		}
	})
	set(t, d, svcFor(TCP, vip, backend), svcFor(UDP, vip, backend))
	other := open(t, Config{Node: testNode(t, "b")}) // only for its cgroup
	inHost, elsewhere := d.cfg.CgroupPath, other.cfg.CgroupPath
	served := func(c *client) bool {
		return c.ask("tcp", 1, vip).Err == "" && c.ask("tcp6", 1, vip).Err == ""
	}
	for range 2 {
		for _, c := range []*client{host.client(elsewhere), host.client(inHost), pods.client(inHost)} {
			if a := c.ask("tcp", 1, vip); a.Err != "" || a.Peers[0] != vip {
				t.Errorf("%+v", a)
			}
			if a := c.ask("udp", 3, vip); a.Err != "" || a.Peers[2] != vip {
				t.Errorf("%+v", a)
			}
		}
		if served(others.client(elsewhere)) {
			t.Error("who has nothing to do with the node is served by it")
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		take()
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.HostServices = false
	take()
	if served(host.client(elsewhere)) || !served(host.client(inHost)) || !served(pods.client(inHost)) {
		t.Error("without host services, other programs than the node's pods are served")
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// A program that is its own only backend reaches itself.
func TestHairpin(t *testing.T) {
	n := newNetwork(t)
	d := open(t, Config{Node: testNode(t, "a")})
	c := n.client(d.cfg.CgroupPath)
	set(t, d, svcFor(TCP, vip, "10.42.0.11:8080"))
	if a := c.ask("hairpin", 1, "10.42.0.11:8080", vip); a.Err != "" || a.OK != 1 {
		t.Errorf("%+v", a)
	}
}

// A service may be served at its own address on the node.
func TestServedAtItsOwnAddress(t *testing.T) {
	n := newNetwork(t)
	own := "10.42.9.9:53"
	n.serve(own)
	d := open(t, Config{Node: testNode(t, "a"), Range: netipPrefix("10.42.9.0/24")})
	set(t, d, svcFor(TCP, own, own), svcFor(UDP, own, own))
	c := n.client(d.cfg.CgroupPath)
	for _, op := range []string{"tcp", "udp", "udpconnect"} {
		if a := c.ask(op, 2, own); a.Err != "" || a.Peers[0] != own {
			t.Errorf("%s: %+v", op, a)
		}
	}
}

// What a process left that was killed in the middle of an update is cleared
// up by the next, and nothing that is in force is touched.
func TestKilledInAnUpdate(t *testing.T) {
	n := newNetwork(t)
	b1, b2, b3 := "10.42.0.11:8080", "10.42.0.12:8080", "10.42.0.13:8080"
	for _, b := range []string{b1, b2, b3} {
		n.serve(b)
	}
	cfg := Config{Node: testNode(t, "a")}
	d := open(t, cfg)
	set(t, d, svcFor(TCP, vip, b1, b2))
	c := n.client(d.cfg.CgroupPath)

	// All but the last write of an update to b3 and of a new service.
	p, err := planFor(d.have, &d.ids, []Service{svcFor(TCP, vip, b3), svcFor(TCP, "10.43.7.8:80", b3)})
	if err != nil {
		t.Fatal(err)
	}
	if err := put(d.objects.Backends, p.newMembers, make([]uint32, len(p.newMembers))); err != nil {
		t.Fatal(err)
	}
	if err := put(d.objects.Slots, p.newSlots, p.newTargets); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}

	d = open(t, cfg)
	if a := c.ask("tcp", 10, vip); a.Err != "" || slices.Contains(a.Names, b3) {
		t.Errorf("before the first Set: %+v, want %s and %s", a, b1, b2)
	}
	set(t, d, svcFor(TCP, vip, b2, b3), svcFor(TCP, "10.43.7.9:80", b1))
	d.retired[0].since = d.retired[0].since.Add(-retirement) // as if that time had gone by
	set(t, d, svcFor(TCP, vip, b2, b3), svcFor(TCP, "10.43.7.9:80", b1))
	for _, addr := range []string{vip, "10.43.7.9:80"} {
		if a := c.ask("tcp", 20, addr); a.Err != "" {
			t.Errorf("%s: %s", addr, a.Err)
		}
	}
	left, err := readMaps(&d.objects.serviceMaps)
	if err != nil {
		t.Fatal(err)
	}
	// The update from b1, b2 to b2, b3 retired two slots.
	if len(left.old) != 2 || len(left.unborn) != 0 || len(left.members) != 0 {
		t.Errorf("left over: %+v", left)
	}
}

// After a failed update the maps are read again. Slots that waited to be
// removed wait no longer for that: or a full map would never have room again.
func TestFailedUpdate(t *testing.T) {
	d := open(t, Config{Node: testNode(t, "a")})
	b1, b2 := "10.42.0.11:8080", "10.42.0.12:8080"
	set(t, d, svcFor(TCP, vip, b1))
	set(t, d, svcFor(TCP, vip, b2))
	if err := d.Set(context.Background(), []Service{svcFor(TCP, vip), svcFor(TCP, vip)}); !errors.Is(err, errTwice) {
		t.Fatal(err)
	}
	d.retired[0].since = d.retired[0].since.Add(-retirement) // as if that time had gone by
	set(t, d, svcFor(TCP, vip, b2))
	left, err := readMaps(&d.objects.serviceMaps)
	if err != nil || len(left.old) > 0 || len(left.services) != 1 {
		t.Errorf("the maps hold %+v, %v", left, err)
	}
}

// Old layouts stay until the new maps are filled, and go then.
func TestOtherLayoutsAreSwept(t *testing.T) {
	cfg := Config{Node: testNode(t, "a")}
	d := open(t, cfg)
	set(t, d, svcFor(TCP, vip))
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(filepath.Dir(d.dir), "v0")
	if err := os.Rename(d.dir, old); err != nil {
		t.Fatal(err)
	}
	d = open(t, cfg)
	if _, err := os.Stat(filepath.Join(old, "link_connect4")); err != nil {
		t.Errorf("before the first Set the old program is gone: %v", err)
	}
	set(t, d, svcFor(TCP, vip))
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Errorf("after it the old pins are there: %v", err)
	}
}

// If the node's cgroup was removed and made again, the programs follow.
func TestCgroupMadeAgain(t *testing.T) {
	n := newNetwork(t)
	n.serve("10.42.0.11:8080")
	cfg := Config{Node: testNode(t, "a")}
	d := open(t, cfg)
	set(t, d, svcFor(TCP, vip, "10.42.0.11:8080"))
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := os.Remove(d.cgroup); err != nil {
			t.Fatal(err)
		}
		d = open(t, cfg)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if a := n.client(d.cfg.CgroupPath).ask("tcp", 1, vip); a.Err != "" || a.Peers[0] != vip {
		t.Errorf("%+v", a)
	}
}

// Pins under our name that are not ours to take over are replaced.
func TestForeignMaps(t *testing.T) {
	cfg := Config{Node: testNode(t, "a")}
	d := open(t, cfg)
	set(t, d, svcFor(TCP, vip))
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	pin := filepath.Join(d.dir, serviceMapSlots)
	if err := os.Remove(pin); err != nil {
		t.Fatal(err)
	}
	foreign, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	if err := foreign.Pin(pin); err != nil {
		t.Fatal(err)
	}
	d = open(t, cfg)
	want := svcFor(TCP, vip, "10.42.0.11:8080")
	set(t, d, want)
	if got, err := d.Services(); err != nil || len(got) != 1 || !slices.Equal(got[0].Backends, want.Backends) {
		t.Errorf("the maps hold %v, %v", got, err)
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	cfg := Config{Node: testNode(t, "a")}
	d := open(t, cfg)
	set(t, d, svcFor(TCP, vip))
	root := d.root
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds nothing, which is no error
		if err := Remove(cfg); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{filepath.Join(bpffs, "rutter", cfg.Node), filepath.Join(root, "rutter", cfg.Node)} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}

// many is a configuration of n services with ten backends each; backends of
// service i are moved by shift.
func many(n, shift int) []Service {
	var all []Service
	for i := range n {
		s := Service{Address: netip.AddrFrom4([4]byte{10, 43, 100 + byte(i>>8), byte(i)}), Port: 80, Protocol: TCP}
		for b := range 10 {
			s.Backends = append(s.Backends, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 42, byte(b), byte(i)}), uint16(8000+shift)))
		}
		all = append(all, s)
	}
	return all
}

// How long a connect to a service takes, against one to the backend itself,
// measured in turns.
func BenchmarkConnect(b *testing.B) {
	for _, services := range []int{1, 1000} {
		b.Run(fmt.Sprint(services), func(b *testing.B) {
			n := newNetwork(b)
			backend := "10.42.0.11:8080"
			n.serve(backend)
			d := open(b, Config{Node: testNode(b, "a")})
			set(b, d, append(many(services-1, 0), svcFor(TCP, vip, backend))...)
			c := n.client(d.cfg.CgroupPath)
			c.ask("measure", 2000, backend, vip)
			const rounds = 20
			var p10, p50 [2][]int64
			for range rounds {
				a := c.ask("measure", 1000, backend, vip)
				if a.Err != "" {
					b.Fatal(a.Err)
				}
				for i, nanos := range a.Nanos {
					slices.Sort(nanos)
					p10[i] = append(p10[i], nanos[len(nanos)/10])
					p50[i] = append(p50[i], nanos[len(nanos)/2])
				}
			}
			var ratios []float64
			for i := range rounds {
				ratios = append(ratios, float64(p10[1][i])/float64(p10[0][i]))
			}
			slices.Sort(ratios)
			b.ReportMetric(float64(slices.Min(p50[0]))/1e3, "direct-µs")
			b.ReportMetric(float64(slices.Min(p50[1]))/1e3, "service-µs")
			b.ReportMetric(ratios[rounds/2], "p10-ratio")
			b.ReportMetric(float64(slices.Min(p50[1]))/float64(slices.Min(p50[0])), "min-p50-ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// How long Set takes: everything at once, one change, and no change.
func BenchmarkSet(b *testing.B) {
	for _, services := range []int{1, 1000, 10000} {
		d := open(b, Config{Node: testNode(b, fmt.Sprint(services))})
		b.Run(fmt.Sprint("all-of-", services), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				set(b, d, many(services, i%7)...)
			}
		})
		all := many(services, 0)
		set(b, d, all...)
		b.Run(fmt.Sprint("one-of-", services), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				all[0] = many(1, i%7)[0]
				set(b, d, all...)
			}
		})
		b.Run(fmt.Sprint("none-of-", services), func(b *testing.B) {
			for b.Loop() {
				set(b, d, all...)
			}
		})
	}
}
