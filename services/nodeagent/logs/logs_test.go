package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestMain lets the test's own binary be the keeper.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "keeper" {
		if err := RunKeeper(context.Background(), os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestFormatRoundTrips(t *testing.T) {
	at := time.Date(2026, 11, 23, 18, 0, 0, 123456000, time.UTC)
	for _, l := range []Line{
		{Time: at, Stream: "stdout", Text: []byte("hello world")},
		{Time: at, Stream: "stderr", Text: []byte("")},
		{Time: at, Stream: "stdout", Partial: true, Text: []byte(" x ")},
	} {
		got, err := Parse(l.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(l, got); d != "" {
			t.Errorf("line changed (-wrote +read):\n%s", d)
		}
	}
	for _, bad := range []string{"", "x", "2026-11-23T18:00:00Z", "2026-11-23T18:00:00Z stdin F x", "2026-11-23T18:00:00Z stdout"} {
		if _, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func writeLog(t *testing.T, path string, from, to int) {
	t.Helper()
	var b []byte
	for i := from; i < to; i++ {
		b = Line{Time: time.Unix(int64(1000+i), 0), Stream: "stdout", Text: fmt.Appendf(nil, "line %d", i)}.Append(b)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestReadOptions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	writeLog(t, path+".1", 0, 3)
	writeLog(t, path, 3, 5)
	for _, c := range []struct {
		name string
		o    Options
		want string
	}{
		{"all, rotated files first", Options{Tail: -1, LimitBytes: -1}, "line 0\nline 1\nline 2\nline 3\nline 4\n"},
		{"tail within a file", Options{Tail: 1, LimitBytes: -1}, "line 4\n"},
		{"tail is the file", Options{Tail: 2, LimitBytes: -1}, "line 3\nline 4\n"},
		{"tail across files", Options{Tail: 3, LimitBytes: -1}, "line 2\nline 3\nline 4\n"},
		{"tail beyond", Options{Tail: 30, LimitBytes: -1}, "line 0\nline 1\nline 2\nline 3\nline 4\n"},
		{"tail 0", Options{Tail: 0, LimitBytes: -1}, ""},
		{"since", Options{Tail: -1, LimitBytes: -1, Since: time.Unix(1004, 0)}, "line 4\n"},
		{"limit", Options{Tail: -1, LimitBytes: 10}, "line 0\nlin"},
		{"timestamps", Options{Tail: 1, LimitBytes: -1, Timestamps: true}, "1970-01-01T00:16:44Z line 4\n"},
		{"other stream", Options{Tail: -1, LimitBytes: -1, Stream: "stderr"}, ""},
	} {
		var b bytes.Buffer
		if err := Read(t.Context(), path, c.o, &b, nil); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if d := cmp.Diff(c.want, b.String()); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c", "0.log")
	f, err := openFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	block := Line{Time: time.Unix(0, 0), Stream: "stdout", Text: bytes.Repeat([]byte("x"), FileMax/2)}.Append(nil)
	for range 16 {
		f.write(block)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != Files {
		t.Errorf("%d files are kept, want %d", len(entries), Files)
	}
}

// TestKeeperSurvivesItsClientAndItself: output goes on being kept when the
// client is gone, and when the keeper was killed and started again.
func TestKeeperSurvivesItsClientAndItself(t *testing.T) {
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	c := NewClient(dir, []string{exe, "keeper"})
	defer NewClient(dir, nil).Stop(context.Background())
	s := Stream{ID: "a", Dir: filepath.Join(dir, "fifo"), Path: filepath.Join(dir, "log", "0.log")}
	if err := c.Open(ctx, s); err != nil {
		t.Fatal(err)
	}
	// As the shim does: both ends, so that a keeper that dies breaks nothing.
	out, err := os.OpenFile(s.FIFO("stdout"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	errs, err := os.OpenFile(s.FIFO("stderr"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(out, "one\n")
	var got bytes.Buffer
	follow, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	seen := func(n int) {
		t.Helper()
		got.Reset()
		Read(follow, s.Path, Options{Follow: true, Tail: -1, LimitBytes: int64(n)}, &got, func() bool { return false })
	}
	seen(4)
	c.mu.Lock()
	p, _ := os.FindProcess(c.pid)
	p.Kill()
	c.drop()
	c.mu.Unlock()
	awaitEnd(t, dir)
	fmt.Fprintf(out, "two\n")
	d := NewClient(dir, []string{exe, "keeper"})
	for ctx.Err() == nil {
		if d.Start(ctx) == nil {
			break
		}
	}
	fmt.Fprintf(errs, "three")
	seen(8)
	out.Close()
	errs.Close()
	if err := d.Drained(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff("one\ntwo\nthree", Tail(ctx, s.Path, 10, 100)); d != "" {
		t.Errorf("log (-want +got):\n%s", d)
	}
	if _, err := os.Stat(s.Dir); !os.IsNotExist(err) {
		t.Errorf("the FIFOs are still there: %v", err)
	}
}

// awaitEnd waits until a folder's keeper is gone: its lock is free.
func awaitEnd(t *testing.T, dir string) {
	t.Helper()
	lock, err := os.Open(PIDPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
}

// TestBegun writes to a log once it is known from where on it is read: that is
// read, and nothing from before.
func TestBegun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	write := func(text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err == nil {
			_, err = fmt.Fprintf(f, "1970-01-01T00:16:44Z stdout F %s\n", text)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	write("before")
	var got bytes.Buffer
	err := Read(t.Context(), path, Options{Follow: true, LimitBytes: -1, Begun: func() { write("after") }}, &got, func() bool { return true })
	if err != nil || got.String() != "after\n" {
		t.Errorf("it reads %q, %v", &got, err)
	}
}
