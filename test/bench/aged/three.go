package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events/jetstream"
	"github.com/rutterhq/rutter/internal/pki"
)

// address is where one of three servers listens; n begins with 1.
func address(n int) string { return fmt.Sprintf("127.0.0.%d", 10+n) }

// join lists the other servers.
func join(n int) (others []string) {
	for i := range jetstream.Servers {
		if i+1 != n {
			others = append(others, address(i+1)+":7422")
		}
	}
	return others
}

// peers is how a part that is one of three servers knows the others.
func peers(o *options) (*jetstream.ClusterConfig, error) {
	ca, err := pki.Open(filepath.Join(o.dir, "data", "pki"))
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("s%d", o.server)
	cert, key, err := ca.Ensure("server-"+name, pki.Request{CommonName: "system:server:" + name, Server: true, Client: true, DNSNames: []string{"server.rutter"}})
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	return &jetstream.ClusterConfig{Name: name, Listen: address(o.server) + ":7422", Join: join(o.server), TLS: &tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: ca.Pool(), ClientCAs: ca.Pool(), ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS13, ServerName: "server.rutter",
	}}, nil
}

// trio is three servers on this machine, on addresses of its loopback device.
type trio []*machine

// newTrio makes three, of which none runs yet.
func newTrio(o *options) (t trio) {
	first := filepath.Join(o.dir, "s1", "data", "join.json")
	for n := 1; n <= jetstream.Servers; n++ {
		at, name := address(n), fmt.Sprintf("s%d", n)
		m := &machine{rutter: o.rutter, dir: filepath.Join(o.dir, name), args: []string{"server", "--name", name, "--listen", at + ":6443",
			"--advertise", at, "--http", at + ":80", "--https", at + ":443", "--peer-listen", at + ":7422"}}
		if n > 1 {
			m.args = append(m.args, "--join-file", first)
		}
		t = append(t, m)
	}
	return t
}

// boot starts servers, and says how they came up when all of them serve.
func (t trio) boot(ctx context.Context, what string) error {
	took := make([]booted, len(t))
	g, all := errgroup.WithContext(ctx)
	for i, m := range t {
		if err := m.start(); err != nil {
			return err
		}
		g.Go(func() (err error) {
			took[i], err = m.serves(all)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	for i, b := range took {
		fmt.Printf("%s: %s %s (load average %s)\n", what, filepath.Base(t[i].dir), b, loadAverage())
	}
	return nil
}

func (t trio) stop(end syscall.Signal) {
	for _, m := range t {
		if m.cmd != nil {
			_ = m.cmd.Process.Signal(end) // all at once
		}
	}
	for _, m := range t {
		m.stop(end)
	}
}

// runThree has one server begin a log and age, makes it one of three, and
// measures those: each kind of start, and updates at all three.
func runThree(ctx context.Context, o *options) error {
	t := newTrio(o)
	defer t.stop(syscall.SIGKILL)
	if _, err := boot(ctx, t[0], syscall.SIGTERM); err != nil {
		return err
	}
	alone := *o
	alone.dir = t[0].dir
	if err := part(ctx, &alone, "fill", nil, nil); err != nil {
		return err
	}
	for i, m := range t {
		m.args = append(m.args, "--join", strings.Join(join(i+1), ","))
	}
	if err := t.boot(ctx, "one becomes three"); err != nil {
		return err
	}
	if err := t.boots(ctx, o); err != nil {
		return err
	}
	t.stop(syscall.SIGTERM)
	if o.updates > 0 {
		if err := t.update(ctx, o); err != nil {
			return err
		}
	}
	return t.lose(ctx)
}

// boots starts one of the three again, and then all of them, after each kind
// of end.
func (t trio) boots(ctx context.Context, o *options) error {
	for range o.boots {
		for _, end := range ends {
			for i := range t {
				one := t[i : i+1]
				one.stop(end.signal)
				if err := one.boot(ctx, "one, after "+end.name); err != nil {
					return err
				}
			}
			t.stop(end.signal)
			if err := t.boot(ctx, "all three, after "+end.name); err != nil {
				return err
			}
		}
	}
	return nil
}

// lose starts a server that has lost its disk, as the third of three.
func (t trio) lose(ctx context.Context) error {
	if err := t.boot(ctx, "all three, after the updates"); err != nil {
		return err
	}
	lost := t[len(t)-1:]
	lost.stop(syscall.SIGKILL)
	if err := os.RemoveAll(lost[0].data()); err != nil {
		return err
	}
	return lost.boot(ctx, "one, whose disk was lost")
}

// update runs the part of that name as three processes that keep one log: they
// begin when all have read it, and stay until all are done.
func (t trio) update(ctx context.Context, o *options) error {
	var read, done sync.WaitGroup
	all, ctx := errgroup.WithContext(ctx)
	var tell []io.WriteCloser
	for i, m := range t {
		in, begin := io.Pipe()
		said, out := io.Pipe()
		tell = append(tell, begin)
		each := *o
		each.dir, each.server = m.dir, i+1
		all.Go(func() error {
			return errors.Join(part(ctx, &each, "update", in, out), out.Close(), in.Close())
		})
		read.Add(1)
		done.Add(1)
		hasRead, isDone := sync.OnceFunc(read.Done), sync.OnceFunc(done.Done)
		go func() {
			defer hasRead()
			defer isDone()
			for lines := bufio.NewScanner(said); lines.Scan(); {
				fmt.Printf("s%d: %s\n", i+1, lines.Text())
				switch {
				case strings.Contains(lines.Text(), "objects are read"):
					hasRead()
				case strings.Contains(lines.Text(), "updates of"):
					isDone()
				}
			}
		}()
	}
	read.Wait()
	for _, w := range tell {
		_, _ = io.WriteString(w, "go\n") // one that has ended says itself why
	}
	done.Wait()
	for _, w := range tell {
		_ = w.Close()
	}
	return all.Wait()
}
