package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/rutterhq/rutter/bpf"
	"github.com/rutterhq/rutter/services/nodeagent/logs"
	"github.com/rutterhq/rutter/services/nodeagent/network"
	"github.com/rutterhq/rutter/services/nodeagent/runtime"
)

// endTimeout bounds how long a process is given to end by itself.
const endTimeout = 10 * time.Second

func downCommand() *cobra.Command {
	var f folders
	c := &cobra.Command{Use: "down", Short: "Stop the cluster and all that runs on this node; the log and the images stay", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return f.down(c.Context()) }}
	f.flags(c.Flags())
	return c
}

// down ends the cluster's process, then takes away what outlives it:
// containers, containerd, log keepers, mounts, namespaces, BPF pins and rules.
func (f *folders) down(ctx context.Context) error {
	errs := []error{end(pidOf(f.pid()))}
	nodes, err := filepath.Glob(filepath.Join(f.run, "nodes", "*"))
	errs = append(errs, err)
	if answers(f.containerdSocket()) {
		errs = append(errs, removeContainers(ctx, f.containerdSocket(), f.run))
	}
	for _, run := range nodes {
		errs = append(errs, end(pidOf(logs.PIDPath(run))), f.removeNode(ctx, filepath.Base(run), run))
	}
	errs = append(errs, end(pidOf(f.containerdPID())), f.unmount())
	for _, run := range nodes {
		errs = append(errs, os.RemoveAll(run))
	}
	return errors.Join(append(errs, os.RemoveAll(f.run))...)
}

// removeNode takes a node's network and datapath away.
func (f *folders) removeNode(ctx context.Context, name, run string) error {
	err := bpf.Remove(bpf.Config{Node: name})
	runtime.RemoveCgroup("/rutter/" + name)
	// Other nodes on this machine have theirs beside it, and may not have
	// anything in them yet.
	for _, pattern := range []string{"/sys/fs/cgroup/rutter", "/sys/fs/cgroup/*/rutter"} {
		parents, _ := filepath.Glob(pattern) // the patterns are well-formed
		for _, dir := range parents {
			_ = syscall.Rmdir(dir) // it stays as long as there is something in it
		}
	}
	b, readErr := os.ReadFile(filepath.Join(run, podRangeFile))
	if readErr != nil {
		return err // it never had a network
	}
	pods, parseErr := netip.ParsePrefix(strings.TrimSpace(string(b)))
	if parseErr != nil {
		return errors.Join(err, parseErr)
	}
	n, openErr := network.New(networkConfig(run, pods))
	if openErr != nil {
		return errors.Join(err, openErr)
	}
	return errors.Join(err, n.Teardown(ctx), n.Close())
}

// removeContainers kills and removes every container of ours.
func removeContainers(ctx context.Context, socket, run string) error {
	rt, err := runtime.New(socket, run, nil)
	if err != nil {
		return err
	}
	defer rt.Close()
	all, err := rt.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range all {
		if c.Running {
			errs = append(errs, rt.Signal(ctx, c.ID, syscall.SIGKILL, true))
		}
		errs = append(errs, rt.Remove(ctx, c.ID))
	}
	return errors.Join(errs...)
}

// end asks a process to end, waits until it has, and ends it if it does not.
func end(pid int) error {
	if pid == 0 {
		return nil // it is gone
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, signal, nil, 0); errors.Is(err, unix.ESRCH) {
			return nil
		} else if err != nil {
			return fmt.Errorf("end process %d: %w", pid, err)
		}
		if ended(fd, endTimeout) {
			return nil
		}
	}
	return fmt.Errorf("process %d does not end", pid)
}

// ended waits until a process has ended, and tells whether it has. Such a
// descriptor can be read once there is nothing left of the process but, perhaps,
// what its parent has not taken note of (pidfd_open(2)).
func ended(pidfd int, timeout time.Duration) bool {
	for deadline := time.Now().Add(timeout); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(max(0, time.Until(deadline).Milliseconds())))
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

// unmount takes away every mount below the cluster's folders, inner ones first.
func (f *folders) unmount() error {
	info, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer info.Close()
	var mounts []string
	for lines := bufio.NewScanner(info); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 {
			at := fields[4]
			for _, dir := range []string{f.run, f.data} {
				if strings.HasPrefix(at, dir+"/") {
					mounts = append(mounts, at)
				}
			}
		}
	}
	slices.Reverse(mounts)
	var errs []error
	for _, m := range mounts {
		if err := syscall.Unmount(m, syscall.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m, err))
		}
	}
	return errors.Join(errs...)
}
