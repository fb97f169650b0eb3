package main

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/jetstream"
	"github.com/rutterhq/rutter/internal/pki"
	"github.com/rutterhq/rutter/internal/zlog"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/apiserver"
	"github.com/rutterhq/rutter/services/controllers"
	"github.com/rutterhq/rutter/services/ingress"
	"github.com/rutterhq/rutter/services/scheduler"
)

// service is what every service that is trusted with the log works with.
type service struct {
	log     events.Archive
	mirror  *kernel.Mirror
	schema  *kinds.Schema
	lg      zerolog.Logger
	metrics func(io.Writer) // of what is not the API server's; nil: none
	// hold runs a function while this process holds a lease; nil: there is no
	// other process that could want it.
	hold func(ctx context.Context, name, holder string, run func(ctx context.Context) error) error
}

func (s *service) named(name string) zerolog.Logger { return s.lg.With().Str(zlog.Svc, name).Logger() }

func (s *service) decide(ctx context.Context, name string, deciders []kernel.Decider) error {
	return s.lead(ctx, name, func(ctx context.Context) error {
		return kernel.Run(ctx, s.log, s.mirror, s.named(name), kernel.Now, build, instance(name), deciders...)
	})
}

// lead runs a function in one process of all that want to.
func (s *service) lead(ctx context.Context, name string, run func(ctx context.Context) error) error {
	if s.hold == nil {
		return run(ctx)
	}
	lg := s.named(name)
	return s.hold(ctx, name, instance(name), func(ctx context.Context) error {
		lg.Info().Msg("this process leads")
		defer lg.Info().Msg("this process leads no longer")
		return run(ctx)
	})
}

// apiFlags say where the API is served.
type apiFlags struct {
	listen    string
	advertise string
	names     []string
}

func (a *apiFlags) flags(c *cobra.Command) {
	c.Flags().StringVar(&a.listen, "listen", "0.0.0.0:6443", "address of the API (HTTPS)")
	c.Flags().StringVar(&a.advertise, "advertise", "", "address at which nodes and pods reach the API; empty: this host's own")
	c.Flags().StringSliceVar(&a.names, "name", nil, "further names and addresses for the API's certificate")
}

// apiserver prepares the API server: its listener is open when it returns.
func (s *service) apiserver(f *folders, a *apiFlags, ca *pki.CA) (*apiserver.Server, string, error) {
	l, err := net.Listen("tcp", a.listen)
	if err != nil {
		return nil, "", fmt.Errorf("--listen: %w", err)
	}
	cfg := apiserver.Default()
	cfg.Log, cfg.History, cfg.Mirror, cfg.Schema, cfg.CA, cfg.Listener = s.log, s.log, s.mirror, s.schema, ca, l
	cfg.Keeper, _ = s.log.(events.Keeper)
	cfg.Talker, _ = s.log.(events.Talker)
	cfg.Copier, _ = s.log.(events.Copier)
	cfg.ServiceRange, cfg.ClusterDNS, cfg.ClusterDomain = serviceRange, clusterDNS, clusterDomain
	cfg.Names, cfg.Deciders, cfg.Version, cfg.Logger = a.names, deciders(), build, s.named("apiserver")
	cfg.Metrics = s.metrics
	port := l.Addr().(*net.TCPAddr).Port
	host, err := hostAddress(a.advertise)
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("--advertise: %w", err), l.Close())
	}
	cfg.Advertise = netipPort(host, port)
	cfg.Names = append(cfg.Names, host.String())
	srv, err := apiserver.New(cfg)
	if err != nil {
		return nil, "", errors.Join(err, l.Close())
	}
	url := fmt.Sprintf("https://%s", net.JoinHostPort("127.0.0.1", fmt.Sprint(port)))
	if ip := l.Addr().(*net.TCPAddr).IP; !ip.IsUnspecified() {
		url = fmt.Sprintf("https://%s", l.Addr())
	}
	return srv, url, ca.WriteAdminKubeconfig(f.kubeconfig(), url)
}

// ingressFlags say where the ingress listens.
type ingressFlags struct{ http, https string }

func (i *ingressFlags) flags(c *cobra.Command) {
	c.Flags().StringVar(&i.http, "http", "0.0.0.0:80", "address of the ingress for HTTP")
	c.Flags().StringVar(&i.https, "https", "0.0.0.0:443", "address of the ingress for HTTPS")
}

func (s *service) ingress(ctx context.Context, i *ingressFlags, ca *pki.CA) error {
	plain, err := net.Listen("tcp", i.http)
	if err != nil {
		return fmt.Errorf("--http: %w", err)
	}
	secure, err := net.Listen("tcp", i.https)
	if err != nil {
		return errors.Join(fmt.Errorf("--https: %w", err), plain.Close())
	}
	cert, key, err := ca.Ensure("ingress", pki.Request{CommonName: "rutter-ingress", Server: true, DNSNames: []string{"localhost"}})
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return err
	}
	return ingress.Run(ctx, ingress.Config{Log: s.log, Mirror: s.mirror, HTTP: plain, HTTPS: secure, Fallback: &pair,
		Logger: s.named("ingress"), Build: build, Instance: instance("ingress")})
}

// natsFlags say how a service in a process of its own reaches the log.
type natsFlags struct {
	folders
	logging
	url, credentials string
	secrets          bool // whether the service reads the values of Secrets
}

func (n *natsFlags) flags(c *cobra.Command) {
	n.folders.flags(c.Flags())
	n.logging.flags(c.Flags())
	c.Flags().StringVar(&n.url, "nats", "nats://127.0.0.1:4222", "URL of the NATS server that holds the log")
	c.Flags().StringVar(&n.credentials, "nats-credentials", "", "file that rutter nats wrote; empty: SERVICE.credentials in the data folder")
}

// alone runs one service in a process of its own. reads are the resources it
// needs; nil: all. One that does not need to read Secrets gets no keys for them.
func (n *natsFlags) alone(ctx context.Context, name string, reads []kernel.Resource, run func(ctx context.Context, s *service) error) error {
	lg, err := n.logger()
	if err != nil {
		return err
	}
	schema, err := n.schema()
	if err != nil {
		return err
	}
	if n.credentials == "" {
		n.credentials = filepath.Join(n.data, name+".credentials")
	}
	nc, err := jetstream.Connect(ctx, n.url, n.credentials)
	if err != nil {
		return err
	}
	log, err := jetstream.Open(ctx, nc, jetstream.Options{})
	if err != nil {
		return err
	}
	defer log.Close()
	if !n.secrets {
		schema.Seal = nil
	} else if schema.Keys, err = log.Keys(ctx, schema.Seal); err != nil {
		return err
	}
	s := &service{log: log, mirror: kernel.NewMirror(log, schema, reads), schema: schema, lg: lg, hold: log.Hold}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.mirror.Run(ctx) })
	g.Go(func() error { return run(ctx, s) })
	return g.Wait()
}

// readsOf is the union of what deciders read, of what finishing their writes
// needs to see, and more.
func readsOf(ds []kernel.Decider, more ...kernel.Resource) []kernel.Resource {
	all := append(more, kinds.FinishReads()...)
	for _, d := range ds {
		all = append(all, d.Reads...)
	}
	return all
}

func apiserverCommand() *cobra.Command {
	n := natsFlags{secrets: true}
	var a apiFlags
	c := &cobra.Command{Use: "apiserver", Short: "Serve the API alone, with the log on a NATS server", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return n.alone(c.Context(), "apiserver", nil, func(ctx context.Context, s *service) error {
				ca, err := pki.Open(n.pki())
				if err != nil {
					return err
				}
				srv, _, err := s.apiserver(&n.folders, &a, ca)
				if err != nil {
					return err
				}
				return srv.Run(ctx)
			})
		}}
	n.flags(c)
	a.flags(c)
	return c
}

func schedulerCommand() *cobra.Command {
	return decidersCommand("scheduler", "Decide on which node each pod runs, alone", scheduler.Deciders())
}

func controllersCommand() *cobra.Command {
	return decidersCommand("controllers", "Run the controllers alone", controllers.Deciders(controllers.Default()))
}

func decidersCommand(name, short string, ds []kernel.Decider) *cobra.Command {
	var n natsFlags
	c := &cobra.Command{Use: name, Short: short + ", with the log on a NATS server", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return n.alone(c.Context(), name, readsOf(ds), func(ctx context.Context, s *service) error { return s.decide(ctx, name, ds) })
		}}
	n.flags(c)
	return c
}

func ingressCommand() *cobra.Command {
	n := natsFlags{secrets: true}
	var i ingressFlags
	c := &cobra.Command{Use: "ingress", Short: "Serve Ingresses alone, with the log on a NATS server", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return n.alone(c.Context(), "ingress", readsOf(ingress.Deciders(), ingress.Reads...), func(ctx context.Context, s *service) error {
				ca, err := pki.Open(n.pki())
				if err != nil {
					return err
				}
				return s.ingress(ctx, &i, ca)
			})
		}}
	n.flags(c)
	i.flags(c)
	return c
}

func natsCommand() *cobra.Command {
	var f folders
	var l logging
	var listen string
	c := &cobra.Command{Use: "nats", Short: "Hold the log for services in processes of their own", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			lg, err := l.logger()
			if err != nil {
				return err
			}
			if _, err := f.schema(); err != nil { // the identity is made with the log
				return err
			}
			server, err := startNATS(&f, listen, string(jetstream.Fsync), lg)
			if err != nil {
				return err
			}
			lg.Info().Str("url", server.URL()).Msg("the log is served")
			return keepApart(c.Context(), &f, server, lg)
		}}
	f.flags(c.Flags())
	l.flags(c.Flags())
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:4222", "loopback address of the NATS server")
	return c
}

// rights are what services in processes of their own may do with the log: append
// what their deciders declare, and what the kernel says of their refusals. A
// node's agent is none of them: it goes through the API.
func rights() map[string]jetstream.Rights {
	writes := func(ds []kernel.Decider) jetstream.Rights {
		all := []kernel.Resource{kinds.Refusals.Resource}
		for _, d := range ds {
			all = append(all, d.Writes...)
		}
		return jetstream.Rights{Writes: all}
	}
	all := map[string]jetstream.Rights{
		"apiserver":   {All: true},
		"scheduler":   writes(scheduler.Deciders()),
		"controllers": writes(controllers.Deciders(controllers.Default())),
		"ingress":     writes(ingress.Deciders()),
	}
	i := all["ingress"]
	i.Keys = true // of the certificates that it serves
	all["ingress"] = i
	return all
}

// startNATS starts the embedded server and makes the stream.
func startNATS(f *folders, listen, durability string, lg zerolog.Logger) (*jetstream.Server, error) {
	nlog := lg.With().Str(zlog.Svc, "nats").Logger()
	secret := ""
	if listen != "" {
		var err error
		// Kept, so that clients find their way back to a server that restarts.
		if secret, err = f.once("nats.token", func() string { return hex.EncodeToString(random(24)) }); err != nil {
			return nil, err
		}
	}
	d, err := jetstream.ParseDurability(durability)
	if err != nil {
		return nil, fmt.Errorf("--durability: %w", err)
	}
	server, err := jetstream.StartServer(jetstream.ServerConfig{Dir: f.log(), Listen: listen, Secret: secret, Services: rights(), Durability: d, Log: func(level, message string) {
		if l, err := zerolog.ParseLevel(level); err == nil && l >= zerolog.WarnLevel {
			nlog.WithLevel(l).Msg(message)
		}
	}})
	if err != nil || listen == "" {
		return server, err
	}
	nc, err := server.Connect()
	if err != nil {
		return nil, errors.Join(err, server.Close())
	}
	log, err := jetstream.Open(context.Background(), nc, jetstream.Options{Budget: server.Budget()})
	if err != nil {
		return nil, errors.Join(err, server.Close())
	}
	schema, err := f.schema()
	if err == nil {
		_, err = log.Keys(context.Background(), schema.Seal) // no service may make the bucket
	}
	log.Close()
	// Last: who finds the credentials finds the log.
	if err = errors.Join(err, os.RemoveAll(filepath.Join(f.data, "nats.credentials"))); err == nil { // of older versions: for everything
		err = server.WriteServiceCredentials(f.data)
	}
	if err != nil {
		return nil, errors.Join(err, server.Close())
	}
	return server, nil
}

func kubeconfigCommand() *cobra.Command {
	var f folders
	c := &cobra.Command{Use: "kubeconfig", Short: "Print the administrator's kubeconfig", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			b, err := os.ReadFile(f.kubeconfig())
			if err != nil {
				return fmt.Errorf("is the cluster up? %w", err)
			}
			_, err = c.OutOrStdout().Write(b)
			return err
		}}
	f.flags(c.Flags())
	return c
}
