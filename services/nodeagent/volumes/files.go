package volumes

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// File is one file of a volume.
type File struct {
	Data     []byte
	Mode     os.FileMode
	UID, GID int // -1: root's
}

const (
	dataLink = "..data"     // leads to the version in force
	dataNew  = "..data_tmp" // what becomes dataLink by a rename
)

// WriteFiles makes the volume at dir hold exactly the files, by their paths
// within it, and tells whether anything changed.
func WriteFiles(dir string, files map[string]File) (changed bool, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return false, fmt.Errorf("write volume: %w", err)
	}
	defer root.Close()
	for name := range files {
		if !filepath.IsLocal(name) || strings.HasPrefix(name, "..") {
			return false, fmt.Errorf("write volume: bad path %q", name)
		}
	}
	old, err := root.Readlink(dataLink)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("write volume: %w", err)
	}
	if old != "" && holds(root, old, files) {
		return false, nil
	}
	version := ".." + time.Now().UTC().Format("2006_01_02_15_04_05.000000000")
	if err := writeVersion(root, version, files); err != nil {
		root.RemoveAll(version)
		return false, fmt.Errorf("write volume: %w", err)
	}
	root.Remove(dataNew)
	if err := root.Symlink(version, dataNew); err != nil {
		return false, fmt.Errorf("write volume: %w", err)
	}
	if err := root.Rename(dataNew, dataLink); err != nil {
		return false, fmt.Errorf("write volume: %w", err)
	}
	if err := showNames(root, files); err != nil {
		return false, fmt.Errorf("write volume: %w", err)
	}
	if old != "" {
		root.RemoveAll(old)
	}
	return true, nil
}

// holds tells whether a version has the files, no more and no less.
func holds(root *os.Root, version string, files map[string]File) bool {
	n := 0
	for name, f := range files {
		path := filepath.Join(version, name)
		b, err := root.ReadFile(path)
		if err != nil || !bytes.Equal(b, f.Data) {
			return false
		}
		if st, err := root.Stat(path); err != nil || st.Mode().Perm() != f.Mode.Perm() {
			return false
		}
		n++
	}
	have := 0
	filepath.WalkDir(filepath.Join(root.Name(), version), func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			have++
		}
		return nil
	})
	return have == n
}

func writeVersion(root *os.Root, version string, files map[string]File) error {
	if err := root.Mkdir(version, 0o755); err != nil {
		return err
	}
	for name, f := range files {
		path := filepath.Join(version, name)
		if err := root.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := root.WriteFile(path, f.Data, 0o600); err != nil {
			return err
		}
		if f.UID >= 0 || f.GID >= 0 {
			if err := root.Chown(path, f.UID, f.GID); err != nil {
				return err
			}
		}
		if err := root.Chmod(path, f.Mode); err != nil {
			return err
		}
	}
	return nil
}

// showNames links the top names of the files to the version in force and
// removes links to what is no more.
func showNames(root *os.Root, files map[string]File) error {
	want := map[string]bool{}
	for name := range files {
		top, _, _ := strings.Cut(filepath.ToSlash(name), "/")
		want[top] = true
	}
	for _, top := range slices.Sorted(maps.Keys(want)) {
		if target, err := root.Readlink(top); err == nil && target == filepath.Join(dataLink, top) {
			continue
		}
		if err := root.Symlink(filepath.Join(dataLink, top), top); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(root.Name())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..") && !want[e.Name()] {
			if err := root.Remove(e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// Tmpfs makes sure that a tmpfs is mounted at dir; limit is its size in bytes,
// 0 for the kernel's default.
func Tmpfs(dir string, limit int64, mode os.FileMode) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err == nil && s.Type == unix.TMPFS_MAGIC && mounted(dir) {
		return nil
	}
	options := fmt.Sprintf("mode=%o", mode.Perm())
	if limit > 0 {
		options += fmt.Sprintf(",size=%d", limit)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", dir, err)
	}
	return nil
}

// mounted tells whether something is mounted exactly at dir.
func mounted(dir string) bool {
	var here, above unix.Stat_t
	if unix.Lstat(dir, &here) != nil || unix.Lstat(filepath.Dir(dir), &above) != nil {
		return false
	}
	return here.Dev != above.Dev
}
