//go:build e2e

package r3

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stage says what this process is: the tests' own world has several.
const stage = "RUTTER_R3_STAGE"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(stage) {
	case "": // outside: make namespaces, and run in them
		c := exec.Command("/proc/self/exe", os.Args[1:]...)
		c.Env = append(os.Environ(), stage+"=tests")
		c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
		err = c.Run()
		var ended *exec.ExitError
		if errors.As(err, &ended) {
			os.Exit(max(1, ended.ExitCode()))
		}
	case "hold": // keeps a network namespace until standard input ends
		_, _ = os.Stdin.Read(make([]byte, 1))
	case "enter": // runs a program in the namespace of a process
		err = enter(os.Args[1], os.Args[2:])
	case "plug": // sets up the far end of a cable there
		if err = join(os.Args[1]); err == nil {
			err = configure(os.Args[2], os.Args[3])
		}
	default:
		if err = world(); err == nil {
			os.Exit(m.Run())
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "make a world for the tests (as root):", err)
		os.Exit(1)
	}
}

// join moves this thread into the network namespace of a process. Whoever
// starts processes that end with it must not: the thread cannot be used again.
func join(pid string) error {
	runtime.LockOSThread()
	f, err := os.Open("/proc/" + pid + "/ns/net")
	if err != nil {
		return err
	}
	return unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
}

// enter replaces this process by a program in another's network namespace.
func enter(pid string, program []string) error {
	if err := join(pid); err != nil {
		return err
	}
	return syscall.Exec(program[0], program, os.Environ())
}

// world prepares the namespaces of all tests.
func world() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	for name, address := range map[string]string{"peers": "192.0.2.254/24", "users": "198.51.100.254/24"} {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
		addr, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		if err := errors.Join(netlink.LinkAdd(bridge), netlink.LinkSetUp(bridge), netlink.AddrAdd(bridge, addr)); err != nil {
			return fmt.Errorf("bridge %s: %w", name, err)
		}
	}
	return nil
}

// machine is a network namespace with a place in both networks.
type machine struct {
	holder *exec.Cmd
	peers  netlink.Link // this end of its cable to the other servers
}

// newMachine makes one whose addresses end in n.
func newMachine(t *testing.T, n int) *machine {
	t.Helper()
	m := &machine{holder: exec.Command("/proc/self/exe")}
	m.holder.Env = append(os.Environ(), stage+"=hold")
	m.holder.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWNET}
	in, err := m.holder.StdinPipe()
	if err == nil {
		err = m.holder.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = m.holder.Wait()
	})
	for _, network := range []struct{ bridge, address string }{
		{"peers", fmt.Sprintf("192.0.2.%d/24", n)}, {"users", fmt.Sprintf("198.51.100.%d/24", n)},
	} {
		link, err := m.plug(network.bridge, network.bridge+strconv.Itoa(n), network.address)
		if err != nil {
			t.Fatalf("cable of %s: %v", network.address, err)
		}
		if network.bridge == "peers" {
			m.peers = link
		}
	}
	return m
}

// plug lays a cable from a bridge into the namespace.
func (m *machine) plug(bridge, name, address string) (netlink.Link, error) {
	br, err := netlink.LinkByName(bridge)
	if err != nil {
		return nil, err
	}
	far := name + "in"
	cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, MasterIndex: br.Attrs().Index}, PeerName: far,
		PeerNamespace: netlink.NsPid(m.holder.Process.Pid)}
	if err := errors.Join(netlink.LinkAdd(cable), netlink.LinkSetUp(cable)); err != nil {
		return nil, err
	}
	c := m.stage("plug", far, address)
	c.Stderr = os.Stderr
	return cable, c.Run()
}

// configure gives a cable's end its address.
func configure(name, address string) error {
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	for _, l := range []string{"lo", name} {
		link, err := netlink.LinkByName(l)
		if err == nil && l == name {
			err = netlink.AddrAdd(link, addr)
		}
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// command is a program in the namespace.
func (m *machine) command(program ...string) *exec.Cmd { return m.stage("enter", program...) }

func (m *machine) stage(name string, args ...string) *exec.Cmd {
	c := exec.Command("/proc/self/exe", append([]string{strconv.Itoa(m.holder.Process.Pid)}, args...)...)
	c.Env = append(os.Environ(), stage+"="+name)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return c
}

// cut and heal take the machine away from the other servers and bring it back.
func (m *machine) cut() error  { return netlink.LinkSetDown(m.peers) }
func (m *machine) heal() error { return netlink.LinkSetUp(m.peers) }
