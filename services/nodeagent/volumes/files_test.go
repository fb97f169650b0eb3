package volumes

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func file(s string) File { return File{Data: []byte(s), Mode: 0o640, UID: -1, GID: -1} }

func TestWriteFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(files map[string]File) bool {
		t.Helper()
		changed, err := WriteFiles(dir, files)
		if err != nil {
			t.Fatal(err)
		}
		return changed
	}
	read := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if !write(map[string]File{"a": file("1"), "sub/b": file("2")}) {
		t.Error("the first write changed nothing")
	}
	version, _ := os.Readlink(filepath.Join(dir, dataLink))
	if read("a") != "1" || read("sub/b") != "2" {
		t.Error("contents")
	}
	if write(map[string]File{"a": file("1"), "sub/b": file("2")}) {
		t.Error("the same files were written again")
	}
	if !write(map[string]File{"a": file("9"), "c": file("3")}) || read("a") != "9" || read("c") != "3" {
		t.Error("the second version is not there")
	}
	if _, err := os.Lstat(filepath.Join(dir, "sub")); !os.IsNotExist(err) {
		t.Errorf("a name that is no more: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, version)); !os.IsNotExist(err) {
		t.Errorf("the old version: %v", err)
	}
	if st, err := os.Stat(filepath.Join(dir, "a")); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("mode: %v %v", st.Mode(), err)
	}
	changed := file("9")
	changed.Mode = 0o600
	if !write(map[string]File{"a": changed, "c": file("3")}) {
		t.Error("another mode is no change")
	}
	for _, bad := range []string{"../x", "/x", "..data", "a/../../x"} {
		if _, err := WriteFiles(dir, map[string]File{bad: file("")}); err == nil {
			t.Errorf("the path %q was accepted", bad)
		}
	}
}

// TestOpenBeneath: no symlink leads out of a volume.
func TestOpenBeneath(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	os.WriteFile(filepath.Join(outside, "secret"), nil, 0o600)
	os.Mkdir(filepath.Join(dir, "real"), 0o755)
	for name, target := range map[string]string{"out": outside, "up": "..", "in": "real", "proc": "/proc/self/root"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for sub, ok := range map[string]bool{
		"real": true, "in": true, "in/new/deep": true, "new": true, "out": false, "out/secret": false, "up": false, "up/x": false, "../x": false, "proc/etc": false, "out/new": false,
	} {
		fd, err := openBeneath(dir, sub)
		if (err == nil) != ok {
			t.Errorf("%q: fd %d, %v; allowed: %v", sub, fd, err, ok)
		}
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 1 {
		t.Errorf("something was made outside: %v", entries)
	}
}

func TestHostPath(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "f"), nil, 0o600)
	for _, c := range []struct {
		path, kind, err string
	}{
		{"f", "File", ""}, {"f", "Directory", "not a directory"}, {"no", "Directory", "does not exist"}, {"new", "DirectoryOrCreate", ""},
		{"newfile", "FileOrCreate", ""}, {"f", "Socket", "not a socket"}, {"unset", "", ""}, {"f", "", ""},
	} {
		err := HostPath(filepath.Join(dir, c.path), corev1.HostPathType(c.kind))
		switch {
		case err == nil && c.err != "", err != nil && (c.err == "" || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s as %q: %v, want %q", c.path, c.kind, err, c.err)
		}
	}
}
