package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Size is that of a terminal, in characters.
type Size struct{ Width, Height uint32 }

// Exec is a command to run in a container.
type Exec struct {
	Args           []string
	TTY            bool
	Stdin          io.Reader // nil: none
	Stdout, Stderr io.Writer // nil: thrown away
	Resize         <-chan Size
	Timeout        time.Duration // 0: none; after it the command is killed
}

// ErrExecTimeout: a command took longer than it may.
var ErrExecTimeout = errors.New("command timed out")

// ErrNotRunning: the container has no process to run a command beside.
var ErrNotRunning = errors.New("the container is not running")

// Exec runs a command in a running container and returns its exit code. The
// command is killed when ctx ends.
func (c *Client) Exec(ctx context.Context, id string, e Exec) (int, error) {
	ctr, err := c.c.LoadContainer(ctx, id)
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", id, notRunning(err))
	}
	t, err := ctr.Task(ctx, nil)
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", id, notRunning(err))
	}
	spec, err := ctr.Spec(ctx)
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", id, err)
	}
	proc := spec.Process
	proc.Args, proc.Terminal = e.Args, e.TTY
	if size, ok := e.firstSize(ctx); ok {
		proc.ConsoleSize = &specs.Box{Width: uint(size.Width), Height: uint(size.Height)}
	}
	opts := []cio.Opt{cio.WithFIFODir(filepath.Join(c.runDir, "exec"))}
	stdout, stderr := e.Stdout, e.Stderr
	if stdout == nil {
		stdout = io.Discard
	}
	if e.TTY {
		opts = append(opts, cio.WithTerminal)
		stderr = nil
	} else if stderr == nil {
		stderr = io.Discard
	}
	var p containerd.Process
	stdin := e.Stdin
	if stdin != nil {
		// The command sees the end of its input when the client has closed it.
		stdin = &endReader{r: e.Stdin, end: func() { p.CloseIO(context.WithoutCancel(ctx), containerd.WithStdinCloser) }, started: make(chan struct{})}
	}
	opts = append(opts, cio.WithStreams(stdin, stdout, stderr))
	p, err = t.Exec(ctx, "exec-"+uuid.NewString(), proc, cio.NewCreator(opts...))
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", id, err)
	}
	if r, ok := stdin.(*endReader); ok {
		close(r.started)
	}
	return c.drive(ctx, p, e)
}

// firstSizeWait is how long a command with a terminal waits for the client to
// say how large it is, which clients do at once.
const firstSizeWait = 100 * time.Millisecond

func (e Exec) firstSize(ctx context.Context) (Size, bool) {
	if !e.TTY || e.Resize == nil {
		return Size{}, false
	}
	timer := time.NewTimer(firstSizeWait)
	defer timer.Stop()
	select {
	case size, ok := <-e.Resize:
		return size, ok
	case <-timer.C:
	case <-ctx.Done():
	}
	return Size{}, false
}

// endReader tells when its reader is at its end, once.
type endReader struct {
	r       io.Reader
	end     func()
	started chan struct{} // closed when end may be called
	over    bool
}

// Read implements io.Reader.
func (e *endReader) Read(b []byte) (int, error) {
	n, err := e.r.Read(b)
	if err != nil && !e.over {
		e.over = true
		<-e.started
		e.end()
	}
	return n, err
}

// drive starts an exec, serves its terminal and waits for its end.
func (c *Client) drive(ctx context.Context, p containerd.Process, e Exec) (int, error) {
	// Its remains must go even when ctx is what ended it.
	clean := context.WithoutCancel(ctx)
	defer p.Delete(clean, containerd.WithProcessKill)
	done, err := p.Wait(clean)
	if err != nil {
		return 0, fmt.Errorf("exec: %w", err)
	}
	if err := p.Start(ctx); err != nil {
		return 0, fmt.Errorf("exec: %w", err)
	}
	var timeout <-chan time.Time
	if e.Timeout > 0 {
		timer := time.NewTimer(e.Timeout)
		defer timer.Stop()
		timeout = timer.C
	}
	resize := e.Resize
	for {
		select {
		case size, ok := <-resize:
			if !ok {
				resize = nil
				continue
			}
			p.Resize(ctx, size.Width, size.Height)
		case <-timeout:
			p.Kill(clean, syscall.SIGKILL)
			return 0, fmt.Errorf("%w after %s", ErrExecTimeout, e.Timeout)
		case <-ctx.Done():
			p.Kill(clean, syscall.SIGKILL)
			return 0, ctx.Err()
		case status := <-done:
			code, _, err := status.Result()
			if err != nil {
				return 0, fmt.Errorf("exec: %w", err)
			}
			drain(p.IO())
			return int(code), nil
		}
	}
}

// drainMax bounds how long an exec waits for the rest of its output: a child that
// the command left behind may hold it open for ever.
const drainMax = time.Second

func drain(i cio.IO) {
	cut := time.AfterFunc(drainMax, i.Cancel)
	defer cut.Stop()
	i.Wait()
}

// Output runs a command and returns what it printed, at most limit bytes.
func (c *Client) Output(ctx context.Context, id string, args []string, timeout time.Duration, limit int) (string, int, error) {
	out := &limited{left: limit}
	code, err := c.Exec(ctx, id, Exec{Args: args, Stdout: out, Stderr: out, Timeout: timeout})
	return out.b.String(), code, err
}

type limited struct {
	b    bytes.Buffer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.b.Write(p[:n])
	l.left -= n
	return len(p), nil
}

func notRunning(err error) error {
	if errdefs.IsNotFound(err) {
		return ErrNotRunning
	}
	return err
}
