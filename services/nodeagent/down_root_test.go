//go:build e2e

package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/rutterhq/rutter/services/nodeagent/logs"
	"github.com/rutterhq/rutter/services/nodeagent/network"
	"github.com/rutterhq/rutter/services/nodeagent/runtime"
	"github.com/rutterhq/rutter/services/nodeagent/volumes"
)

// importImage loads the images of a local tar into the containerd at socket
// and returns their names.
func importImage(ctx context.Context, socket, file string) ([]string, error) {
	c, err := runtime.Dial(socket)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Import(ctx, file)
}

// down removes all that a node's agent has made on the machine, running
// containers too: containers, network, mounts, cgroups, the log keeper. Images
// and logs stay. The agent must not be running, and containerd must. It goes on
// after errors and returns them all.
func down(ctx context.Context, cfg Config) error {
	var errs []error
	add := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	keeper := logs.NewClient(cfg.RunDir, cfg.Helper)
	if rt, err := runtime.New(cfg.Containerd, cfg.RunDir, keeper); err != nil {
		add(err)
	} else {
		defer rt.Close()
		infos, err := rt.List(ctx)
		add(err)
		for _, i := range infos {
			if i.Labels[runtime.LabelNode] != cfg.Node {
				continue
			}
			add(rt.Remove(ctx, i.ID))
		}
	}
	add(downNetwork(ctx, cfg))
	pods := filepath.Join(cfg.DataDir, "pods")
	entries, err := os.ReadDir(pods)
	if err != nil && !os.IsNotExist(err) {
		add(fmt.Errorf("pods' folders: %w", err))
	}
	for _, e := range entries {
		add(volumes.Remove(filepath.Join(pods, e.Name())))
	}
	runtime.RemoveCgroup(NodeCgroup(cfg.Node))
	add(keeper.Stop(ctx))
	for _, sub := range []string{"fifo", "exec"} {
		add(os.RemoveAll(filepath.Join(cfg.RunDir, sub)))
	}
	return errors.Join(errs...)
}

// downNetwork takes the pods' network down, if there is one.
func downNetwork(ctx context.Context, cfg Config) error {
	text, err := os.ReadFile(podRangePath(&cfg))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pod range: %w", err)
	}
	r, err := netip.ParsePrefix(string(text))
	if err != nil {
		return fmt.Errorf("pod range: %w", err)
	}
	n, err := network.New(networkConfig(&cfg, r))
	if err != nil {
		return err
	}
	defer n.Close()
	if err := n.Teardown(ctx); err != nil {
		return err
	}
	return os.Remove(podRangePath(&cfg))
}
