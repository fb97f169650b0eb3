package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
)

// Config is what an ingress service needs to know.
type Config struct {
	Log    events.Log
	Mirror *kernel.Mirror // of at least Reads and what Deciders read; run by the caller
	// HTTP and HTTPS are where clients come in; Run takes them over.
	HTTP, HTTPS net.Listener
	Fallback    *tls.Certificate // for TLS clients that ask for an unknown name
	Logger      zerolog.Logger
	Build       string
	Instance    string // unique among all writers of the log
}

// Run serves until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	p := NewProxy(cfg.Logger, cfg.Fallback)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return kernel.Setter[*Table]{Name: "ingress", Reads: Reads, Goal: Routes, Equal: Equal, Set: p.Set}.Run(ctx, cfg.Mirror, cfg.Logger)
	})
	g.Go(func() error {
		return kernel.Run(ctx, cfg.Log, cfg.Mirror, cfg.Logger, kernel.Now, cfg.Build, cfg.Instance, Deciders()...)
	})
	secure := tls.NewListener(cfg.HTTPS, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: p.certificate, NextProtos: []string{"h2", "http/1.1"}})
	for _, l := range []net.Listener{cfg.HTTP, secure} {
		s := &http.Server{Handler: p, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
			ErrorLog: log.New(io.Discard, "", 0)} // clients that break off are no news
		g.Go(func() error {
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("ingress: serve %s: %w", l.Addr(), err)
			}
			return nil
		})
		g.Go(func() error {
			<-ctx.Done()
			drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if s.Shutdown(drain) != nil {
				return s.Close()
			}
			return nil
		})
	}
	return g.Wait()
}
