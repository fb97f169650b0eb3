package runtime

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"

	"github.com/rutterhq/rutter/services/nodeagent/logs"
)

// Namespace is containerd's namespace for all that is ours.
const Namespace = "rutter"

// dialTimeout bounds how long New waits for containerd to answer.
const dialTimeout = 10 * time.Second

// Labels of our containers.
const (
	LabelNode         = "rutter.dev/node" // several simulated nodes may share a containerd
	LabelPodUID       = "rutter.dev/pod-uid"
	LabelPodNamespace = "rutter.dev/pod-namespace"
	LabelPodName      = "rutter.dev/pod-name"
	LabelContainer    = "rutter.dev/container"
	LabelAttempt      = "rutter.dev/attempt"
	labelExit         = "rutter.dev/exit" // JSON of Exit, once it ended
)

// Client is a connection to one containerd.
type Client struct {
	c      *containerd.Client
	keeper *logs.Client
	runDir string

	mu     sync.Mutex        // protects the following fields
	images map[string]*Image // by name and digest
	sizes  map[string]int64  // of images, by digest
	pulls  map[string]*sync.Mutex
}

// New connects to containerd. The connection heals itself when containerd is
// restarted. Execs and outputs get FIFOs below runDir.
func New(socket, runDir string, keeper *logs.Client) (*Client, error) {
	log.SetLevel("error") // what else containerd's client has to say, its errors say
	c, err := containerd.New(socket, containerd.WithDefaultNamespace(Namespace), containerd.WithTimeout(dialTimeout))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", socket, err)
	}
	for _, dir := range []string{"fifo", "exec"} {
		if err := os.MkdirAll(filepath.Join(runDir, dir), 0o700); err != nil {
			return nil, fmt.Errorf("run folder: %w", err)
		}
	}
	return &Client{c: c, keeper: keeper, runDir: runDir, images: map[string]*Image{}, sizes: map[string]int64{}, pulls: map[string]*sync.Mutex{}}, nil
}

// Close ends the connection; containers go on.
func (c *Client) Close() error { return c.c.Close() }

// Version tells containerd's version, and that it answers.
func (c *Client) Version(ctx context.Context) (string, error) {
	v, err := c.c.Version(ctx)
	if err != nil {
		return "", fmt.Errorf("containerd's version: %w", err)
	}
	return v.Version, nil
}

// Exit is how a container ended.
type Exit struct {
	Code       int32
	FinishedAt time.Time
	OOM        bool   // its memory limit killed it
	Lost       bool   // nobody knows: the machine was restarted under it
	Reason     string // instead of Completed, Error or OOMKilled
	Message    string
}

// Info is one container as containerd has it.
type Info struct {
	ID        string
	Labels    map[string]string
	ImageRef  string
	CreatedAt time.Time
	Running   bool
	PID       uint32
	Exit      *Exit // it ended and was reaped
	// Ended: it ended, or never started, and waits to be reaped.
	Ended bool
}

// List returns all containers of ours.
func (c *Client) List(ctx context.Context) ([]Info, error) {
	found, err := c.c.ContainerService().List(ctx, "labels.\""+LabelPodUID+"\"")
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	running, err := c.running(ctx)
	if err != nil {
		return nil, err
	}
	infos := make([]Info, 0, len(found))
	for _, record := range found {
		info := infoOf(record)
		info.PID, info.Running = running[record.ID], running[record.ID] != 0
		info.Ended = !info.Running && info.Exit == nil
		infos = append(infos, info)
	}
	return infos, nil
}

// running asks once for all processes that run, by container.
func (c *Client) running(ctx context.Context) (map[string]uint32, error) {
	ctx = namespaces.WithNamespace(ctx, Namespace)
	answer, err := c.c.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	out := map[string]uint32{}
	for _, t := range answer.Tasks {
		switch t.Status {
		case task.Status_RUNNING, task.Status_PAUSED, task.Status_PAUSING:
			out[t.ID] = t.Pid
		}
	}
	return out, nil
}

// Running tells whether a container's process runs.
func (c *Client) Running(ctx context.Context, id string) (bool, error) {
	i := Info{ID: id}
	err := c.state(ctx, &i)
	return i.Running, err
}

func infoOf(r containers.Container) Info {
	i := Info{ID: r.ID, Labels: r.Labels, ImageRef: r.Image, CreatedAt: r.CreatedAt}
	i.Exit = parseExit(r.Labels[labelExit])
	return i
}

// state asks what a container's process does.
func (c *Client) state(ctx context.Context, i *Info) error {
	t, err := c.task(ctx, i.ID)
	if errdefs.IsNotFound(err) {
		i.Ended = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("state of container %s: %w", i.ID, err)
	}
	s, err := t.Status(ctx)
	if errdefs.IsNotFound(err) {
		i.Ended = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("state of container %s: %w", i.ID, err)
	}
	i.PID = t.Pid()
	switch s.Status {
	case containerd.Running, containerd.Paused, containerd.Pausing:
		i.Running = true
	default:
		// Created, too: whoever created it died before starting it.
		i.Ended = true
	}
	return nil
}

func (c *Client) task(ctx context.Context, id string) (containerd.Task, error) {
	ctr, err := c.c.LoadContainer(ctx, id)
	if err != nil {
		return nil, err
	}
	return ctr.Task(ctx, nil)
}

// Watch calls ended for every container whose first process ends, until ctx
// ends or containerd goes away. ready is called once no exit can be missed
// any more; what ended before must be found with List.
func (c *Client) Watch(ctx context.Context, ready func(), ended func(id string)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ch, errs := c.c.Subscribe(ctx, `topic=="/tasks/exit"`)
	ready()
	for {
		select {
		case e := <-ch:
			v, err := typeurl.UnmarshalAny(e.Event)
			if err != nil {
				continue // an event of a kind that we did not ask for
			}
			if x, ok := v.(*events.TaskExit); ok && x.ID == x.ContainerID {
				ended(x.ContainerID)
			}
		case err := <-errs:
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("containerd's events: %w", err)
		}
	}
}

// Signal sends a signal to a container's first process; all to every process
// in it. A container that is not running is left alone.
func (c *Client) Signal(ctx context.Context, id string, sig syscall.Signal, all bool) error {
	t, err := c.task(ctx, id)
	if err == nil {
		var opts []containerd.KillOpts
		if all {
			opts = append(opts, containerd.WithKillAll)
		}
		err = t.Kill(ctx, sig, opts...)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("signal container %s: %w", id, err)
	}
	return nil
}

// Reap takes the exit of a container that has ended, keeps it in a label and
// frees what the process held. The container's files stay. Reaping twice gives
// the same answer.
func (c *Client) Reap(ctx context.Context, id, cgroup string) (Exit, error) {
	record, err := c.c.ContainerService().Get(ctx, id)
	if err != nil {
		return Exit{}, fmt.Errorf("reap container %s: %w", id, err)
	}
	if x := parseExit(record.Labels[labelExit]); x != nil {
		return *x, nil
	}
	x := Exit{Code: 255, FinishedAt: time.Now(), Lost: true, Reason: "ContainerStatusUnknown",
		Message: "The container could not be located when the node was looked at"}
	oom := oomKilled(cgroup)
	t, err := c.task(ctx, id)
	if err == nil {
		var status *containerd.ExitStatus
		status, err = t.Delete(ctx, containerd.WithProcessKill)
		if err == nil {
			x = Exit{Code: int32(status.ExitCode()), FinishedAt: status.ExitTime(), OOM: oom}
		}
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return Exit{}, fmt.Errorf("reap container %s: %w", id, err)
	}
	if err := c.keeper.Drained(ctx, id); err != nil {
		return Exit{}, err
	}
	record.Labels = maps.Clone(record.Labels)
	record.Labels[labelExit] = x.String()
	if _, err := c.c.ContainerService().Update(ctx, record, "labels."+labelExit); err != nil {
		return Exit{}, fmt.Errorf("keep the exit of container %s: %w", id, err)
	}
	return x, nil
}

// Remove kills a container if it runs and removes all that is left of it, its
// log excepted. It is no error if there is none.
func (c *Client) Remove(ctx context.Context, id string) error {
	ctr, err := c.c.LoadContainer(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	if t, err := ctr.Task(ctx, nil); err == nil {
		if _, err := t.Delete(ctx, containerd.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove container %s: %w", id, err)
		}
	} else if !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	if err := ctr.Delete(ctx, containerd.WithSnapshotCleanup); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	return nil
}

// RemoveCgroup removes an empty cgroup and the empty ones below it, in every
// hierarchy.
func RemoveCgroup(path string) {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*")
	roots = append(roots, "/sys/fs/cgroup")
	for _, root := range roots {
		var below []string
		filepath.WalkDir(filepath.Join(root, path), func(p string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				below = append(below, p)
			}
			return nil
		})
		slices.Reverse(below)
		for _, dir := range below {
			syscall.Rmdir(dir)
		}
	}
}

// cgroup2Only tells whether all controllers are in the v2 hierarchy.
func cgroup2Only() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// cgroupFile finds a controller's file for a cgroup, on v1, hybrid and v2 hosts.
func cgroupFile(controller, cgroup, v1, v2 string) string {
	if cgroup2Only() {
		return filepath.Join("/sys/fs/cgroup", cgroup, v2)
	}
	return filepath.Join("/sys/fs/cgroup", controller, cgroup, v1)
}

// oomKilled tells whether the memory limit of a cgroup has killed. It is read
// before the cgroup goes, because the kernel's notice may come later than the
// exit it explains.
func oomKilled(cgroup string) bool {
	if cgroup == "" {
		return false
	}
	b, err := os.ReadFile(cgroupFile("memory", cgroup, "memory.oom_control", "memory.events"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			return n != "0"
		}
	}
	return false
}

// inCgroup2 checks that a process is in the cgroup of the v2 hierarchy, where
// programs that rewrite service addresses are attached.
func inCgroup2(pid uint32, cgroup string) error {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return fmt.Errorf("cgroup of the new process: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if got, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok && got != cgroup {
			return fmt.Errorf("the new process is in cgroup %s of the v2 hierarchy, not in %s", got, cgroup)
		}
	}
	return nil // without a v2 hierarchy there is nothing to be in
}
