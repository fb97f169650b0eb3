package nodeagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	remote "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/services/nodeagent/logs"
	"github.com/rutterhq/rutter/services/nodeagent/runtime"
)

func keyOf(r kernel.Resource, namespace, name string) kernel.Key {
	return kernel.Key{Resource: r, Namespace: namespace, Name: name}
}

const (
	streamIdle   = 4 * time.Hour    // kubelet's streamingConnectionIdleTimeout
	streamCreate = 30 * time.Second // for a client to open its streams
)

// terminal is what a client brings to an exec or an attach.
type terminal struct {
	stdin          io.Reader // nil: none
	stdout, stderr io.Writer // nil: not wanted
	tty            bool
	resize         <-chan runtime.Size
}

// session is an exec or an attach; it returns the exit code of the command.
type session func(ctx context.Context, t terminal) (int, error)

func (a *Agent) serveExec(w http.ResponseWriter, r *http.Request) {
	_, _, c, ok := a.target(w, r)
	if !ok {
		return
	}
	command := r.URL.Query()["command"]
	if len(command) == 0 {
		http.Error(w, "you must specify at least 1 command for the container", http.StatusBadRequest)
		return
	}
	if c.Phase != Running {
		http.Error(w, fmt.Sprintf("container not running (%s)", c.ID), http.StatusInternalServerError)
		return
	}
	a.serveSession(w, r, func(ctx context.Context, t terminal) (int, error) {
		return a.rt.Exec(ctx, c.ID, runtime.Exec{Args: command, TTY: t.tty, Stdin: t.stdin, Stdout: t.stdout, Stderr: t.stderr, Resize: t.resize})
	})
}

func (a *Agent) serveAttach(w http.ResponseWriter, r *http.Request) {
	p, spec, c, ok := a.target(w, r)
	if !ok {
		return
	}
	if c.Phase != Running {
		http.Error(w, fmt.Sprintf("container %s is not running", spec.Name), http.StatusBadRequest)
		return
	}
	a.serveSession(w, r, func(ctx context.Context, t terminal) (int, error) {
		return 0, a.attach(ctx, p, spec, c, t)
	})
}

// attach shows what a container prints from now on, which its log tells, and
// writes to its input.
func (a *Agent) attach(ctx context.Context, p *pod, spec *corev1.Container, c Container, t terminal) error {
	p.mu.Lock()
	path := a.logPath(p.spec, spec.Name, c.Attempt)
	p.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := func() bool {
		now := p.container(spec.Name)
		return now.ID != c.ID || now.Phase != Running
	}
	done := make(chan error, 2)
	streams := 0
	var begun sync.WaitGroup // all that the container prints from now on is read
	follow := func(stream string, to io.Writer) {
		if to == nil {
			return
		}
		streams++
		begun.Add(1)
		o := logs.Options{Follow: true, Tail: 0, LimitBytes: -1, Stream: stream, Begun: sync.OnceFunc(begun.Done)}
		a.work.Go(func() error {
			defer o.Begun() // also if it failed
			done <- logs.Read(ctx, path, o, to, ended)
			return nil
		})
	}
	follow("stdout", t.stdout)
	if !spec.TTY {
		follow("stderr", t.stderr)
	}
	begun.Wait() // what is answered to the input must not come before
	if t.stdin != nil && spec.Stdin {
		in, err := os.OpenFile(a.rt.StdinPath(c.ID), os.O_WRONLY, 0)
		if err != nil {
			return fmt.Errorf("attach to the input of container %s: %w", spec.Name, err)
		}
		a.work.Go(func() error {
			defer in.Close()
			if _, err := io.Copy(in, t.stdin); err == nil && spec.StdinOnce {
				a.rt.CloseStdin(ctx, c.ID)
			}
			return nil
		})
	}
	a.work.Go(func() error {
		for {
			select {
			case size, ok := <-t.resize:
				if !ok {
					return nil
				}
				a.rt.Resize(ctx, c.ID, size.Width, size.Height)
			case <-ctx.Done():
				return nil
			}
		}
	})
	var errs []error
	for range streams {
		errs = append(errs, <-done)
	}
	return errors.Join(errs...)
}

// streamOptions reads which streams a client wants, by kubelet's names or by
// those of the API.
func streamOptions(q url.Values) *remote.Options {
	is := func(names ...string) bool {
		for _, n := range names {
			if b, err := strconv.ParseBool(q.Get(n)); err == nil && b {
				return true
			}
		}
		return false
	}
	o := &remote.Options{Stdin: is("input", "stdin"), Stdout: is("output", "stdout"), Stderr: is("error", "stderr"), TTY: is("tty")}
	if o.TTY {
		o.Stderr = false // a terminal is one stream
	}
	return o
}

func (a *Agent) serveSession(w http.ResponseWriter, r *http.Request, s session) {
	o := streamOptions(r.URL.Query())
	if !o.Stdin && !o.Stdout && !o.Stderr {
		http.Error(w, "you must specify at least one of stdin, stdout, stderr", http.StatusBadRequest)
		return
	}
	if wsstream.IsWebSocketRequest(r) {
		serveWebSocket(w, r, o, s)
		return
	}
	remote.ServeExec(w, r, spdySession{a: a, run: s}, "", "", "", nil, o, streamIdle, streamCreate, remote.SupportedStreamingProtocols)
}

// spdySession lets a session be driven by the SPDY server.
type spdySession struct {
	a   *Agent
	run session
}

// ExecInContainer implements remotecommand.Executor.
func (s spdySession) ExecInContainer(ctx context.Context, _, _, _ string, _ []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remote.TerminalSize, _ time.Duration) error {
	t := terminal{tty: tty}
	// An interface that holds a nil is not nil: only what is there is passed on.
	if in != nil {
		t.stdin = in
	}
	if out != nil {
		t.stdout = out
	}
	if errOut != nil {
		t.stderr = errOut
	}
	sizes := make(chan runtime.Size)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t.resize = sizes
	s.a.work.Go(func() error {
		for {
			select {
			case size, ok := <-resize:
				if !ok {
					return nil
				}
				select {
				case sizes <- runtime.Size{Width: uint32(size.Width), Height: uint32(size.Height)}:
				case <-ctx.Done():
					return nil
				}
			case <-ctx.Done():
				return nil
			}
		}
	})
	code, err := s.run(ctx, t)
	if err == nil && code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
	}
	return err
}

// The channels of the WebSocket protocols, first byte of every message.
const (
	channelStdin = iota
	channelStdout
	channelStderr
	channelError
	channelResize
)

// serveWebSocket runs a session over a WebSocket: v5.channel.k8s.io, in which
// a client can close its input alone, v4, and their elders.
func serveWebSocket(w http.ResponseWriter, r *http.Request, o *remote.Options, run session) {
	channels := []wsstream.ChannelType{wsstream.IgnoreChannel, wsstream.IgnoreChannel, wsstream.IgnoreChannel, wsstream.WriteChannel, wsstream.ReadChannel}
	if o.Stdin {
		channels[channelStdin] = wsstream.ReadChannel
	}
	if o.Stdout {
		channels[channelStdout] = wsstream.WriteChannel
	}
	if o.Stderr {
		channels[channelStderr] = wsstream.WriteChannel
	}
	protocols := map[string]wsstream.ChannelProtocolConfig{}
	for _, v := range []string{"", "channel.k8s.io", "v4.channel.k8s.io", "v5.channel.k8s.io"} {
		protocols[v] = wsstream.ChannelProtocolConfig{Binary: true, Channels: channels}
	}
	for _, v := range []string{"base64.channel.k8s.io", "v4.base64.channel.k8s.io"} {
		protocols[v] = wsstream.ChannelProtocolConfig{Channels: channels}
	}
	conn := wsstream.NewConn(protocols)
	conn.SetIdleTimeout(streamIdle)
	protocol, streams, err := conn.Open(w, r)
	if err != nil {
		return // the client has been answered
	}
	defer conn.Close()
	t := terminal{tty: o.TTY}
	if o.Stdin {
		t.stdin = streams[channelStdin]
	}
	if o.Stdout {
		t.stdout = streams[channelStdout]
		streams[channelStdout].Write(nil) // tells the client that it is connected
	}
	if o.Stderr {
		t.stderr = streams[channelStderr]
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	sizes := make(chan runtime.Size)
	t.resize = sizes
	gone := make(chan struct{})
	watch := newGroup()
	watch.Go(func() error { defer close(gone); readSizes(ctx, streams[channelResize], sizes); cancel(); return nil })
	code, err := run(ctx, t)
	writeExit(streams[channelError], protocol, code, err)
	conn.Close()
	cancel()
	watch.Wait()
}

// readSizes reads the terminal's sizes until the connection ends.
func readSizes(ctx context.Context, from io.Reader, to chan<- runtime.Size) {
	for in := json.NewDecoder(from); ; {
		var size struct{ Width, Height uint16 }
		if in.Decode(&size) != nil {
			return
		}
		select {
		case to <- runtime.Size{Width: uint32(size.Width), Height: uint32(size.Height)}:
		case <-ctx.Done():
			return
		}
	}
}

// writeExit tells how a session ended, as a Status from the fourth protocol on.
func writeExit(to io.Writer, protocol string, code int, err error) {
	s := metav1.Status{Status: metav1.StatusSuccess}
	switch {
	case err != nil:
		s = metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Code: http.StatusInternalServerError,
			Message: "error executing command in container: " + err.Error()}
	case code != 0:
		s = metav1.Status{Status: metav1.StatusFailure, Reason: remote.NonZeroExitCodeReason,
			Message: fmt.Sprintf("command terminated with non-zero exit code: command terminated with exit code %d", code),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: remote.ExitCodeCauseType, Message: strconv.Itoa(code)}}}}
	}
	switch protocol {
	case "", "channel.k8s.io", "base64.channel.k8s.io":
		if s.Status != metav1.StatusSuccess {
			io.WriteString(to, s.Message)
		}
		return
	}
	if b, err := json.Marshal(s); err == nil {
		to.Write(b)
	}
}
