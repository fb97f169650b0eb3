package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/events/jetstream"
	"github.com/rutterhq/rutter/internal/cli"
	"github.com/rutterhq/rutter/internal/pki"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/services/controllers"
	"github.com/rutterhq/rutter/services/scheduler"
)

// upTimeout bounds how long up --detach waits for the cluster.
const upTimeout = 90 * time.Second

// upFlags are those of rutter up.
type upFlags struct {
	folders
	logging
	profiling
	api     apiFlags
	ingress ingressFlags
	node    nodeFlags
	nats    string
	durable string
	detach  bool
}

func upCommand() *cobra.Command {
	var u upFlags
	c := &cobra.Command{Use: "up", Short: "Run a cluster of one node in this process", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if u.detach {
				return u.background(c)
			}
			return u.run(c.Context())
		}}
	u.folders.flags(c.Flags())
	u.logging.flags(c.Flags())
	u.api.flags(c)
	u.ingress.flags(c)
	u.node.flags(c, true)
	c.Flags().StringVar(&u.nats, "nats-listen", "", "loopback address at which services in processes of their own reach the log; empty: nowhere")
	c.Flags().StringVar(&u.durable, "durability", string(jetstream.Fsync),
		"what an acknowledged write survives: fsync (a power cut) or interval (LOSES the last second when the power or the machine fails)")
	u.profiling.flags(c.Flags())
	c.Flags().BoolVar(&u.detach, "detach", false, "go on in the background, and return when the cluster is ready")
	return c
}

// run is the cluster: everything in this process, until ctx ends. Containers
// and their network stay as they are.
func (u *upFlags) run(ctx context.Context) error {
	lg, err := u.logger()
	if err != nil {
		return err
	}
	unlock, err := u.lock()
	if err != nil {
		return err
	}
	defer unlock()
	schema, err := u.schema()
	if err != nil {
		return err
	}
	ca, err := pki.Open(u.pki())
	if err != nil {
		return err
	}
	if err := u.profiling.serve(ctx); err != nil {
		return err
	}
	enough := hurry()
	defer enough()
	server, err := startNATS(&u.folders, u.nats, u.durable, lg)
	if err != nil {
		return err
	}
	defer server.Close()
	nc, err := server.Connect()
	if err != nil {
		return err
	}
	log, err := jetstream.Open(ctx, nc, jetstream.Options{Budget: server.Budget(), Build: build})
	if err != nil {
		return err
	}
	defer log.Close()
	if schema.Keys, err = log.Keys(ctx, schema.Seal); err != nil {
		return err
	}
	s := &service{log: log, mirror: kernel.NewMirror(log, schema, nil), schema: schema, lg: lg}
	api, url, err := s.apiserver(&u.folders, &u.api, ca)
	if err != nil {
		return err
	}
	addr, err := hostAddress(u.node.address)
	if err != nil {
		return fmt.Errorf("--node-address: %w", err)
	}
	cred, err := issueNode(ca, u.folders.node(u.node.name), u.node.name, addr)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return keepMemory(ctx, s.mirror.Ready(), enough) })
	g.Go(func() error { return s.mirror.Run(ctx) })
	g.Go(func() error { return s.keepHistory(ctx, log) })
	g.Go(func() error { return api.Run(ctx) })
	g.Go(func() error { return s.decide(ctx, "scheduler", scheduler.Deciders()) })
	g.Go(func() error { return s.decide(ctx, "controllers", controllers.Deciders(controllers.Default())) })
	g.Go(func() error { return s.ingress(ctx, &u.ingress, ca) })
	g.Go(func() error {
		select {
		case <-api.Started():
			return runNode(ctx, &u.folders, &u.node, []string{url}, cred, lg)
		case <-ctx.Done():
			return nil
		}
	})
	return g.Wait()
}

// lock makes this process the one that runs the cluster of these folders.
func (u *upFlags) lock() (unlock func(), err error) {
	if err := os.MkdirAll(u.folders.run, 0o711); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(u.folders.run, "up.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("the cluster of %s runs already (pid %d)", u.folders.run, pidOf(u.pid())), f.Close())
	}
	if err := writeWhole(u.pid(), []byte(strconv.Itoa(os.Getpid()))); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { os.Remove(u.pid()); f.Close() }, nil // the lock goes with the process anyway
}

// background starts the cluster in a process of its own, if it does not run,
// and waits until it is ready.
func (u *upFlags) background(c *cobra.Command) error {
	logFile := filepath.Join(u.data, "rutter.log")
	running := pidOf(u.pid())
	var ended chan error
	if running == 0 {
		if err := os.MkdirAll(u.data, 0o700); err != nil {
			return err
		}
		out, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer out.Close()
		args := slices.DeleteFunc(slices.Clone(os.Args[1:]), func(a string) bool { return a == "--detach" || a == "--detach=true" })
		self, err := os.Executable()
		if err != nil {
			return err
		}
		cmd := exec.Command(self, args...)
		cmd.Stdout, cmd.Stderr = out, out
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return err
		}
		running, ended = cmd.Process.Pid, make(chan error, 1)
		go func() { ended <- cmd.Wait() }() // reaps it, if it ends before us
	}
	ctx, cancel := context.WithTimeout(c.Context(), upTimeout)
	defer cancel()
	if err := u.await(ctx, c, ended); err != nil {
		return fmt.Errorf("%w; see %s", err, logFile)
	}
	fmt.Fprintf(c.OutOrStdout(), "the cluster is up (pid %d, log in %s)\n", running, logFile)
	return nil
}

// await shows what is ready until all is.
func (u *upFlags) await(ctx context.Context, c *cobra.Command, ended <-chan error) error {
	started, told := time.Now(), map[string]bool{}
	tell := func(what string) {
		if !told[what] {
			told[what] = true
			fmt.Fprintf(c.OutOrStdout(), "  %-22s %5.1f s\n", what, time.Since(started).Seconds())
		}
	}
	for {
		if client, err := cli.Open(u.kubeconfig()); err == nil {
			ask, cancel := context.WithTimeout(ctx, 2*time.Second)
			var node corev1.Node
			body, err := client.Get(ask, "/readyz", nil, "")
			if err == nil {
				err = errors.Join(body.Close(), client.JSON(ask, "/api/v1/nodes/"+u.node.name, nil, &node))
				tell("API ready")
			}
			cancel()
			if err == nil && slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
				return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
			}) {
				tell("node ready")
				return nil
			}
		}
		select {
		case err := <-ended:
			return fmt.Errorf("the cluster ended at once: %v", err)
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the cluster is not ready: %w", ctx.Err())
		}
	}
}
