package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// hook is a place in the kernel and the program for it.
type hook struct {
	name    string // of the pin
	at      ebpf.AttachType
	program *ebpf.Program
}

// hooks are in the order in which they are attached: what turns addresses
// back goes first, so that no translated socket ever sees a backend.
func hooks(o *servicePrograms) []hook {
	return []hook{
		{"getpeername4", ebpf.AttachCgroupInet4GetPeername, o.Getpeername4},
		{"getpeername6", ebpf.AttachCgroupInet6GetPeername, o.Getpeername6},
		{"recvmsg4", ebpf.AttachCGroupUDP4Recvmsg, o.Recvmsg4},
		{"recvmsg6", ebpf.AttachCGroupUDP6Recvmsg, o.Recvmsg6},
		{"sendmsg4", ebpf.AttachCGroupUDP4Sendmsg, o.Sendmsg4},
		{"connect4", ebpf.AttachCGroupInet4Connect, o.Connect4},
		{"connect6", ebpf.AttachCGroupInet6Connect, o.Connect6},
	}
}

// Pins of links, before the name of the hook.
const (
	nodeLink = "link_"
	hostLink = "link_host_" // on the root cgroup
)

// attach has every hook run our program: a pinned link by an update of it,
// which no connection notices, or else a new one.
func (d *Datapath) attach() error {
	for _, h := range hooks(&d.objects.servicePrograms) {
		if err := d.attachOne(h, d.cgroup, nodeLink); err != nil {
			return err
		}
	}
	for _, h := range hooks(&d.host) {
		if !d.cfg.HostServices {
			if err := removeLink(filepath.Join(d.dir, hostLink+h.name)); err != nil {
				return err
			}
			continue
		}
		if err := d.attachOne(h, d.root, hostLink); err != nil {
			return err
		}
	}
	return nil
}

func (d *Datapath) attachOne(h hook, cgroup, prefix string) error {
	l, err := linkOf(h, cgroup, filepath.Join(d.dir, prefix+h.name))
	if err != nil {
		return fmt.Errorf("attach %s to %s: %w", h.name, cgroup, err)
	}
	d.links = append(d.links, l)
	return nil
}

// linkOf returns the link that is pinned, now running the hook's program, or a new one.
func linkOf(h hook, cgroup, pin string) (link.Link, error) {
	id, err := cgroupID(cgroup)
	if err != nil {
		return nil, err
	}
	old, err := link.LoadPinnedLink(pin, nil)
	if err == nil && attachedTo(old, id) {
		if err := old.Update(h.program); err != nil {
			return nil, errors.Join(err, old.Close())
		}
		return old, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("take over: %w", err)
	}
	fresh, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: h.at, Program: h.program})
	if err != nil {
		return nil, err
	}
	if old != nil {
		// It served another cgroup, or one that is no more.
		if err := errors.Join(old.Close(), removeLink(pin)); err != nil {
			return nil, errors.Join(err, fresh.Close())
		}
	}
	if err := fresh.Pin(pin); err != nil {
		return nil, errors.Join(err, fresh.Close())
	}
	return fresh, nil
}

func attachedTo(l link.Link, cgroup uint64) bool {
	info, err := l.Info()
	if err != nil || info.Cgroup() == nil {
		return false
	}
	return info.Cgroup().CgroupId == cgroup
}

// cgroupID is the number by which the kernel names a cgroup: its inode's.
func cgroupID(path string) (uint64, error) {
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		return 0, fmt.Errorf("look at cgroup %s: %w", path, err)
	}
	return s.Ino, nil
}

// sweep removes what another layout left, once this one is filled. Until then
// its programs, which run first, go on.
func (d *Datapath) sweep() error {
	if d.swept {
		return nil
	}
	all, err := os.ReadDir(filepath.Dir(d.dir))
	if err != nil {
		return fmt.Errorf("look for old pins: %w", err)
	}
	for _, e := range all {
		if e.Name() == layout {
			continue
		}
		if err := removePins(filepath.Join(filepath.Dir(d.dir), e.Name())); err != nil {
			return err
		}
	}
	d.swept = true
	return nil
}

// removePins removes a layout's folder of pins, or a node's. Programs go before maps, so that none
// runs without.
func removePins(dir string) error {
	for _, pattern := range []string{"link_*", "*/link_*"} {
		links, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return fmt.Errorf("look for links: %w", err)
		}
		for _, l := range links {
			if err := removeLink(l); err != nil {
				return err
			}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}

// removeLink detaches a pinned link's program, at once rather than when the
// kernel comes to it, and removes the pin.
func removeLink(pin string) error {
	if l, err := link.LoadPinnedLink(pin, nil); err == nil {
		// Of a cgroup that is no more, a link is detached already.
		if err := errors.Join(l.Detach(), l.Close()); err != nil && !errors.Is(err, unix.ESTALE) {
			return fmt.Errorf("detach link %s: %w", filepath.Base(pin), err)
		}
	}
	if err := os.Remove(pin); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove link: %w", err)
	}
	return nil
}
