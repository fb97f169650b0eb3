//go:build e2e

package faults

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/jetstream"
	"github.com/rutterhq/rutter/events/logtest"
)

const (
	// roomy is a disk that a log can be begun on: a server keeps 1 GiB free.
	roomy = "size=1200m"
	// tight is what somebody else leaves of it.
	tight = "size=64m"
)

// tmpfs mounts a disk in memory on a new folder, until the test ends.
func tmpfs(t *testing.T) (dir string, resize func(size string)) {
	t.Helper()
	dir = t.TempDir()
	mount := func(flags uintptr, size string) {
		t.Helper()
		if err := syscall.Mount("tmpfs", dir, "tmpfs", flags, size); err != nil {
			t.Fatalf("mount %s on %s: %v", size, dir, err)
		}
	}
	mount(0, roomy)
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir, func(size string) { mount(syscall.MS_REMOUNT, size) }
}

// TestDiskFull has somebody else take the room on the disk, so that it is full
// long before the log's budget is reached.
func TestDiskFull(t *testing.T) {
	for _, listen := range []string{"", "127.0.0.1:0"} {
		t.Run(fmt.Sprintf("listen=%q", listen), func(t *testing.T) { diskFull(t, listen) })
	}
}

func diskFull(t *testing.T, listen string) {
	ctx := logtest.Context(t)
	dir, resize := tmpfs(t)
	fatal := make(chan error, 1)
	config := jetstream.ServerConfig{Dir: dir, Listen: listen, Log: func(level, m string) {
		if level == "error" {
			t.Log(m)
		}
	}, Fatal: func(err error) {
		select {
		case fatal <- err:
		default:
		}
	}}
	s, l := inProcess(t, config)
	resize(tight)
	h := newHistory()
	writing, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	for w := range 4 {
		group.Go(func() {
			at := events.Seq(0)
			for writing.Err() == nil {
				r := logtest.Record(fmt.Sprint("o", w), at)
				r.Body = []byte(strings.Repeat("x", 100<<10))
				seq, err := h.append(writing, w, l, r)
				switch {
				case err == nil:
					at = seq
				case unknown(err):
					return
				}
			}
		})
	}
	var err error
	select {
	case err = <-fatal:
	case <-time.After(20 * time.Second):
		t.Error("the disk is full, and the log's owner was not told")
	}
	if err != nil && !errors.Is(err, syscall.ENOSPC) && !strings.Contains(err.Error(), "no space left") {
		t.Errorf("the log's owner was told %v", err)
	}
	stop()
	group.Wait()
	l.Close()
	_ = s.Close() // it cannot write what it would like to

	resize(roomy)
	config.Fatal = func(err error) { t.Error(err) }
	s, l = inProcess(t, config)
	defer s.Close()
	all := whole(ctx, t, l)
	h.check(t, all)
	if _, err := h.append(ctx, 0, l, logtest.Record("after", 0)); err != nil {
		t.Errorf("with room again: %v", err)
	}
	t.Logf("%d events are there", len(all))
	report(t, h, nil)
}

// inProcess starts a server and opens its log as `rutter up` does.
func inProcess(t *testing.T, c jetstream.ServerConfig) (*jetstream.Server, *jetstream.Log) {
	t.Helper()
	s, err := jetstream.StartServer(c)
	if err != nil {
		t.Fatal(err)
	}
	nc, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	l, err := jetstream.Open(logtest.Context(t), nc, jetstream.Options{Budget: s.Budget(), AckWait: ackWait})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return s, l
}
