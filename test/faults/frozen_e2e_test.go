//go:build e2e

package faults

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/jetstream"
	"github.com/rutterhq/rutter/events/logtest"
)

// ext4 makes a file system in a file, and mounts it until the test ends.
func ext4(t *testing.T) (dir string) {
	t.Helper()
	dir, image := t.TempDir(), filepath.Join(t.TempDir(), "image")
	for _, c := range [][]string{
		{"truncate", "-s", "1300M", image}, // a server keeps 1 GiB free
		{"mkfs.ext4", "-q", image},
		{"mount", "-o", "loop", image, dir},
	} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", strings.Join(c, " "), err, out)
		}
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// freeze has a file system stand still: who writes to it waits in the kernel.
func freeze(t *testing.T, dir string) (thaw func()) {
	t.Helper()
	const fifreeze, fithaw = 0xc0045877, 0xc0045878 // linux/fs.h
	fd, err := unix.Open(dir, unix.O_RDONLY, 0)
	if err == nil {
		err = unix.IoctlSetInt(fd, fifreeze, 0)
	}
	if err != nil {
		t.Fatalf("freeze %s: %v", dir, err)
	}
	var once sync.Once
	thaw = func() {
		once.Do(func() {
			if err := unix.IoctlSetInt(fd, fithaw, 0); err != nil {
				t.Errorf("thaw %s: %v", dir, err)
			}
			_ = unix.Close(fd)
		})
	}
	t.Cleanup(thaw) // or what waits for the disk would never end
	return thaw
}

// TestDiskStands has the log's file system stand still for seconds, so that not
// even a write to a file returns: who writes is told in time that nobody knows,
// the log names the disk, all goes on afterwards, and nobody was told wrong.
func TestDiskStands(t *testing.T) {
	for _, listen := range []string{"", "127.0.0.1:0"} {
		t.Run(fmt.Sprintf("listen=%q", listen), func(t *testing.T) {
			t.Parallel()
			diskStands(t, listen)
		})
	}
}

func diskStands(t *testing.T, listen string) {
	const writers = 4
	ctx, dir := logtest.Context(t), ext4(t)
	said := make(chan string, 100)
	s, l := inProcess(t, jetstream.ServerConfig{Dir: dir, Listen: listen, Log: func(_, m string) {
		if strings.Contains(m, "the disk of "+dir) {
			said <- m
		}
	}})
	defer s.Close()
	h := newHistory()
	writing, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	acked, lost := make([]atomic.Int64, writers), make([]atomic.Int64, writers)
	for w := range writers {
		group.Go(func() {
			at, object := events.Seq(0), 0
			for writing.Err() == nil {
				short, cancel := context.WithTimeout(writing, time.Second)
				seq, err := h.append(short, w, l, logtest.Record(fmt.Sprintf("o%d-%d", w, object), at))
				cancel()
				switch {
				case err == nil:
					at = seq
					acked[w].Add(1)
				case unknown(err): // another object: this one's last event is not known
					at, object = 0, object+1
					lost[w].Add(1)
				default:
					t.Errorf("a writer was told: %v", err)
				}
			}
		})
	}
	more := func(what string, counts []atomic.Int64, n int64) {
		t.Helper()
		for w := range counts {
			for end := counts[w].Load() + n; counts[w].Load() < end; time.Sleep(time.Millisecond) {
				if ctx.Err() != nil {
					t.Fatalf("writer %d: not %d more %s", w, n, what)
				}
			}
		}
	}
	more("acknowledged", acked, 20)
	thaw := freeze(t, dir)
	more("of unknown outcome", lost, 2)
	if m := <-said; !strings.Contains(m, "not finished") {
		t.Errorf("the log says %q", m)
	}
	thaw()
	if m := <-said; !strings.Contains(m, "has finished") {
		t.Errorf("the log says %q", m)
	}
	more("acknowledged", acked, 20)
	stop()
	group.Wait()
	h.check(t, whole(ctx, t, l))
	report(t, h, nil)
}
