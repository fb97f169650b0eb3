package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ErrRoot: the container must not run as root, and would.
var ErrRoot = errors.New("container has runAsNonRoot and image will run as root")

// ErrNamedUser: the container must not run as root, and the image names its
// user in letters, which only the image's own files can resolve.
var ErrNamedUser = errors.New("container has runAsNonRoot and image has non-numeric user, cannot verify user is non-root")

// ErrNoCommand: neither the pod nor the image says what to run.
var ErrNoCommand = errors.New("no command specified")

// shimGroup is the annotation by which containerd's shim serves all containers
// of a pod in one process.
const shimGroup = "io.containerd.runc.v2.group"

// defaultPath is what a process finds programs in when its image does not say.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// spec builds the OCI configuration of a container.
func (c *Client) spec(ctx context.Context, k Container) (*oci.Spec, error) {
	ctx = namespaces.WithNamespace(ctx, Namespace)
	s, err := oci.GenerateSpec(ctx, nil, &containers.Container{ID: k.ID}, oci.WithCgroup(k.Cgroup))
	if err != nil {
		return nil, fmt.Errorf("container configuration: %w", err)
	}
	s.Annotations = map[string]string{}
	if k.Group != "" {
		s.Annotations[shimGroup] = k.Group
	}
	p := s.Process
	p.Rlimits = nil // as containerd itself has them
	p.Terminal = k.TTY
	p.Args = argv(k)
	if len(p.Args) == 0 {
		return nil, ErrNoCommand
	}
	p.Env = environment(k)
	p.Cwd = "/"
	for _, dir := range []string{k.Image.Config.WorkingDir, k.Dir} {
		if dir != "" {
			p.Cwd = dir
		}
	}
	score := max(k.Resources.OOMScoreAdj, lowestOOMScore())
	p.OOMScoreAdj = &score
	s.Hostname = k.Hostname
	s.Linux.Namespaces = k.namespaces()
	setMounts(s, k)
	setResources(s, k.Resources)
	if err := c.setUser(ctx, s, k); err != nil {
		return nil, err
	}
	return s, setSecurity(ctx, s, k)
}

// lowestOOMScore is the lowest oom_score_adj that this process may give: lower
// than its own only with CAP_SYS_RESOURCE, without which the kernel would
// refuse the whole container. containerd is taken to have what we have.
var lowestOOMScore = sync.OnceValue(func() int {
	const lowest = -1000
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0 {
		return lowest
	}
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0
	}
	own, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return own
})

// argv merges command and args as Kubernetes does: a command replaces the
// image's entrypoint and its arguments, args only the arguments.
func argv(k Container) []string {
	entry, args := k.Image.Config.Entrypoint, k.Image.Config.Cmd
	if len(k.Command) > 0 {
		entry, args = k.Command, nil
	}
	if len(k.Args) > 0 {
		args = k.Args
	}
	return slices.Concat(entry, args)
}

func environment(k Container) []string {
	env := []string{defaultPath}
	if k.TTY {
		env = append(env, "TERM=xterm")
	}
	at := map[string]int{"PATH": 0}
	for _, e := range slices.Concat(env[1:], k.Image.Config.Env, k.Env) {
		name, _, _ := strings.Cut(e, "=")
		if i, ok := at[name]; ok {
			env[i] = e
			continue
		}
		at[name] = len(env)
		env = append(env, e)
	}
	if k.TTY {
		return env
	}
	return slices.DeleteFunc(env, func(e string) bool { return e == "" })
}

func (k Container) namespaces() []specs.LinuxNamespace {
	out := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, n := range []specs.LinuxNamespace{
		{Type: specs.NetworkNamespace, Path: k.Net},
		{Type: specs.IPCNamespace, Path: k.IPC},
		{Type: specs.UTSNamespace, Path: k.UTS},
	} {
		if n.Path != "" {
			out = append(out, n)
		}
	}
	if cgroup2Only() {
		// Each container sees its own cgroup as the root, as with other runtimes. With
		// the old hierarchies the files would not match what is mounted.
		out = append(out, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	switch {
	case k.PID == nil:
		out = append(out, specs.LinuxNamespace{Type: specs.PIDNamespace})
	case *k.PID != "":
		out = append(out, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: *k.PID})
	}
	return out
}

// setMounts puts the container's mounts over the default ones, parents first.
func setMounts(s *oci.Spec, k Container) {
	given := map[string]bool{}
	for _, m := range k.Mounts {
		given[path.Clean(m.Destination)] = true
	}
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool {
		// /run is the image's own: as with other runtimes of Kubernetes.
		return m.Destination == "/run" || given[path.Clean(m.Destination)]
	})
	if k.Net == "" {
		// In the host's network sysfs cannot be mounted anew.
		for i, m := range s.Mounts {
			if m.Destination == "/sys" {
				s.Mounts[i] = specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"nosuid", "noexec", "nodev", "ro", "rbind"}}
			}
		}
	}
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
		Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}})
	mounts := slices.Clone(k.Mounts)
	slices.SortStableFunc(mounts, func(a, b specs.Mount) int {
		return strings.Count(path.Clean(a.Destination), "/") - strings.Count(path.Clean(b.Destination), "/")
	})
	s.Mounts = append(s.Mounts, mounts...)
	for _, m := range mounts {
		switch {
		case slices.Contains(m.Options, "rshared"):
			s.Linux.RootfsPropagation = "rshared"
		case slices.Contains(m.Options, "rslave") && s.Linux.RootfsPropagation == "":
			s.Linux.RootfsPropagation = "rslave"
		}
	}
}

func setResources(s *oci.Spec, r Resources) {
	shares := r.CPUShares
	cpu := &specs.LinuxCPU{Shares: &shares}
	if r.CPUQuota > 0 {
		cpu.Quota, cpu.Period = &r.CPUQuota, &r.CPUPeriod
	}
	s.Linux.Resources.CPU = cpu
	if r.Memory > 0 {
		// Swap is not for containers: the two limits are one.
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &r.Memory, Swap: &r.Memory}
	}
}

// setUser resolves who runs: the pod's numbers, or what the image names, which
// needs the image's own /etc/passwd.
func (c *Client) setUser(ctx context.Context, s *oci.Spec, k Container) error {
	sec, image := k.Security, k.Image.Config.User
	var groups []uint32
	for _, g := range sec.Groups {
		groups = append(groups, uint32(g))
	}
	who, group, _ := strings.Cut(image, ":")
	if sec.User != nil {
		who, group = strconv.FormatInt(*sec.User, 10), ""
	}
	if sec.MustNotRunAsRoot && sec.User == nil {
		if _, err := strconv.Atoi(who); err != nil && who != "" {
			return fmt.Errorf("%w (image's user: %q)", ErrNamedUser, who)
		}
	}
	u := specs.User{}
	if who != "" && who != "0" && who != "root" || group != "" {
		found, err := c.lookUser(ctx, k.Image, who, group)
		if err != nil {
			return err
		}
		u = found
	}
	if sec.Group != nil {
		u.GID = uint32(*sec.Group)
	}
	if sec.MustNotRunAsRoot && u.UID == 0 {
		return ErrRoot
	}
	for _, g := range append([]uint32{u.GID}, groups...) {
		if !slices.Contains(u.AdditionalGids, g) {
			u.AdditionalGids = append(u.AdditionalGids, g)
		}
	}
	s.Process.User = u
	return nil
}

// lookUser reads the image's passwd and group files from a read-only view.
func (c *Client) lookUser(ctx context.Context, i *Image, who, group string) (specs.User, error) {
	key := "user-" + i.chain
	sn := c.c.SnapshotService("overlayfs")
	mounts, err := sn.View(ctx, key, i.chain, snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "rutter"}))
	if err != nil {
		mounts, err = sn.Mounts(ctx, key)
	}
	if err != nil {
		return specs.User{}, fmt.Errorf("read the image's users: %w", err)
	}
	defer sn.Remove(ctx, key)
	var u specs.User
	err = mount.WithReadonlyTempMount(ctx, mounts, func(root string) error {
		spec := who
		if group != "" {
			spec += ":" + group
		}
		found, err := user.GetExecUserPath(spec, &user.ExecUser{}, path.Join(root, "etc/passwd"), path.Join(root, "etc/group"))
		if err != nil {
			return err
		}
		u.UID, u.GID = uint32(found.Uid), uint32(found.Gid)
		for _, g := range found.Sgids {
			u.AdditionalGids = append(u.AdditionalGids, uint32(g))
		}
		return nil
	})
	if err != nil {
		return specs.User{}, fmt.Errorf("the image's user %q: %w", who, err)
	}
	return u, nil
}

func setSecurity(ctx context.Context, s *oci.Spec, k Container) error {
	sec := k.Security
	s.Process.NoNewPrivileges = sec.NoNewPrivileges
	s.Root.Readonly = sec.ReadOnlyRoot
	if sec.UnmaskProc || sec.Privileged {
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
	}
	var opts []oci.SpecOpts
	if sec.Privileged {
		opts = append(opts, oci.WithAllCurrentCapabilities, oci.WithWriteableSysfs, oci.WithWriteableCgroupfs,
			oci.WithAllDevicesAllowed, oci.WithHostDevices, oci.WithSeccompUnconfined)
	} else {
		opts = append(opts, oci.WithDefaultUnixDevices)
		add, drop := capNames(sec.AddCaps), capNames(sec.NoCaps)
		if slices.Contains(drop, "CAP_ALL") {
			opts = append(opts, oci.WithCapabilities(nil))
		}
		if slices.Contains(add, "CAP_ALL") {
			opts = append(opts, oci.WithCapabilities(cap.Known()))
		}
		not := func(all string) func(string) bool { return func(n string) bool { return n == all } }
		opts = append(opts,
			oci.WithAddedCapabilities(slices.DeleteFunc(slices.Clone(add), not("CAP_ALL"))),
			oci.WithDroppedCapabilities(slices.DeleteFunc(slices.Clone(drop), not("CAP_ALL"))))
	}
	for _, o := range opts {
		if err := o(ctx, nil, nil, s); err != nil {
			return fmt.Errorf("container security: %w", err)
		}
	}
	if s.Process.User.UID != 0 && !sec.Privileged {
		// The kernel drops these at exec for another user than root anyhow;
		// saying so keeps what inspects the container truthful.
		s.Process.Capabilities.Ambient = nil
	}
	return nil
}

func capNames(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = "CAP_" + strings.TrimPrefix(strings.ToUpper(n), "CAP_")
	}
	return out
}
