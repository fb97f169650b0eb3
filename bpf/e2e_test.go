//go:build e2e

package bpf

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// These tests need root and a unified cgroup hierarchy. Clients are processes
// of their own, for a socket belongs to the cgroup its process was in when it
// was made; servers are goroutines here, for they may live anywhere.

func TestMain(m *testing.M) {
	if os.Getenv("RUTTER_BPF_CLIENT") != "" {
		runClient(os.Stdin, os.Stdout)
		return
	}
	os.Exit(m.Run())
}

// network is a network namespace in which all of 10.42.0.0/16 is local.
type network struct {
	t  testing.TB
	ns netns.NsHandle
}

func newNetwork(t testing.TB) *network {
	t.Helper()
	n := &network{t: t}
	inThread(t, func() error {
		ns, err := netns.New() // and enters it; the thread is not used again
		n.ns = ns
		if err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		_, all, _ := net.ParseCIDR("10.42.0.0/16")
		return netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: all, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST})
	})
	t.Cleanup(func() { n.ns.Close() })
	return n
}

// inThread runs f in a thread that ends with it.
func inThread(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func (n *network) do(f func() error) {
	n.t.Helper()
	inThread(n.t, func() error {
		if err := netns.Set(n.ns); err != nil {
			return err
		}
		return f()
	})
}

// serve answers at the address, TCP and UDP, with the address it is.
func (n *network) serve(addr string) (stop func()) {
	n.t.Helper()
	var l net.Listener
	var p net.PacketConn
	n.do(func() (err error) {
		if l, err = net.Listen("tcp4", addr); err != nil {
			return err
		}
		p, err = net.ListenPacket("udp4", addr)
		return err
	})
	stop = func() { l.Close(); p.Close() }
	n.t.Cleanup(stop)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintf(c, "%s\n", addr)
				io.Copy(c, c) // until the client closes
			}()
		}
	}()
	go func() {
		b := make([]byte, 64)
		for {
			_, from, err := p.ReadFrom(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				p.WriteTo([]byte(addr), from)
			}
		}
	}()
	return stop
}

// request asks a client for something, answer is what it saw.
type request struct {
	Op    string // a function of the table in client_test.go
	Addrs []string
	N     int
}

type answer struct {
	Err    string
	Errno  int
	Names  []string // what the servers said they are
	Peers  []string // what the client was told they are
	OK     int
	Failed int
	Nanos  [][]int64 // per address
}

// client is a process in a cgroup and a network.
type client struct {
	t   testing.TB
	in  *json.Encoder
	out *json.Decoder
	cmd *exec.Cmd
}

func (n *network) client(cgroup string) *client {
	n.t.Helper()
	root, err := CgroupRoot()
	if err != nil {
		n.t.Fatal(err)
	}
	dir, err := os.Open(filepath.Join(root, cgroup))
	if err != nil {
		n.t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "RUTTER_BPF_CLIENT=1", "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd()), Pdeathsig: syscall.SIGKILL}
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	// Pdeathsig is about the starting thread, so that one must stay.
	started, stay := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(n.ns); err != nil {
			started <- err
			return
		}
		started <- cmd.Start()
		<-stay
	}()
	if err := <-started; err != nil {
		n.t.Fatal(err)
	}
	c := &client{t: n.t, in: json.NewEncoder(in), out: json.NewDecoder(bufio.NewReader(out)), cmd: cmd}
	n.t.Cleanup(func() { c.stop(in); close(stay) })
	return c
}

func (c *client) stop(in io.Closer) {
	in.Close()
	c.cmd.Process.Kill()
	c.cmd.Wait()
}

func (c *client) start(op string, n int, addrs ...string) {
	c.t.Helper()
	if err := c.in.Encode(request{Op: op, N: n, Addrs: addrs}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) wait() answer {
	c.t.Helper()
	var a answer
	if err := c.out.Decode(&a); err != nil {
		c.t.Fatal(err)
	}
	return a
}

func (c *client) ask(op string, n int, addrs ...string) answer {
	c.t.Helper()
	c.start(op, n, addrs...)
	return c.wait()
}

// testNode returns a name that no other test process uses.
func testNode(t testing.TB, suffix string) string {
	return fmt.Sprintf("test%d-%s-%s", os.Getpid(), strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")), suffix)
}

func open(t testing.TB, cfg Config) *Datapath {
	t.Helper()
	d, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Remove(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func set(t testing.TB, d *Datapath, services ...Service) {
	t.Helper()
	if err := d.Set(context.Background(), services); err != nil {
		t.Fatal(err)
	}
}

func netipPrefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
