package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events/jetstream"
	"github.com/rutterhq/rutter/internal/pki"
	"github.com/rutterhq/rutter/internal/zlog"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/services/controllers"
	"github.com/rutterhq/rutter/services/scheduler"
)

const (
	// serverPrefix begins the names in the certificates by which servers know
	// each other. The authority gives it to nobody else.
	serverPrefix = "system:server:"
	// giveUp is how long a request waits for a majority of the servers: a little
	// less than the API server waits for the log.
	giveUp = 8 * time.Second
)

// serverFlags are those of rutter server.
type serverFlags struct {
	folders
	logging
	profiling
	api     apiFlags
	ingress ingressFlags
	name    string
	peers   string
	join    []string
	bundle  string
}

func serverCommand() *cobra.Command {
	var s serverFlags
	c := &cobra.Command{Use: "server", Short: "Run the control plane without a node: alone, or as one of three servers", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return s.run(c.Context()) }}
	s.folders.flags(c.Flags())
	s.logging.flags(c.Flags())
	s.profiling.flags(c.Flags())
	c.Flags().StringVar(&s.api.listen, "listen", "0.0.0.0:6443", "address of the API (HTTPS)")
	c.Flags().StringVar(&s.api.advertise, "advertise", "", "address at which nodes and pods reach the API; empty: this host's own")
	c.Flags().StringSliceVar(&s.api.names, "api-name", nil, "further names and addresses for the API's certificate")
	s.ingress.flags(c)
	c.Flags().StringVar(&s.name, "name", "", "this server's name among the three, the same for good; empty: the host's name")
	c.Flags().StringVar(&s.peers, "peer-listen", "0.0.0.0:7422", "address at which the other servers reach this one")
	c.Flags().StringSliceVar(&s.join, "join", nil, "the other servers, as host:port; none at the first start: this server is alone")
	c.Flags().StringVar(&s.bundle, "join-file", "", "copy of the first server's join.json, needed once by a server with an empty data folder")
	return c
}

// membership is what a server remembers of the others, in its data folder.
type membership struct {
	Name    string   `json:"name"`
	Join    []string `json:"join"`
	Founder bool     `json:"founder"` // the cluster's keys were made here, so the log may be
	Begun   bool     `json:"begun"`   // there was a log: none is ever begun again
}

func (f *folders) membership() string { return filepath.Join(f.data, "server.json") }

// remember reads what was said at earlier starts, and adds what is new.
func (s *serverFlags) remember() (*membership, error) {
	m := &membership{Founder: s.bundle == ""}
	b, err := os.ReadFile(s.membership())
	if err == nil {
		err = json.Unmarshal(b, m)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", s.membership(), err)
	}
	if s.name == "" && m.Name == "" {
		if s.name, err = os.Hostname(); err != nil {
			return nil, err
		}
	}
	if m.Name != "" && s.name != "" && m.Name != s.name && len(m.Join) > 0 {
		return nil, fmt.Errorf("--name %s: this server is %s, by which name it has made promises to the others", s.name, m.Name)
	}
	if s.name != "" {
		m.Name = s.name
	}
	if strings.ContainsAny(m.Name, ". \t*>") {
		return nil, fmt.Errorf("--name %q: it must be one word without dots", m.Name)
	}
	if len(s.join) > 0 {
		m.Join = s.join
	}
	return m, s.note(m)
}

func (f *folders) note(m *membership) error {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return writeWhole(f.membership(), append(b, '\n'))
}

// run is the control plane, or a third of it, until ctx ends.
func (s *serverFlags) run(ctx context.Context) error {
	lg, err := s.logger()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.data, 0o700); err != nil {
		return err
	}
	if s.bundle != "" {
		if err := s.adopt(s.bundle); err != nil {
			return fmt.Errorf("--join-file: %w", err)
		}
	}
	m, err := s.remember()
	if err != nil {
		return err
	}
	schema, err := s.schema()
	if err != nil {
		return err
	}
	ca, err := pki.Open(s.pki())
	if err != nil {
		return err
	}
	if err := s.writeJoinFile(); err != nil {
		return err
	}
	if err := s.profiling.serve(ctx); err != nil {
		return err
	}
	enough := hurry()
	defer enough()
	server, err := s.startServer(m, ca, lg.With().Str(zlog.Svc, "nats").Logger())
	if err != nil {
		return err
	}
	defer server.Close()
	if err := s.grow(ctx, server, lg); err != nil {
		return err
	}
	log, err := s.openLog(ctx, server, m, lg)
	if err != nil {
		return err
	}
	defer log.Close()
	if schema.Keys, err = log.Keys(ctx, schema.Seal); err != nil {
		return err
	}
	svc := &service{log: log, mirror: kernel.NewMirror(log, schema, nil), schema: schema, lg: lg}
	if len(m.Join) > 0 {
		svc.hold = log.Hold
	}
	sums := newComparer(m.Name, log, svc.named("log"))
	svc.metrics = func(w io.Writer) {
		sums.metrics(w)
		if len(m.Join) > 0 {
			copyMetrics(w, server.OwnCopies())
		}
	}
	api, url, err := svc.apiserver(&s.folders, &s.api, ca)
	if err != nil {
		return err
	}
	lg.Info().Str("url", url).Str("server", m.Name).Strs("others", m.Join).Msg("the API is served")
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return keepMemory(ctx, svc.mirror.Ready(), enough) })
	g.Go(func() error { return svc.mirror.Run(ctx) })
	if len(m.Join) > 0 {
		g.Go(func() error { return sums.run(ctx, svc.mirror) })
	}
	g.Go(func() error { return api.Run(ctx) })
	g.Go(func() error { return svc.keepHistory(ctx, log) })
	g.Go(func() error { return svc.decide(ctx, "scheduler", scheduler.Deciders()) })
	g.Go(func() error {
		return svc.decide(ctx, "controllers", controllers.Deciders(controllers.Default()))
	})
	g.Go(func() error { return svc.ingress(ctx, &s.ingress, ca) })
	return g.Wait()
}

// startServer starts the embedded NATS server, which keeps the log alone or
// with the others.
func (s *serverFlags) startServer(m *membership, ca *pki.CA, lg zerolog.Logger) (*jetstream.Server, error) {
	if err := s.setAside(m); err != nil {
		return nil, err
	}
	c := jetstream.ServerConfig{Dir: s.log(), Log: func(level, message string) {
		if l, err := zerolog.ParseLevel(level); err == nil && l >= zerolog.WarnLevel {
			lg.WithLevel(l).Msg(message)
		}
	}}
	if len(m.Join) == 0 {
		return jetstream.StartServer(c)
	}
	keys, err := serverTLS(ca, m.Name, s.peers)
	if err != nil {
		return nil, err
	}
	c.Cluster = &jetstream.ClusterConfig{Name: m.Name, Listen: s.peers, Join: m.Join, TLS: keys}
	return jetstream.StartServer(c)
}

// hasLog tells whether there is a store in a folder, and whether it is one of
// several servers' that keep it together.
func hasLog(dir string) (begun, shared bool) {
	store := filepath.Join(dir, "jetstream")
	_, err := os.Stat(filepath.Join(store, "$SYS", "_js_", "_meta_"))
	_, other := os.Stat(filepath.Join(store, "$G", "streams"))
	return err == nil || other == nil, err == nil
}

// openLog opens the log, for which two of three servers must be there. Only
// where the cluster's keys were made may it be begun, and only once: a server
// whose disk was lost waits for the others to give it what they have.
func (s *serverFlags) openLog(ctx context.Context, server *jetstream.Server, m *membership, lg zerolog.Logger) (*jetstream.Log, error) {
	nc, err := server.Connect()
	if err != nil {
		return nil, err
	}
	o := jetstream.Options{Budget: server.Budget(), GiveUp: giveUp, Build: build}
	if len(m.Join) > 0 {
		o.Replicas, o.Await = jetstream.Servers, !m.Founder || m.Begun
		lg.Info().Str("server", m.Name).Strs("others", m.Join).Msg("waiting for the other servers")
	}
	log, err := jetstream.Open(ctx, nc, o)
	if err != nil {
		nc.Close()
		return nil, err
	}
	if !m.Begun {
		m.Begun = true
		if err := s.note(m); err != nil {
			log.Close()
			return nil, err
		}
	}
	return log, nil
}

// serverTLS is how servers speak to one another: both show certificates of the
// cluster's authority that name servers. Nodes and users have some that do not.
func serverTLS(ca *pki.CA, name, listen string) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, fmt.Errorf("--peer-listen: %w", err)
	}
	cert, key, err := ca.Ensure("server-"+name, pki.Request{CommonName: serverPrefix + name, Server: true, Client: true, DNSNames: []string{serverName}})
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" {
		return nil, fmt.Errorf("--peer-listen %s: an address is needed, not a name", listen)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: ca.Pool(), ClientCAs: ca.Pool(),
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
		// Servers may move to other addresses: who they are does not depend on it.
		ServerName:       serverName,
		VerifyConnection: onlyServers,
	}, nil
}

// serverName is in every server's certificate, and asked for by the others.
const serverName = "server.rutter"

func onlyServers(c tls.ConnectionState) error {
	if len(c.PeerCertificates) == 0 || !strings.HasPrefix(c.PeerCertificates[0].Subject.CommonName, serverPrefix) {
		return errors.New("only servers of this cluster may connect here")
	}
	return nil
}

// identity are the files of the data folder that all servers of a cluster have
// in common.
var identity = []string{"cluster", "seal.key", "pki/ca.crt", "pki/ca.key", "pki/sa.key"}

func (f *folders) joinFile() string { return filepath.Join(f.data, "join.json") }

// writeJoinFile writes what another server needs to be one of this cluster. It
// is as secret as the authority's key: it holds it.
func (f *folders) writeJoinFile() error {
	files := map[string]string{}
	for _, name := range identity {
		b, err := os.ReadFile(filepath.Join(f.data, filepath.FromSlash(name)))
		if err != nil {
			return err
		}
		files[name] = string(b)
	}
	b, err := json.MarshalIndent(files, "", "  ")
	if err != nil {
		return err
	}
	return writeWhole(f.joinFile(), append(b, '\n'))
}

// adopt makes the data folder one of the cluster that the join file is from. A
// folder of another cluster stays as it is.
func (f *folders) adopt(file string) error {
	if info, err := os.Stat(file); err != nil {
		return err
	} else if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s can be read by others (mode %04o): it holds the cluster's keys, make it 0600", file, info.Mode().Perm())
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	files := map[string]string{}
	if err := json.Unmarshal(b, &files); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := os.MkdirAll(f.pki(), 0o700); err != nil {
		return err
	}
	for _, name := range slices.Backward(identity) { // the cluster's own name last: it says that all is there
		if files[name] == "" {
			return fmt.Errorf("%s lacks %s", file, name)
		}
		path := filepath.Join(f.data, filepath.FromSlash(name))
		have, err := os.ReadFile(path)
		if err == nil && string(have) != files[name] {
			return fmt.Errorf("%s is of another cluster", path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = writeWhole(path, []byte(files[name]))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
