package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/spf13/pflag"
)

// profiling is the flag by which whoever looks where a process's time and memory
// go may ask it (docs/bench.md).
type profiling struct{ addr string }

func (p *profiling) flags(f *pflag.FlagSet) {
	f.StringVar(&p.addr, "pprof", "", "loopback address at which this process's profiles are served; empty: nowhere")
}

// serve serves the profiles until ctx ends, if they are wanted. They tell what
// the process holds, so it has to be at a loopback address.
func (p *profiling) serve(ctx context.Context) error {
	if p.addr == "" {
		return nil
	}
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		return fmt.Errorf("--pprof: %w", err)
	}
	if !l.Addr().(*net.TCPAddr).IP.IsLoopback() {
		return errors.Join(fmt.Errorf("--pprof: %s is not a loopback address", p.addr), l.Close())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	go func() { _ = server.Serve(l) }() // who asks sees if it fails; the cluster goes on
	return nil
}
