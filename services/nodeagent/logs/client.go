package logs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Client speaks to the keeper of one run folder and starts it when there is
// none.
type Client struct {
	dir     string
	command []string

	mu   sync.Mutex // protects the following fields; one request at a time
	conn net.Conn
	in   *bufio.Reader
	pid  int // of the keeper this client started and has not reaped; 0: none
}

// keeperStart bounds how long a keeper may take from its start to its socket.
const keeperStart = 10 * time.Second

// NewClient returns a client for the keeper of runDir. command is what starts
// a keeper, the folder excluded: a program that calls RunKeeper with its last
// argument.
func NewClient(runDir string, command []string) *Client {
	return &Client{dir: runDir, command: command}
}

// Dir is the run folder.
func (c *Client) Dir() string { return c.dir }

// Open makes the FIFOs of a stream and has the keeper read them. It may be
// called again for a stream that is open.
func (c *Client) Open(ctx context.Context, s Stream) error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return fmt.Errorf("fifo folder: %w", err)
	}
	names := []string{"stdout"}
	if !s.TTY {
		names = append(names, "stderr")
	}
	if s.Stdin {
		names = append(names, "stdin")
	}
	for _, name := range names {
		if err := unix.Mkfifo(s.FIFO(name), 0o600); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make fifo %s: %w", s.FIFO(name), err)
		}
	}
	return c.do(ctx, request{Op: "open", Stream: s})
}

// Drained waits, at most a second, until all that a dead container wrote is in
// its log. It has a connection of its own, so that nobody waits behind it.
func (c *Client) Drained(ctx context.Context, id string) error {
	own := &Client{dir: c.dir}
	if own.dial(ctx) != nil {
		return nil // without a keeper there is nothing to wait for
	}
	defer own.drop()
	if _, err := own.exchange(ctx, request{Op: "drained", Stream: Stream{ID: id}}); err != nil {
		return fmt.Errorf("log keeper: %w", err)
	}
	return nil
}

// Drop gives up a stream whose container could not be started.
func (c *Client) Drop(ctx context.Context, s Stream) error {
	return c.do(ctx, request{Op: "drop", Stream: s})
}

// Start makes sure that a keeper runs, which takes up the streams that one
// before it left.
func (c *Client) Start(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connect(ctx)
}

// Stop ends the keeper, if one runs.
func (c *Client) Stop(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil && c.dial(ctx) != nil {
		return nil
	}
	_, err := c.exchange(ctx, request{Op: "stop"})
	c.drop()
	return err
}

func (c *Client) do(ctx context.Context, r request) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for again := false; ; again = true {
		if err := c.connect(ctx); err != nil {
			return err
		}
		answer, err := c.exchange(ctx, r)
		if err == nil {
			if answer.Error != "" {
				return fmt.Errorf("log keeper: %s", answer.Error)
			}
			return nil
		}
		// The keeper died since the last request: once more with a new one.
		c.drop()
		if again || ctx.Err() != nil {
			return fmt.Errorf("log keeper: %w", err)
		}
	}
}

func (c *Client) exchange(ctx context.Context, r request) (reply, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(keeperStart)
	}
	c.conn.SetDeadline(deadline)
	b, err := json.Marshal(r)
	if err != nil {
		return reply{}, err
	}
	if _, err := c.conn.Write(append(b, '\n')); err != nil {
		return reply{}, err
	}
	line, err := c.in.ReadBytes('\n')
	if err != nil {
		return reply{}, err
	}
	var answer reply
	return answer, json.Unmarshal(line, &answer)
}

func (c *Client) drop() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
		c.reap()
	}
}

func (c *Client) dial(ctx context.Context) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", SocketPath(c.dir))
	if err != nil {
		return err
	}
	c.conn, c.in = conn, bufio.NewReader(conn)
	return nil
}

// connect dials the keeper and starts one if nobody answers.
func (c *Client) connect(ctx context.Context) error {
	if c.conn != nil || c.dial(ctx) == nil {
		return nil
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return fmt.Errorf("log keeper: %w", err)
	}
	cmd := exec.Command(c.command[0], append(c.command[1:len(c.command):len(c.command)], c.dir)...)
	cmd.Dir = "/"
	// A session of its own: what ends the agent's terminal or process group
	// does not end the keeper.
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	cmd.Env = append(os.Environ(), "GOMAXPROCS=2", "GOGC=50")
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the log keeper: %w", err)
	}
	c.pid = cmd.Process.Pid
	cmd.Process.Release()
	ctx, cancel := context.WithTimeout(ctx, keeperStart)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("log keeper does not answer: %w", ctx.Err())
		case <-tick.C:
			if c.dial(ctx) == nil {
				return nil
			}
			if c.reap() {
				return errors.New("log keeper ended at its start")
			}
		}
	}
}

// reap takes the exit status of the keeper this client started, so that no
// zombie stays, and tells whether it had ended.
func (c *Client) reap() bool {
	if c.pid == 0 {
		return false
	}
	if pid, err := unix.Wait4(c.pid, nil, unix.WNOHANG, nil); pid != c.pid && err == nil {
		return false
	}
	c.pid = 0
	return true
}
