package logs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Stream is one container's output: where it comes from and where it goes.
type Stream struct {
	ID    string // of the container's run
	Dir   string // holds the FIFOs; the keeper removes it when all was read
	Path  string // of the log file
	TTY   bool   // stdout only, and what stands there is shown at once, not line by line
	Stdin bool   // there is a FIFO for the input, too, which the shim keeps open
}

// FIFO returns the path of a stream's FIFO: "stdin", "stdout" or "stderr".
func (s Stream) FIFO(name string) string { return filepath.Join(s.Dir, name) }

// request is one line on the keeper's socket, reply the answer to it.
type request struct {
	Op     string // "open", "drained", "drop" or "stop"
	Stream Stream
}

type reply struct{ Error string }

const (
	// lineMax is the longest text, in bytes, of one log entry; longer lines are
	// written in parts, as container runtimes do.
	lineMax = 16 << 10
	// drainWait bounds how long "drained" waits for the rest of an output. A
	// child that outlives the container's first process may hold the FIFO for
	// ever.
	drainWait = time.Second
)

// SocketPath is where the keeper of a run folder listens.
func SocketPath(runDir string) string { return filepath.Join(runDir, "keeper.sock") }

// PIDPath holds the keeper's process id, for whoever must end it.
func PIDPath(runDir string) string { return filepath.Join(runDir, "keeper.pid") }

// keeper holds the streams that are being read.
type keeper struct {
	dir   string
	group *errgroup.Group

	mu      sync.Mutex // protects the following fields
	streams map[string]chan struct{}
}

// RunKeeper is the whole of the keeper's process: it reads the FIFOs that it is
// told of, and those that a keeper before it was, until ctx ends or it is told
// to stop. Only one may run per folder; a second returns an error.
func RunKeeper(ctx context.Context, runDir string) error {
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return fmt.Errorf("keeper's folder: %w", err)
	}
	lock, err := os.OpenFile(PIDPath(runDir), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("keeper's lock: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another keeper is running in %s: %w", runDir, err)
	}
	lock.Truncate(0)
	fmt.Fprintf(lock, "%d\n", os.Getpid())
	os.Remove(SocketPath(runDir))
	l, err := net.Listen("unix", SocketPath(runDir))
	if err != nil {
		return fmt.Errorf("keeper's socket: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	k := &keeper{dir: runDir, group: group, streams: map[string]chan struct{}{}}
	k.resume()
	group.Go(func() error { <-ctx.Done(); return l.Close() })
	group.Go(func() error {
		for {
			c, err := l.Accept()
			if err != nil {
				// Readers blocked in a FIFO do not hear of ctx, and need not: the
				// process ends here and the next keeper reads on.
				return context.Canceled
			}
			group.Go(func() error { k.serve(c, cancel); return nil })
		}
	})
	<-ctx.Done()
	return nil
}

// resume takes up what a keeper before this one had not finished.
func (k *keeper) resume() {
	saved, _ := filepath.Glob(filepath.Join(k.dir, "*.json"))
	for _, path := range saved {
		var s Stream
		b, err := os.ReadFile(path)
		if err != nil || json.Unmarshal(b, &s) != nil || s.ID == "" {
			os.Remove(path)
			continue
		}
		if k.open(s) != nil {
			os.Remove(path)
		}
	}
}

func (k *keeper) serve(c net.Conn, stop func()) {
	defer c.Close()
	in := bufio.NewScanner(c)
	for in.Scan() {
		var r request
		err := json.Unmarshal(in.Bytes(), &r)
		if err == nil {
			switch r.Op {
			case "open":
				err = k.open(r.Stream)
			case "drained":
				k.drained(r.Stream.ID)
			case "drop":
				release(r.Stream)
			case "stop":
				defer stop()
			default:
				err = fmt.Errorf("unknown operation %q", r.Op)
			}
		}
		var answer reply
		if err != nil {
			answer.Error = err.Error()
		}
		b, _ := json.Marshal(answer)
		if _, err := c.Write(append(b, '\n')); err != nil || r.Op == "stop" {
			return
		}
	}
}

// open begins to read a container's output; for one that is being read it does
// nothing.
func (k *keeper) open(s Stream) error {
	if strings.ContainsAny(s.ID, "/.") {
		return fmt.Errorf("bad id %q", s.ID)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.streams[s.ID] != nil {
		return nil
	}
	names := []string{"stdout", "stderr"}
	if s.TTY {
		names = names[:1]
	}
	for _, name := range names {
		if _, err := os.Stat(s.FIFO(name)); err != nil {
			return fmt.Errorf("fifo: %w", err)
		}
	}
	out, err := openFile(s.Path)
	if err != nil {
		return err
	}
	b, _ := json.Marshal(s)
	saved := filepath.Join(k.dir, s.ID+".json")
	if err := os.WriteFile(saved, b, 0o600); err != nil {
		return fmt.Errorf("keep %s: %w", s.ID, err)
	}
	done := make(chan struct{})
	k.streams[s.ID] = done
	k.group.Go(func() error {
		var both errgroup.Group
		for _, name := range names {
			both.Go(func() error { copyStream(s, name, out); return nil })
		}
		both.Wait()
		out.close()
		os.Remove(saved)
		os.RemoveAll(s.Dir)
		k.mu.Lock()
		delete(k.streams, s.ID)
		k.mu.Unlock()
		close(done)
		return nil
	})
	return nil
}

func (k *keeper) drained(id string) {
	k.mu.Lock()
	done := k.streams[id]
	k.mu.Unlock()
	if done == nil {
		return
	}
	select {
	case <-done:
	case <-time.After(drainWait):
	}
}

// release lets readers go that wait for a container which will never write: it
// opens the FIFOs for writing and closes them.
func release(s Stream) {
	for _, name := range []string{"stdout", "stderr"} {
		if fd, err := unix.Open(s.FIFO(name), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
			unix.Close(fd)
		}
	}
}

// copyStream reads one FIFO to its end. The open waits for the shim's end.
func copyStream(s Stream, name string, out *file) {
	in, err := os.OpenFile(s.FIFO(name), os.O_RDONLY, 0)
	if err != nil {
		return
	}
	defer in.Close()
	if s.TTY {
		copyTerminal(in, name, out)
		return
	}
	r := bufio.NewReaderSize(in, lineMax)
	var entry []byte
	for {
		text, err := r.ReadSlice('\n')
		if len(text) > 0 {
			whole := text[len(text)-1] == '\n'
			l := Line{Time: time.Now(), Stream: name, Partial: !whole, Text: bytes.TrimSuffix(text, []byte{'\n'})}
			entry = l.Append(entry[:0])
			out.write(entry)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// copyTerminal writes what a terminal shows as it comes, so that a prompt
// without a newline is seen by those who attach.
func copyTerminal(in io.Reader, name string, out *file) {
	buf := make([]byte, lineMax)
	var entry []byte
	for {
		n, err := in.Read(buf)
		now := time.Now()
		entry = entry[:0]
		for rest := buf[:n]; len(rest) > 0; {
			text, after, whole := bytes.Cut(rest, []byte{'\n'})
			entry = Line{Time: now, Stream: name, Partial: !whole, Text: text}.Append(entry)
			rest = after
		}
		if n > 0 {
			out.write(entry)
		}
		if err != nil {
			return
		}
	}
}
