//go:build e2e

package test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/rutterhq/rutter/test/tools"
)

// stage says how far the test's own world is built. The first process makes
// the namespaces, the second is the first process in them, and reaps; the
// third runs the tests.
const stage = "RUTTER_TEST_STAGE"

// nodeName is the name of the tests' node: its cgroup is the one thing that
// has no namespace, so it is no other process's.
var nodeName = os.Getenv("RUTTER_TEST_NODE")

// scratch is the folder of what all tests share.
var scratch string

// toolsArchive is the image that tests run in pods, built once.
var toolsArchive = sync.OnceValues(func() (file string, err error) {
	if scratch, err = os.MkdirTemp("", "tools"); err != nil {
		return "", err
	}
	return tools.Archive(scratch)
})

// hostAddress is the address of the machine in the tests' network.
const hostAddress = "192.0.2.1"

// gateway is where its default route leads: to nobody.
const gateway = "192.0.2.254"

// TestMain runs the tests in network, mount and process namespaces of their
// own. Whatever they leave running ends with them.
func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(stage) {
	case "":
		os.Setenv("RUTTER_TEST_NODE", fmt.Sprintf("e2e-%d", os.Getpid()))
		err = again("init", &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL,
			Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID})
	case "init":
		err = initialize()
	default:
		code := m.Run()
		os.RemoveAll(scratch)
		os.Exit(code)
	}
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		os.Exit(ended.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "make a world for the tests (as root):", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// command is this program again, at its next stage.
func command(next string, attr *syscall.SysProcAttr) *exec.Cmd {
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Env = append(os.Environ(), stage+"="+next)
	c.Stdin, c.Stdout, c.Stderr, c.SysProcAttr = os.Stdin, os.Stdout, os.Stderr, attr
	return c
}

func again(next string, attr *syscall.SysProcAttr) error { return command(next, attr).Run() }

// initialize is what the first process of the namespaces does.
func initialize() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	// Shims of every containerd of the machine have their sockets there.
	if err := os.MkdirAll("/run/containerd", 0o711); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", "/run/containerd", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /run/containerd: %w", err)
	}
	// The machine's BPF file system is not ours to pin in; the cluster mounts its own.
	_ = syscall.Unmount("/sys/fs/bpf", syscall.MNT_DETACH) // there may be none
	if err := network(); err != nil {
		return err
	}
	tests := command("tests", nil)
	if err := tests.Start(); err != nil {
		return err
	}
	for { // who loses its parent becomes ours
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return err
		case pid == tests.Process.Pid:
			if status.Signaled() {
				return fmt.Errorf("the tests ended by %s", status.Signal())
			}
			os.Exit(status.ExitStatus())
		}
	}
}

// network gives the namespace an address that looks like a machine's, and a
// default route, without which nothing has an address to send from.
func network() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	uplink := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink0"}, PeerName: "nowhere0"}
	if err := errors.Join(netlink.LinkSetUp(lo), netlink.LinkAdd(uplink)); err != nil {
		return err
	}
	nowhere, err := netlink.LinkByName(uplink.PeerName)
	if err != nil {
		return err
	}
	if err := errors.Join(netlink.LinkSetUp(uplink), netlink.LinkSetUp(nowhere)); err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(hostAddress + "/24")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(uplink, addr); err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: uplink.Attrs().Index, Gw: net.ParseIP(gateway)})
}
