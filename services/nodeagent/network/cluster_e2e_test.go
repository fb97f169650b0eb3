//go:build e2e

package network

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
	"github.com/rs/zerolog"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/bpf"
	"github.com/rutterhq/rutter/services/nodeagent/dns"
)

// Network, datapath and DNS together, as a pod sees them. A pod's program is
// this test's own, started again in the pod's cgroup and namespace.

func TestMain(m *testing.M) {
	if do := os.Getenv("RUTTER_POD_PROGRAM"); do != "" {
		if err := podPrograms[do](os.Args[1:]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

var podPrograms = map[string]func(args []string) error{"get": podGet, "resolve": podResolve, "compare": podCompare}

// podGet connects and prints what it is told, and by whom.
func podGet(args []string) error {
	c, err := net.DialTimeout("tcp4", args[0], 2*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	fmt.Printf("%s from %s", b, c.RemoteAddr())
	return err
}

// podResolve asks the server for a name, by UDP and TCP.
func podResolve(args []string) error {
	for _, network := range []string{"udp", "tcp"} {
		m := new(miekg.Msg).SetQuestion(args[1], miekg.TypeA)
		a, _, err := (&miekg.Client{Net: network, Timeout: 2 * time.Second}).Exchange(m, args[0])
		if err != nil {
			return err
		}
		fmt.Print(miekg.RcodeToString[a.Rcode], " ")
		for _, rr := range a.Answer {
			fmt.Print(rr.(*miekg.A).A, " ")
		}
	}
	return nil
}

// podCompare makes connections to two addresses in turns, in rounds. It prints
// the lowest of the rounds' medians for each, in µs, the second's ratio to the
// first, and the median of the rounds' ratios.
func podCompare(args []string) error {
	const rounds, each = 30, 300
	var best [2]float64
	var ratios []float64
	for range rounds {
		var took [2][]time.Duration
		for i := range 2 * each {
			start := time.Now()
			if err := exchange(args[i%2]); err != nil {
				return err
			}
			took[i%2] = append(took[i%2], time.Since(start))
		}
		var median [2]float64
		for i := range took {
			slices.Sort(took[i])
			median[i] = float64(took[i][each/2]) / 1e3
			if best[i] == 0 || median[i] < best[i] {
				best[i] = median[i]
			}
		}
		ratios = append(ratios, median[1]/median[0])
	}
	slices.Sort(ratios)
	fmt.Println(best[0], best[1], best[1]/best[0], ratios[rounds/2])
	return nil
}

func exchange(addr string) error {
	to := netip.MustParseAddrPort(addr)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
		return err
	}
	b := make([]byte, 64)
	for {
		n, err := unix.Read(fd, b)
		if n == 0 || err != nil {
			return err
		}
	}
}

// program runs a pod program in a cgroup.
func (s *space) program(cgroup, do string, args ...string) (string, error) {
	s.t.Helper()
	root, err := bpf.CgroupRoot()
	if err != nil {
		s.t.Fatal(err)
	}
	dir, err := os.Open(filepath.Join(root, cgroup))
	if err != nil {
		s.t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), "RUTTER_POD_PROGRAM="+do, "GOMAXPROCS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	var out []byte
	err = onThread(func() error {
		if err := netns.Set(s.ns); err != nil {
			return err
		}
		var err error
		out, err = cmd.CombinedOutput()
		return err
	})
	return string(out), err
}

// cluster is a node with two pods, a and b, and a service of b.
type cluster struct {
	a, b   *space
	cgroup string
	path   *bpf.Datapath
	local  []bpf.Service
}

func newCluster(t testing.TB) *cluster {
	t.Helper()
	node := newSpace(t)
	n := node.up(testConfig(t, "10.42.1.0/24"))
	c := &cluster{}
	c.a, _ = node.attach(n, "pod-a")
	c.b, _ = node.attach(n, "pod-b")
	c.b.serve("0.0.0.0:8080")
	name := fmt.Sprintf("test%d-%s", os.Getpid(), strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")))
	c.cgroup = "/rutter/" + name
	var err error
	if c.path, err = bpf.Open(bpf.Config{Node: name, Range: netip.MustParsePrefix("10.43.0.0/16")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.path.Remove(); err != nil {
			t.Error(err)
		}
	})
	at := netip.MustParseAddrPort("10.43.0.10:53")
	for _, p := range []bpf.Protocol{bpf.TCP, bpf.UDP} {
		c.local = append(c.local, bpf.Service{Address: at.Addr(), Port: at.Port(), Protocol: p, Backends: []netip.AddrPort{at}})
	}
	c.serveDNS(t, node, at)
	return c
}

const webBackend = "10.42.1.3:8080" // pod b

func (c *cluster) serveDNS(t testing.TB, node *space, at netip.AddrPort) {
	t.Helper()
	var server *dns.Server
	node.do(func() (err error) {
		server, err = dns.Listen(dns.Config{Address: at, Upstreams: []string{"127.0.0.1:1"}}, zerolog.Nop())
		return err
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	web := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: corev1.ServiceSpec{ClusterIP: "10.43.0.20"}}
	zone := dns.Records(dns.Cluster{Domain: "cluster.local", Server: at.Addr()}, []*corev1.Service{web}, nil)
	if err := server.Set(ctx, zone); err != nil {
		t.Fatal(err)
	}
}

// set has the service web, with the backends, and n others.
func (c *cluster) set(t testing.TB, n int, backends ...string) {
	t.Helper()
	all := slices.Clone(c.local)
	web := bpf.Service{Address: netip.MustParseAddr("10.43.0.20"), Port: 80, Protocol: bpf.TCP}
	for _, b := range backends {
		web.Backends = append(web.Backends, netip.MustParseAddrPort(b))
	}
	for i := range n {
		all = append(all, bpf.Service{Address: netip.AddrFrom4([4]byte{10, 43, byte(1 + i/250), byte(i % 250)}), Port: 80, Protocol: bpf.TCP, Backends: web.Backends})
	}
	if err := c.path.Set(context.Background(), append(all, web)); err != nil {
		t.Fatal(err)
	}
}

func TestServicesFromPods(t *testing.T) {
	c := newCluster(t)
	c.set(t, 0, webBackend)
	for _, test := range []struct {
		pod  *space
		do   string
		args []string
		want string
	}{
		{c.a, "get", []string{"10.43.0.20:80"}, "10.42.1.2 from 10.43.0.20:80"},
		{c.b, "get", []string{"10.43.0.20:80"}, "10.42.1.3 from 10.43.0.20:80"}, // itself
		{c.a, "resolve", []string{"10.43.0.10:53", "web.shop.svc.cluster.local."}, "NOERROR 10.43.0.20 NOERROR 10.43.0.20 "},
		{c.a, "resolve", []string{"10.43.0.10:53", "web.cluster.local."}, "NXDOMAIN NXDOMAIN "},
	} {
		if got, err := test.pod.program(c.cgroup, test.do, test.args...); err != nil || got != test.want {
			t.Errorf("%s %v: %q, %v; want %q", test.do, test.args, got, err, test.want)
		}
	}
	c.set(t, 0)
	if got, err := c.a.program(c.cgroup, "get", "10.43.0.20:80"); err == nil || !strings.Contains(got, "connection refused") {
		t.Errorf("without endpoints: %q, want connection refused", got)
	}
}

// Connections of a pod to a pod, and to its service, in turns: each with an
// answer and an orderly end.
func BenchmarkServiceFromPod(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c := newCluster(b)
			c.set(b, n-1, webBackend)
			out, err := c.a.program(c.cgroup, "compare", webBackend, "10.43.0.20:80")
			if err != nil {
				b.Fatal(out, err)
			}
			var direct, service, best, typical float64
			if _, err := fmt.Sscan(out, &direct, &service, &best, &typical); err != nil {
				b.Fatal(out, err)
			}
			b.ReportMetric(direct, "direct-µs")
			b.ReportMetric(service, "service-µs")
			b.ReportMetric(best, "best-ratio")
			b.ReportMetric(typical, "typical-ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}
