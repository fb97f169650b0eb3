package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// options are what the command line says.
type options struct {
	rutter  string
	dir     string        // of the cluster's data; made and removed
	objects int           // ConfigMaps
	events  int           // of history
	tail    int           // of them, after the last state that is kept
	updates time.Duration // for which random objects are updated; 0: not
	boots   int           // after each kind of end; 0: none
	three   bool          // three servers, instead of rutter up
	server  int           // which of three a part is, from 1; 0: of none
}

func main() {
	var o options
	flag.StringVar(&o.rutter, "rutter", "bin/rutter", "the binary to measure")
	flag.StringVar(&o.dir, "dir", "/var/tmp/rutter-aged", "folder for the cluster's files; it is removed")
	flag.IntVar(&o.objects, "objects", 100_000, "objects")
	flag.IntVar(&o.events, "events", 1_000_000, "events of history; each takes 1.5 KB")
	flag.IntVar(&o.tail, "tail", 50_000, "events after the last state that is kept")
	flag.DurationVar(&o.updates, "updates", 20*time.Second, "for how long random objects are updated; 0: not")
	flag.IntVar(&o.boots, "boots", 3, "starts after each kind of end; 0: none")
	flag.BoolVar(&o.three, "three", false, "measure three servers, to which a log is brought that one began")
	flag.IntVar(&o.server, "server", 0, "which of three servers a part is; for this command's own use")
	part := flag.String("part", "", "what a process of its own does; for this command's own use")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err := error(nil)
	switch *part {
	case "":
		err = run(ctx, &o)
	case "fill":
		err = withLog(ctx, &o, fill)
	case "update":
		err = withLog(ctx, &o, update)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "aged:", err)
		os.Exit(1)
	}
}

// run makes a cluster, ages it, and measures.
func run(ctx context.Context, o *options) (err error) {
	if err := os.MkdirAll(filepath.Dir(o.dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(o.dir, 0o700); err != nil {
		return fmt.Errorf("it must be new, for it is removed: %w", err)
	}
	defer func() { // containerd outlives the cluster's process, as it must
		down := exec.Command(o.rutter, "down", "--data", filepath.Join(o.dir, "data"), "--run", filepath.Join(o.dir, "run"))
		down.Stderr = os.Stderr
		err = errors.Join(err, down.Run(), os.RemoveAll(o.dir))
	}()
	if o.three {
		return runThree(ctx, o)
	}
	if o.boots > 0 { // the first start makes the cluster's identity
		took, err := boot(ctx, single(o), syscall.SIGTERM)
		if err != nil {
			return err
		}
		fmt.Printf("first start, of an empty cluster: %s\n", took)
	}
	if err := part(ctx, o, "fill", nil, nil); err != nil {
		return err
	}
	// Before the updates: no keeper runs beside those, so they leave more events
	// behind the last kept state than a cluster ever does.
	if err := boots(ctx, o); err != nil {
		return err
	}
	if o.updates > 0 {
		return part(ctx, o, "update", nil, nil)
	}
	return nil
}

// ends are the ways in which a process ends.
var ends = []struct {
	name   string
	signal syscall.Signal
}{{"an orderly end", syscall.SIGTERM}, {"a kill", syscall.SIGKILL}}

// boots starts the cluster after each kind of end.
func boots(ctx context.Context, o *options) error {
	m := single(o)
	for _, end := range ends {
		if o.boots == 0 {
			return nil
		}
		// The first one is after another kind of end; it does not count.
		if _, err := boot(ctx, m, end.signal); err != nil {
			return err
		}
		var took []booted
		for range o.boots {
			b, err := boot(ctx, m, end.signal)
			if err != nil {
				return err
			}
			fmt.Printf("after %s: %s (load average %s)\n", end.name, b, loadAverage())
			took = append(took, b)
		}
		slices.SortFunc(took, func(a, b booted) int { return int(a.ready - b.ready) })
		fmt.Printf("after %s, median: %s\n", end.name, took[len(took)/2])
	}
	return nil
}
