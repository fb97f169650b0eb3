package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/services/nodeagent/logs"
	"github.com/rutterhq/rutter/services/nodeagent/runtime"
)

// progress is a Seq that only grows.
type progress struct{ seq atomic.Uint64 }

func (p *progress) reach(s kernel.Seq) { p.seq.Store(uint64(s)) }
func (p *progress) at() kernel.Seq     { return kernel.Seq(p.seq.Load()) }

func (f *folders) containerdSocket() string {
	return filepath.Join(f.run, "containerd", "containerd.sock")
}
func (f *folders) containerdPID() string { return filepath.Join(f.run, "containerd", "pid") }

// containerdStart bounds how long containerd may take to answer.
const containerdStart = 20 * time.Second

// startContainerd starts a containerd of our own, unless the one that an
// earlier process started still answers. It outlives us, as its containers do.
func startContainerd(ctx context.Context, f *folders, lg zerolog.Logger) (string, error) {
	socket := f.containerdSocket()
	if answers(socket) {
		return socket, nil
	}
	run := filepath.Dir(socket)
	if err := os.MkdirAll(run, 0o711); err != nil {
		return "", err
	}
	config := fmt.Sprintf(`version = 2
root = %q
state = %q
oom_score = -999
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = %q
`, filepath.Join(f.data, "containerd"), filepath.Join(run, "state"), socket)
	file := filepath.Join(run, "config.toml")
	if err := writeWhole(file, []byte(config)); err != nil {
		return "", err
	}
	out, err := os.OpenFile(filepath.Join(run, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	defer out.Close()
	cmd := exec.Command("containerd", "--config", file)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // signals to us are not for it
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("containerd: %w", err)
	}
	if err := writeWhole(f.containerdPID(), []byte(strconv.Itoa(cmd.Process.Pid))); err != nil {
		return "", err
	}
	lg.Info().Str("socket", socket).Int("pid", cmd.Process.Pid).Msg("containerd started")
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // reaps it; ends with it
	for deadline := time.Now().Add(containerdStart); time.Now().Before(deadline); {
		if answers(socket) {
			return socket, nil
		}
		select {
		case err := <-ended:
			return "", fmt.Errorf("containerd ended at once (see %s): %v", out.Name(), err)
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	return "", fmt.Errorf("containerd does not answer (see %s)", out.Name())
}

func answers(socket string) bool {
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return false
	}
	return c.Close() == nil
}

// pidOf reads a file that holds a process id; 0 if that process is gone.
func pidOf(file string) int {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || syscall.Kill(pid, 0) != nil {
		return 0
	}
	return pid
}

func imageCommand() *cobra.Command {
	c := &cobra.Command{Use: "image", Short: "Look after the images of this node"}
	var f folders
	var socket string
	c.PersistentFlags().StringVar(&socket, "containerd", "", "socket of the containerd; empty: our own")
	f.flags(c.PersistentFlags())
	client := func() (*runtime.Client, error) {
		if socket == "" {
			socket = f.containerdSocket()
		}
		return runtime.New(socket, f.run, nil)
	}
	c.AddCommand(&cobra.Command{Use: "import FILE...", Short: "Import images from archives (OCI or docker save)", Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, files []string) error {
			rt, err := client()
			if err != nil {
				return err
			}
			defer rt.Close()
			for i, file := range files {
				names, err := rt.Import(c.Context(), file)
				if err != nil {
					return fmt.Errorf("%s: %w", file, err)
				}
				fmt.Fprintf(c.OutOrStdout(), "[%d/%d] %s\n", i+1, len(files), strings.Join(names, " "))
			}
			return nil
		}})
	c.AddCommand(&cobra.Command{Use: "list", Short: "List the images of this node", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			rt, err := client()
			if err != nil {
				return err
			}
			defer rt.Close()
			images, err := rt.Images(c.Context())
			if err != nil {
				return err
			}
			for _, i := range images {
				fmt.Fprintln(c.OutOrStdout(), strings.Join(i.Names, " "))
			}
			return nil
		}})
	return c
}

// keeperCommand is the process that keeps container logs while no agent runs.
func keeperCommand() *cobra.Command {
	return &cobra.Command{Use: "keeper RUN", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return logs.RunKeeper(c.Context(), args[0]) }}
}
