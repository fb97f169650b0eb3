package network

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// onThread runs f on a thread of its own, which ends with f: whatever
// namespace f enters, no other code will ever run there.
func onThread(f func() error) error {
	var g errgroup.Group
	g.Go(func() error {
		runtime.LockOSThread()
		// The first thread of a process never ends, and its namespaces are what
		// others take for the process's. Hold it, and take another.
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			return onThread(f)
		}
		return f()
	})
	return g.Wait()
}

// onNode runs f on a thread in the node's network namespace.
func (n *Network) onNode(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(n.ns); err != nil {
			return fmt.Errorf("enter the node's network namespace: %w", err)
		}
		return f()
	})
}

// namespace is a kind of namespace that is pinned as a file.
type namespace struct {
	folder string // below RunDir, and the name below /proc/thread-self/ns
	flag   int
}

var (
	netNamespace = namespace{"net", unix.CLONE_NEWNET}
	ipcNamespace = namespace{"ipc", unix.CLONE_NEWIPC}
	utsNamespace = namespace{"uts", unix.CLONE_NEWUTS}
	namespaces   = []namespace{netNamespace, ipcNamespace, utsNamespace}
)

func (n *Network) path(kind namespace, uid string) string {
	return filepath.Join(n.cfg.RunDir, kind.folder, uid)
}

// pinned tells whether a namespace is mounted at path: not after the machine
// was restarted, when only the file may be left.
func pinned(path string) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && s.Type == unix.NSFS_MAGIC
}

// pin gives the thread a namespace of the kind, and that a name.
func pin(kind namespace, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY|unix.O_CLOEXEC, 0o400)
	if err != nil {
		return fmt.Errorf("create namespace file: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("create namespace file: %w", err)
	}
	if err := unix.Unshare(kind.flag); err != nil {
		return fmt.Errorf("create %s namespace: %w", kind.folder, err)
	}
	if err := unix.Mount("/proc/thread-self/ns/"+kind.folder, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin %s namespace: %w", kind.folder, err)
	}
	return nil
}

// unpin removes the name of a namespace. It lives on for as long as it has processes.
func unpin(path string) error {
	for pinned(path) {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unpin namespace: %w", err)
		}
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("unpin namespace: %w", err)
	}
	return nil
}
