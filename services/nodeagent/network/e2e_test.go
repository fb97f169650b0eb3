//go:build e2e

package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// These tests need root. Every node, and the world outside, is a network
// namespace that goes with the test.

type space struct {
	t  testing.TB
	ns netns.NsHandle
}

func newSpace(t testing.TB) *space {
	t.Helper()
	s := &space{t: t}
	err := onThread(func() (err error) {
		s.ns, err = netns.New()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.ns.Close() })
	return s
}

// podSpace is the namespace of a pod.
func podSpace(t testing.TB, path string) *space {
	t.Helper()
	ns, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return &space{t: t, ns: ns}
}

func (s *space) do(f func() error) {
	s.t.Helper()
	err := onThread(func() error {
		if err := netns.Set(s.ns); err != nil {
			return err
		}
		return f()
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *space) run(args ...string) string {
	s.t.Helper()
	var out []byte
	s.do(func() (err error) {
		out, err = exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			s.t.Logf("%s: %s", strings.Join(args, " "), out)
		}
		return err
	})
	return string(out)
}

// join connects two spaces with a cable.
func join(a, b *space, aIP, bIP string) {
	a.t.Helper()
	a.do(func() error {
		v := netlink.NewVeth(netlink.LinkAttrs{Name: "up" + bIP[len(bIP)-1:], TxQLen: -1})
		v.PeerName, v.PeerNamespace = "up"+aIP[len(aIP)-1:], netlink.NsFd(b.ns)
		return netlink.LinkAdd(v)
	})
	a.run("ip", "addr", "add", aIP+"/24", "dev", "up"+bIP[len(bIP)-1:])
	b.run("ip", "addr", "add", bIP+"/24", "dev", "up"+aIP[len(aIP)-1:])
	a.run("ip", "link", "set", "up"+bIP[len(bIP)-1:], "up")
	b.run("ip", "link", "set", "up"+aIP[len(aIP)-1:], "up")
}

// serve answers connections with the address they seem to come from.
func (s *space) serve(addr string) {
	s.t.Helper()
	var l net.Listener
	s.do(func() (err error) {
		l, err = net.Listen("tcp4", addr)
		return err
	})
	s.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, c.RemoteAddr().(*net.TCPAddr).IP.String())
			c.Close()
		}
	}()
}

// dial returns the address that the server saw.
func (s *space) dial(addr string) (seen string, err error) {
	s.do(func() error {
		var c net.Conn
		if c, err = net.DialTimeout("tcp4", addr, 2*time.Second); err != nil {
			return nil
		}
		defer c.Close()
		var b []byte
		b, err = io.ReadAll(c)
		seen = string(b)
		return nil
	})
	return seen, err
}

func (s *space) wantSeen(addr, want string) {
	s.t.Helper()
	if seen, err := s.dial(addr); err != nil || seen != want {
		s.t.Errorf("%s saw %q, %v; want %s", addr, seen, err, want)
	}
}

func (s *space) network(cfg Config) *Network {
	s.t.Helper()
	var n *Network
	s.do(func() (err error) {
		n, err = New(cfg)
		return err
	})
	s.t.Cleanup(func() { n.Close() })
	return n
}

// up makes a network and removes all of it at the end.
func (s *space) up(cfg Config) *Network {
	s.t.Helper()
	n := s.network(cfg)
	s.t.Cleanup(func() {
		if err := s.network(cfg).Teardown(context.Background()); err != nil {
			s.t.Error(err)
		}
	})
	if err := n.Setup(context.Background()); err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *space) attach(n *Network, uid string) (*space, netip.Addr) {
	s.t.Helper()
	path, ip, err := n.Attach(context.Background(), uid)
	if err != nil {
		s.t.Fatal(err)
	}
	return podSpace(s.t, path), ip
}

func testConfig(t testing.TB, pods string) Config {
	return Config{
		RunDir: t.TempDir(), PodRange: netip.MustParsePrefix(pods),
		ClusterRange: netip.MustParsePrefix("10.42.0.0/16"), ServiceRange: netip.MustParsePrefix("10.43.0.0/16"),
		Local: []netip.Addr{netip.MustParseAddr("10.43.0.10")},
	}
}

func TestPods(t *testing.T) {
	node, outside := newSpace(t), newSpace(t)
	join(node, outside, "192.168.7.1", "192.168.7.2")
	n := node.up(testConfig(t, "10.42.1.0/24"))
	a, aIP := node.attach(n, "pod-a")
	b, bIP := node.attach(n, "pod-b")
	if aIP.String() != "10.42.1.2" || bIP.String() != "10.42.1.3" {
		t.Errorf("pods have %s and %s", aIP, bIP)
	}
	a.serve("0.0.0.0:80")
	b.serve("0.0.0.0:80")
	node.serve("0.0.0.0:80")
	outside.serve("0.0.0.0:80")
	a.wantSeen("10.42.1.3:80", "10.42.1.2")
	b.wantSeen("10.42.1.2:80", "10.42.1.3")
	a.wantSeen("10.42.1.2:80", "10.42.1.2")
	a.wantSeen("127.0.0.1:80", "127.0.0.1")
	a.wantSeen("10.42.1.1:80", "10.42.1.2")
	a.wantSeen("10.43.0.10:80", "10.42.1.2")
	a.wantSeen("192.168.7.1:80", "10.42.1.2")
	node.wantSeen("10.42.1.2:80", "10.42.1.1")
	a.wantSeen("192.168.7.2:80", "192.168.7.1") // masqueraded: outside has no route to pods

	for _, addr := range []string{"10.42.1.99:80", "10.43.0.11:80"} {
		start := time.Now()
		if _, err := a.dial(addr); !errors.Is(err, unix.EHOSTUNREACH) || time.Since(start) > time.Second {
			t.Errorf("to %s, which nobody has: %v after %s", addr, err, time.Since(start))
		}
	}
}

func TestPodsOfTwoNodes(t *testing.T) {
	one, two := newSpace(t), newSpace(t)
	join(one, two, "192.168.7.1", "192.168.7.2")
	n1, n2 := one.up(testConfig(t, "10.42.1.0/24")), two.up(testConfig(t, "10.42.2.0/24"))
	peers := []Peer{
		{netip.MustParsePrefix("10.42.1.0/24"), netip.MustParseAddr("192.168.7.1")},
		{netip.MustParsePrefix("10.42.2.0/24"), netip.MustParseAddr("192.168.7.2")},
	}
	for _, n := range []*Network{n1, n2} {
		for range 2 {
			if err := n.SetPeers(context.Background(), peers); err != nil {
				t.Fatal(err)
			}
		}
	}
	a, _ := one.attach(n1, "same-uid")
	b, _ := two.attach(n2, "same-uid")
	a.serve("0.0.0.0:80")
	b.serve("0.0.0.0:80")
	a.wantSeen("10.42.2.2:80", "10.42.1.2")
	b.wantSeen("10.42.1.2:80", "10.42.2.2")

	if err := n1.Detach(context.Background(), "same-uid"); err != nil {
		t.Fatal(err)
	}
	two.wantSeen("10.42.2.2:80", "10.42.2.1")
	if err := n2.SetPeers(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := b.dial("10.42.1.2:80"); err == nil {
		t.Error("a peer that is gone is still reached")
	}
}

func TestHostPorts(t *testing.T) {
	node, outside := newSpace(t), newSpace(t)
	join(node, outside, "192.168.7.1", "192.168.7.2")
	n := node.up(testConfig(t, "10.42.1.0/24"))
	a, aIP := node.attach(n, "pod-a")
	a.serve("0.0.0.0:80")
	set := func(ports ...HostPort) {
		t.Helper()
		if err := n.SetHostPorts(context.Background(), ports); err != nil {
			t.Fatal(err)
		}
	}
	pod := netip.AddrPortFrom(aIP, 80)
	set(HostPort{Protocol: "TCP", Port: 8080, Pod: pod},
		HostPort{Protocol: "TCP", Address: netip.MustParseAddr("192.168.7.1"), Port: 8081, Pod: pod},
		HostPort{Protocol: "TCP", Address: netip.MustParseAddr("192.168.7.99"), Port: 8082, Pod: pod})
	outside.wantSeen("192.168.7.1:8080", "192.168.7.2")
	outside.wantSeen("192.168.7.1:8081", "192.168.7.2")
	if _, err := outside.dial("192.168.7.1:8082"); err == nil {
		t.Error("a port of another address is open")
	}
	if err := n.Setup(context.Background()); err != nil { // a restart of the agent
		t.Fatal(err)
	}
	set(HostPort{Protocol: "TCP", Port: 9090, Pod: pod})
	outside.wantSeen("192.168.7.1:9090", "192.168.7.2")
	if _, err := outside.dial("192.168.7.1:8080"); err == nil {
		t.Error("a port that was taken away is open")
	}
	if err := n.SetHostPorts(context.Background(), []HostPort{{Protocol: "SCTP", Port: 1, Pod: pod}}); err == nil {
		t.Error("SCTP was taken")
	}
}

func TestAdoption(t *testing.T) {
	node := newSpace(t)
	cfg := testConfig(t, "10.42.1.0/24")
	n := node.up(cfg)
	a, aIP := node.attach(n, "pod-a")
	before := a.run("ip", "-4", "-o", "addr") + a.run("ip", "route")
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}

	next := node.network(cfg)
	if err := next.Setup(context.Background()); err != nil {
		t.Fatal(err)
	}
	again, ip := node.attach(next, "pod-a")
	if ip != aIP || !again.ns.Equal(a.ns) {
		t.Errorf("the pod got %s in %s, want what it had: %s in %s", ip, again.ns, aIP, a.ns)
	}
	if diff := cmp.Diff(before, again.run("ip", "-4", "-o", "addr")+again.run("ip", "route")); diff != "" {
		t.Errorf("the pod's network was touched: %s", diff)
	}

	// Whatever is missing is mended.
	for i, broken := range [][]string{
		{"ip", "route", "del", "10.42.1.2"},
		{"ip", "link", "set", linkName("pod-a"), "down"},
		{"ip", "link", "del", linkName("pod-a")},
		{"umount", "-l", next.Net("pod-a")},
		{"umount", "-l", next.IPC("pod-a")},
	} {
		node.run(broken...)
		mended, ip := node.attach(next, "pod-a")
		if ip != aIP {
			t.Errorf("after %v the pod got %s", broken, ip)
		}
		addr := fmt.Sprintf("10.42.1.2:%d", 80+i)
		mended.serve(addr)
		node.wantSeen(addr, "10.42.1.1")
	}
}

// state is all that a network could leave in a node.
func (s *space) state(dir string) string {
	s.t.Helper()
	var files []string
	filepath.WalkDir(dir, func(path string, _ os.DirEntry, _ error) error {
		files = append(files, path)
		return nil
	})
	var mounts []string
	all, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		s.t.Fatal(err)
	}
	for l := range strings.Lines(string(all)) {
		if strings.Contains(l, dir) {
			mounts = append(mounts, l)
		}
	}
	forward := s.run("cat", "/proc/sys/net/ipv4/ip_forward")
	return strings.Join(slices.Concat(files, mounts), "\n") + forward + s.run("ip", "-o", "link") + s.run("ip", "-o", "addr", "show", "up") +
		s.run("ip", "route", "show", "table", "all") + s.run("ip", "neigh") + s.run("nft", "list", "ruleset")
}

func TestTeardownLeavesNothing(t *testing.T) {
	node := newSpace(t)
	node.run("ip", "link", "set", "lo", "up")
	cfg := testConfig(t, "10.42.1.0/24")
	before := node.state(cfg.RunDir)
	n := node.up(cfg)
	for _, uid := range []string{"a", "b", "c", "d"} {
		node.attach(n, uid)
	}
	if err := n.Isolate(context.Background(), "host"); err != nil {
		t.Fatal(err)
	}
	if err := n.Detach(context.Background(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := n.Detach(context.Background(), "a"); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if err := n.Sweep(context.Background(), []string{"b", "host"}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(node.run("ip", "-o", "link"), ": "+linkPrefix); got != 1 {
		t.Errorf("%d links are left, want that of pod b", got)
	}
	node.attach(n, "e")
	for range 2 {
		if err := n.Teardown(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(before, node.state(cfg.RunDir)); diff != "" {
		t.Error(diff)
	}
}

// A host that drops what is forwarded, as Docker leaves it, forwards pods' packets.
func TestForwardPolicyDrop(t *testing.T) {
	node := newSpace(t)
	node.run("ip", "link", "set", "lo", "up")
	node.run("nft", "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }; add rule ip filter FORWARD ip saddr 192.0.2.1 accept")
	cfg := testConfig(t, "10.42.1.0/24")
	before := node.state(cfg.RunDir)
	n := node.up(cfg)
	a, _ := node.attach(n, "a")
	b, _ := node.attach(n, "b")
	b.serve("0.0.0.0:80")
	a.wantSeen("10.42.1.3:80", "10.42.1.2")
	if err := n.Setup(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(node.run("nft", "list", "ruleset"), passMark); got != 2 {
		t.Errorf("after a second Setup there are %d rules to pass, want 2", got)
	}
	if err := n.Teardown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, node.state(cfg.RunDir)); diff != "" {
		t.Error(diff)
	}
}

func TestAttachAtOnce(t *testing.T) {
	node := newSpace(t)
	n := node.up(testConfig(t, "10.42.1.0/24"))
	var g errgroup.Group
	seen := make([]netip.Addr, 30)
	start := time.Now()
	for i := range seen {
		g.Go(func() (err error) {
			_, seen[i], err = n.Attach(context.Background(), fmt.Sprint("pod-", i))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d pods in %s", len(seen), time.Since(start))
	slices.SortFunc(seen, netip.Addr.Compare)
	if len(slices.Compact(seen)) != 30 {
		t.Errorf("addresses were given twice: %v", seen)
	}
	for i := range seen {
		g.Go(func() error { return n.Detach(context.Background(), fmt.Sprint("pod-", i)) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

// How long it takes to attach a pod, and to find one attached.
func BenchmarkAttach(b *testing.B) {
	node := newSpace(b)
	n := node.up(testConfig(b, "10.42.0.0/16"))
	b.Run("new", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			uid := fmt.Sprint("pod-", i)
			if _, _, err := n.Attach(context.Background(), uid); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := n.Detach(context.Background(), uid); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	b.Run("again", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := n.Attach(context.Background(), "pod"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
