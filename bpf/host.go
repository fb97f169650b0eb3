package bpf

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is one line of /proc/self/mountinfo.
type mount struct{ point, kind, source string }

func mounts() ([]mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	defer f.Close()
	var out []mount
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		place, what := strings.Fields(before), strings.Fields(after)
		if ok && len(place) >= 5 && len(what) >= 2 {
			out = append(out, mount{point: place[4], kind: what[0], source: what[1]})
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	return out, nil
}

// CgroupRoot returns where the unified cgroup hierarchy is mounted: on a pure
// v2 host /sys/fs/cgroup, on a hybrid one usually /sys/fs/cgroup/unified.
func CgroupRoot() (string, error) {
	all, err := mounts()
	if err != nil {
		return "", err
	}
	for _, m := range all {
		if m.kind == "cgroup2" {
			return m.point, nil
		}
	}
	return "", errors.New("the unified cgroup hierarchy (cgroup2) is not mounted: programs cannot be attached to pods")
}

// bpffs is where the BPF file system is mounted by convention.
const bpffs = "/sys/fs/bpf"

// bpffsOurs is the source that marks a BPF file system mounted by this package.
const bpffsOurs = "rutter-bpf"

// bpffsOwn is what the kernel itself puts into every BPF file system.
var bpffsOwn = []string{"maps.debug", "progs.debug"}

// mountBPF mounts the BPF file system where nothing else has yet.
func mountBPF() error {
	var s unix.Statfs_t
	if err := unix.Statfs(bpffs, &s); err != nil {
		return fmt.Errorf("look at %s: %w", bpffs, err)
	}
	if s.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount(bpffsOurs, bpffs, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount %s: %w", bpffs, err)
	}
	return nil
}

// unmountBPF takes away a mount that mountBPF made, if it is empty.
func unmountBPF() error {
	all, err := mounts()
	if err != nil {
		return err
	}
	for _, m := range all {
		if m.point != bpffs || m.source != bpffsOurs {
			continue
		}
		left, err := os.ReadDir(bpffs)
		if err != nil {
			return fmt.Errorf("look at %s: %w", bpffs, err)
		}
		if slices.ContainsFunc(left, func(e os.DirEntry) bool { return !slices.Contains(bpffsOwn, e.Name()) }) {
			return nil
		}
		if err := unix.Unmount(bpffs, 0); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("unmount %s: %w", bpffs, err)
		}
	}
	return nil
}

// removeEmpty removes the folder and those above it, up to but without top,
// as far as they are empty. Cgroups are removed the same way: one without
// processes and children goes.
func removeEmpty(path, top string) error {
	for path != top && strings.HasPrefix(path, top+string(filepath.Separator)) {
		err := unix.Rmdir(path)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
		case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
			return nil
		default:
			return fmt.Errorf("remove %s: %w", path, err)
		}
		path = filepath.Dir(path)
	}
	return nil
}

// netnsCookie is the number by which programs know the network namespace that
// the calling thread is in.
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("find own network namespace: %w", err)
	}
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return 0, fmt.Errorf("find own network namespace: %w", err)
	}
	return cookie, nil
}
