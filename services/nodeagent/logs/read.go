package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Options choose what of a log is read, in the terms of v1.PodLogOptions.
type Options struct {
	Follow     bool
	Timestamps bool
	Tail       int64     // the last so many entries; negative: all
	Since      time.Time // zero: all
	LimitBytes int64     // of output; negative: no limit
	Stream     string    // "stdout" or "stderr"; empty: both
	Begun      func()    // is called once it is known from where on is read; nil: nobody asks
}

// errLimit ends a reading at its LimitBytes.
var errLimit = errors.New("limit reached")

// Read writes the entries of the log at path, with those of its rotated
// files, to w. With Follow it goes on until ctx ends or ended says that the
// container will write no more. A log that does not exist yet is empty.
func Read(ctx context.Context, path string, o Options, w io.Writer, ended func() bool) error {
	r := &reader{o: o, w: w, left: o.LimitBytes}
	err := r.run(ctx, path, ended)
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

type reader struct {
	o    Options
	w    io.Writer
	left int64 // bytes that may still be written; negative: no limit
	// halfway is true within a line that was written in parts: only its first
	// part gets a time stamp.
	halfway bool
	rest    []byte // an entry whose end is not in the file yet
}

func (r *reader) run(ctx context.Context, path string, ended func() bool) error {
	var watch *watcher
	if r.o.Follow {
		var err error
		if watch, err = newWatcher(filepath.Dir(path)); err != nil {
			return err
		}
		defer watch.close()
	}
	files := existing(path)
	skip, err := r.start(files)
	if err != nil {
		return err
	}
	if r.o.Begun != nil {
		r.o.Begun()
	}
	var current *os.File
	for i, f := range files {
		defer f.Close()
		if i < skip.file {
			continue
		}
		var from int64 // start read the files backwards
		if i == skip.file {
			from = skip.offset
		}
		if _, err := f.Seek(from, io.SeekStart); err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		if err := r.copy(f); err != nil {
			return err
		}
		current = f
	}
	if !r.o.Follow {
		return nil
	}
	return r.follow(ctx, path, current, watch, ended)
}

// follow reads on in the current file, and in the next when it was rotated.
func (r *reader) follow(ctx context.Context, path string, current *os.File, watch *watcher, ended func() bool) error {
	for {
		over := ended()
		if current != nil {
			if err := r.copy(current); err != nil {
				return err
			}
		}
		next, err := os.Open(path)
		if err == nil {
			if current == nil || !same(current, next) {
				if current != nil {
					// What was written between the copy above and the rotation.
					if err := r.copy(current); err != nil {
						return err
					}
				}
				defer next.Close()
				current = next
				continue
			}
			next.Close()
		}
		if over {
			return nil
		}
		if err := watch.wait(ctx); err != nil {
			return nil
		}
	}
}

func same(a, b *os.File) bool {
	x, errX := a.Stat()
	y, errY := b.Stat()
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// existing opens the files of a log, oldest first.
func existing(path string) []*os.File {
	var files []*os.File
	for i := Files - 1; i >= 0; i-- {
		if f, err := os.Open(rotated(path, i)); err == nil {
			files = append(files, f)
		}
	}
	return files
}

type position struct {
	file   int
	offset int64
}

// start finds where the last Tail entries begin, reading backwards.
func (r *reader) start(files []*os.File) (position, error) {
	if r.o.Tail < 0 || len(files) == 0 {
		return position{}, nil
	}
	last := len(files) - 1
	end := func(i int) (int64, error) { return files[i].Seek(0, io.SeekEnd) }
	if r.o.Tail == 0 {
		n, err := end(last)
		return position{file: last, offset: n}, err
	}
	need := r.o.Tail
	buf := make([]byte, 64<<10)
	for i := last; i >= 0; i-- {
		size, err := end(i)
		if err != nil {
			return position{}, fmt.Errorf("read log: %w", err)
		}
		for stop := size; stop > 0; {
			from := max(0, stop-int64(len(buf)))
			block := buf[:stop-from]
			if _, err := files[i].ReadAt(block, from); err != nil {
				return position{}, fmt.Errorf("read log: %w", err)
			}
			for at := len(block); at > 0; {
				at = bytes.LastIndexByte(block[:at], '\n')
				if at < 0 {
					break
				}
				if from+int64(at)+1 == size {
					continue // the end of the last entry begins no other
				}
				if need--; need == 0 {
					return position{file: i, offset: from + int64(at) + 1}, nil
				}
			}
			stop = from
		}
		// The first entry of a file has no newline before it.
		if size > 0 {
			if need--; need == 0 {
				return position{file: i}, nil
			}
		}
	}
	return position{}, nil
}

// copy writes all whole entries from where f stands to its end.
func (r *reader) copy(f *os.File) error {
	in := bufio.NewReaderSize(f, 64<<10)
	for {
		b, err := in.ReadSlice('\n')
		if err == nil && len(r.rest) == 0 {
			if err := r.entry(b); err != nil {
				return err
			}
			continue
		}
		r.rest = append(r.rest, b...)
		switch {
		case err == nil:
			whole := r.rest
			r.rest = r.rest[:0]
			if err := r.entry(whole); err != nil {
				return err
			}
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return nil
		default:
			return fmt.Errorf("read log: %w", err)
		}
	}
}

func (r *reader) entry(b []byte) error {
	l, err := Parse(b)
	if err != nil || l.Time.Before(r.o.Since) || (r.o.Stream != "" && r.o.Stream != l.Stream) {
		return nil // a line that is not ours to show must not hide the others
	}
	out := l.Text
	if r.o.Timestamps && !r.halfway {
		out = append(l.Time.AppendFormat(nil, time.RFC3339Nano+" "), l.Text...)
	}
	r.halfway = l.Partial
	if !l.Partial {
		out = append(out[:len(out):len(out)], '\n')
	}
	if r.left >= 0 && int64(len(out)) >= r.left {
		if _, err := r.w.Write(out[:r.left]); err != nil {
			return err
		}
		return errLimit
	}
	if r.left >= 0 {
		r.left -= int64(len(out))
	}
	_, err = r.w.Write(out)
	return err
}

// watcher tells when something in a folder was written or renamed.
type watcher struct{ f *os.File }

func newWatcher(dir string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		f.Close()
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	return &watcher{f: f}, nil
}

// idle is how long a follower waits without news before it looks whether the
// container has ended: that is no event in the log's folder.
const idle = 500 * time.Millisecond

// wait returns at the next change, after idle, or with ctx's error.
func (w *watcher) wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { w.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.f.SetReadDeadline(time.Now().Add(idle))
	var buf [4096]byte
	w.f.Read(buf[:])
	return ctx.Err()
}

func (w *watcher) close() { w.f.Close() }

// Tail returns the text of the last entries of a log, at most lines of them
// and at most limit bytes: what becomes a termination message.
func Tail(ctx context.Context, path string, lines, limit int64) string {
	var b bytes.Buffer
	o := Options{Tail: lines, LimitBytes: -1}
	if Read(ctx, path, o, &b, nil) != nil {
		return ""
	}
	out := b.Bytes()
	if int64(len(out)) > limit {
		out = out[int64(len(out))-limit:]
	}
	return string(out)
}
