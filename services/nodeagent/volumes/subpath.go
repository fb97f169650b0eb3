package volumes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// beneath forbids a path to lead out of its volume, by dots, by symlinks or by
// the kernel's own links.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS

// SubPath binds a part of a volume at target, so that what the container later
// does to the volume's names cannot redirect the mount. What does not exist is
// made as a folder with the volume's mode.
func SubPath(volume, sub, target string) error {
	if mounted(target) || boundFile(target) {
		return nil
	}
	fd, err := openBeneath(volume, sub)
	if err != nil {
		return fmt.Errorf("subPath %q: %w", sub, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("subPath %q: %w", sub, err)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return fmt.Errorf("subPath %q: %w", sub, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.Mkdir(target, 0o750)
	} else {
		var f *os.File
		if f, err = os.OpenFile(target, os.O_CREATE, 0o640); err == nil {
			err = f.Close()
		}
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("subPath %q: %w", sub, err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("subPath %q: bind: %w", sub, err)
	}
	return nil
}

// boundFile tells whether a file is a mount, which mounted cannot see when the
// volume is on the same file system.
func boundFile(target string) bool {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == target {
			return true
		}
	}
	return false
}

// openBeneath opens a path within a volume, making the folders that are
// missing.
func openBeneath(volume, sub string) (int, error) {
	base, err := unix.Open(volume, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(base)
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: beneath}
	fd, err := unix.Openat2(base, sub, how)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	dir := &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: beneath}
	at := ""
	for _, name := range strings.Split(filepath.Clean(sub), "/") {
		parent, err := unix.Openat2(base, filepath.Join(".", at), dir)
		if err != nil {
			return -1, err
		}
		err = unix.Mkdirat(parent, name, 0o750)
		if err == nil {
			err = unix.Fchmodat(parent, name, 0o755, 0)
		}
		unix.Close(parent)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return -1, err
		}
		at = filepath.Join(at, name)
	}
	return unix.Openat2(base, sub, how)
}

// Remove unmounts everything below dir and removes it. It does not follow
// symlinks and does not cross into what is still mounted.
func Remove(dir string) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	var points []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && (f[4] == dir || strings.HasPrefix(f[4], dir+"/")) {
			points = append(points, f[4])
		}
	}
	for i := len(points) - 1; i >= 0; i-- {
		if err := unix.Unmount(points[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", points[i], err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}

// Group gives a volume to a supplemental group, as fsGroup asks: the group may
// write, and new files belong to it.
func Group(dir string, gid int) error {
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := os.Lchown(path, -1, gid); err != nil {
			return fmt.Errorf("fsGroup: %w", err)
		}
		if d.Type()&os.ModeSymlink != 0 {
			return nil
		}
		st, err := d.Info()
		if err != nil {
			return fmt.Errorf("fsGroup: %w", err)
		}
		mode := st.Mode() | 0o660
		if d.IsDir() {
			mode = st.Mode() | 0o770 | os.ModeSetgid
		}
		if err := os.Chmod(path, mode); err != nil {
			return fmt.Errorf("fsGroup: %w", err)
		}
		return nil
	})
}
