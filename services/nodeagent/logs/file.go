package logs

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

const (
	// FileMax is the size, in bytes, at which a log file is rotated: kubelet's
	// default, containerLogMaxSize.
	FileMax = 10 << 20
	// Files is how many files of one container's run are kept, the current one
	// included: kubelet's default, containerLogMaxFiles.
	Files = 5
)

// file is a log file that rotates: path is the current one, path.1 the one
// before it, and so on.
type file struct {
	path string

	mu sync.Mutex // protects the following fields: stdout and stderr share the file
	f  *os.File
	n  int64 // bytes in f
}

func openFile(path string) (*file, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("log folder: %w", err)
	}
	w := &file{path: path}
	return w, w.open()
}

func (w *file) open() error {
	f, err := os.OpenFile(w.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	w.f, w.n = f, st.Size()
	return nil
}

// write appends whole lines. An error of the disk drops them: a program must
// not stop because its log cannot be written.
func (w *file) write(b []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.n >= FileMax {
		w.rotate()
	}
	n, _ := w.f.Write(b)
	w.n += int64(n)
}

// rotate moves every file one number up and drops the last. If a rename fails
// the current file goes on growing, which is better than losing lines.
func (w *file) rotate() {
	os.Remove(rotated(w.path, Files-1))
	for i := Files - 2; i >= 0; i-- {
		os.Rename(rotated(w.path, i), rotated(w.path, i+1))
	}
	old := w.f
	if w.open() == nil {
		old.Close()
	}
}

func rotated(path string, i int) string {
	if i == 0 {
		return path
	}
	return fmt.Sprintf("%s.%d", path, i)
}

func (w *file) close() { w.f.Close() }
