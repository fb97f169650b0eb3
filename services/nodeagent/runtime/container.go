package runtime

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/rutterhq/rutter/services/nodeagent/logs"
)

// Container is all that Start needs: resolved, with no references left.
type Container struct {
	ID      string
	Labels  map[string]string
	Image   *Image
	LogPath string
	Cgroup  string // absolute in the hierarchies, such as /rutter/n1/<pod>/<container>
	Group   string // containers of one group share a shim: the pod's uid

	Command, Args []string // replace the image's entrypoint and command
	Env           []string // NAME=value, over the image's
	Dir           string
	TTY           bool
	Stdin         bool
	StdinOnce     bool

	// Namespaces as files; an empty path is the host's, and a nil PID a new one.
	Net, IPC, UTS string
	Hostname      string // set in UTS; empty: left as it is
	PID           *string
	Mounts        []specs.Mount
	Security      Security
	Resources     Resources
}

// Security is what a process may do.
type Security struct {
	User, Group      *int64
	Groups           []int64 // supplemental
	Privileged       bool
	NoNewPrivileges  bool
	ReadOnlyRoot     bool
	AddCaps, NoCaps  []string // names without CAP_; "ALL"
	UnmaskProc       bool
	DefaultFilter    bool // the runtime's seccomp profile
	AppArmorProfile  string
	MustNotRunAsRoot bool
}

// Resources are the limits of a container.
type Resources struct {
	CPUShares   uint64 // relative weight, 1024 per CPU; v2's weight is derived from it
	CPUQuota    int64  // microseconds per period; 0: none
	CPUPeriod   uint64 // microseconds
	Memory      int64  // bytes; 0: no limit
	OOMScoreAdj int
}

// StartError says that the program of a container could not be started: what
// it names is not there, or not what the kernel can run.
type StartError struct{ Err error }

func (e *StartError) Error() string { return e.Err.Error() }
func (e *StartError) Unwrap() error { return e.Err }

// Started tells of a container that runs.
type Started struct {
	PID uint32
	At  time.Time
}

// Start makes a container and starts its process. If the id is taken, by a
// start that was cut off, what is there is removed first.
func (c *Client) Start(ctx context.Context, k Container) (Started, error) {
	spec, err := c.spec(ctx, k)
	if err != nil {
		return Started{}, err
	}
	stream := logs.Stream{ID: k.ID, Dir: filepath.Join(c.runDir, "fifo", k.ID), Path: k.LogPath, TTY: k.TTY, Stdin: k.Stdin}
	if err := c.keeper.Open(ctx, stream); err != nil {
		return Started{}, err
	}
	opts := []containerd.NewContainerOpts{
		containerd.WithContainerLabels(k.Labels),
		containerd.WithImageName(k.Image.Name),
		withSnapshot(k.ID, k.Image),
		containerd.WithSpec(spec),
	}
	ctr, err := c.c.NewContainer(ctx, k.ID, opts...)
	if errdefs.IsAlreadyExists(err) {
		if err := c.Remove(ctx, k.ID); err != nil {
			return Started{}, err
		}
		c.c.SnapshotService("").Remove(ctx, k.ID)
		ctr, err = c.c.NewContainer(ctx, k.ID, opts...)
	}
	if err != nil {
		c.keeper.Drop(ctx, stream)
		return Started{}, fmt.Errorf("create container %s: %w", k.ID, err)
	}
	started, err := c.run(ctx, ctr, k, stream)
	if err != nil {
		// What the failed start left must go even if the caller's time is over.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialTimeout)
		defer cancel()
		c.keeper.Drop(clean, stream)
		c.Remove(clean, k.ID)
	}
	return started, err
}

func (c *Client) run(ctx context.Context, ctr containerd.Container, k Container, stream logs.Stream) (Started, error) {
	creator := func(string) (cio.IO, error) {
		config := cio.Config{Terminal: k.TTY, Stdout: stream.FIFO("stdout")}
		if !k.TTY {
			config.Stderr = stream.FIFO("stderr")
		}
		if k.Stdin {
			config.Stdin = stream.FIFO("stdin")
		}
		return cio.Load(cio.NewFIFOSet(config, nil))
	}
	t, err := ctr.NewTask(ctx, creator)
	if err != nil {
		return Started{}, &StartError{fmt.Errorf("failed to create containerd task: %w", err)}
	}
	if err := inCgroup2(t.Pid(), k.Cgroup); err != nil {
		return Started{}, err
	}
	if err := t.Start(ctx); err != nil {
		return Started{}, &StartError{fmt.Errorf("failed to start containerd task %q: %w", k.ID, err)}
	}
	return Started{PID: t.Pid(), At: time.Now()}, nil
}

// withSnapshot gives a container its writable layer. It knows the image's top
// layer, where the client's own option would read the image again.
func withSnapshot(id string, i *Image) containerd.NewContainerOpts {
	return func(ctx context.Context, c *containerd.Client, r *containers.Container) error {
		r.Snapshotter = "overlayfs"
		if _, err := c.SnapshotService(r.Snapshotter).Prepare(ctx, id, i.chain); err != nil {
			return err
		}
		r.SnapshotKey = id
		r.Image = i.Name
		return nil
	}
}

// StdinPath is the FIFO of a container's input, for those who attach.
func (c *Client) StdinPath(id string) string {
	return filepath.Join(c.runDir, "fifo", id, "stdin")
}

// CloseStdin ends a container's input.
func (c *Client) CloseStdin(ctx context.Context, id string) error {
	t, err := c.task(ctx, id)
	if err != nil {
		return fmt.Errorf("close the input of container %s: %w", id, err)
	}
	return t.CloseIO(ctx, containerd.WithStdinCloser)
}

// Resize sets the size of a container's terminal.
func (c *Client) Resize(ctx context.Context, id string, width, height uint32) error {
	t, err := c.task(ctx, id)
	if err != nil {
		return fmt.Errorf("resize container %s: %w", id, err)
	}
	return t.Resize(ctx, width, height)
}

// SetLabels adds labels to a container.
func (c *Client) SetLabels(ctx context.Context, id string, labels map[string]string) error {
	record, err := c.c.ContainerService().Get(ctx, id)
	if err != nil {
		return fmt.Errorf("label container %s: %w", id, err)
	}
	record.Labels = maps.Clone(record.Labels)
	var paths []string
	for k, v := range labels {
		record.Labels[k] = v
		paths = append(paths, "labels."+k)
	}
	if _, err := c.c.ContainerService().Update(ctx, record, paths...); err != nil {
		return fmt.Errorf("label container %s: %w", id, err)
	}
	return nil
}
