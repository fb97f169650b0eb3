package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// options are what the command line says.
type options struct {
	rutter  string // the binary to measure
	rounds  int    // clusters that are measured, one after the other
	clients int    // connections
	objects int    // of each kind
	watch   int    // watchers
	pods    int    // that are started, per round
	image   string // archive with the image of those pods
	only    string // "creates", "api", "pods", "services" or "" for all but the last
	profile string // folder for profiles; empty: none are taken
}

func main() {
	var o options
	flag.StringVar(&o.rutter, "rutter", "bin/rutter", "the binary to measure")
	flag.IntVar(&o.rounds, "rounds", 3, "clusters to measure, each from its beginning; medians are shown")
	flag.IntVar(&o.clients, "clients", 16, "connections at once")
	flag.IntVar(&o.objects, "objects", 4000, "objects of each kind")
	flag.IntVar(&o.watch, "watchers", 50, "watchers at once")
	flag.IntVar(&o.pods, "pods", 20, "pods to start in each round")
	flag.StringVar(&o.image, "image", "bin/images/catalog-v1.tar", "archive with the image of the pods to start")
	flag.StringVar(&o.only, "only", "", "creates (the first part of api), api, pods or services; empty: api and pods")
	flag.StringVar(&o.profile, "profiles", "", "folder for a CPU profile of each kind of work (it costs a little itself); empty: none")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, &o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures the rounds and prints the medians.
func run(ctx context.Context, o *options) error {
	fmt.Printf("load average at the start: %s\n", loadAverage())
	all := new(results)
	for n := range o.rounds {
		if err := round(ctx, o, all); err != nil {
			return fmt.Errorf("round %d: %w", n+1, err)
		}
		fmt.Fprintf(os.Stderr, "round %d of %d done, load average %s\n", n+1, o.rounds, loadAverage())
	}
	all.print(os.Stdout)
	fmt.Printf("load average at the end: %s\n", loadAverage())
	return nil
}

// round measures one cluster from its beginning to its end.
func round(ctx context.Context, o *options, all *results) (err error) {
	c, err := start(ctx, o)
	if err != nil {
		return err
	}
	defer func() {
		if stopErr := c.stop(); err == nil {
			err = stopErr
		}
	}()
	if o.only == "services" {
		return measureServices(ctx, c, all)
	}
	all.memory("idle", c)
	if o.only != "pods" {
		if err := measureAPI(ctx, o, c, all); err != nil {
			return err
		}
	}
	if o.only == "" || o.only == "pods" {
		return measurePods(ctx, o, c, all)
	}
	return nil
}
