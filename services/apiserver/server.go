package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sort"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/internal/pki"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

const (
	// headerTimeout bounds how long a client may take to send its headers.
	headerTimeout = 30 * time.Second
	// pingAfter and pingTimeout find out that who holds a connection is gone
	// without a word: a node whose machine lost power must become silent.
	pingAfter   = 2 * time.Second
	pingTimeout = 2 * time.Second
	// idleTimeout closes a connection on which nothing happens.
	idleTimeout = 5 * time.Minute
	// answerTimeout bounds every request but watches and streams.
	answerTimeout = time.Minute
	// drainTimeout is how long requests in flight may go on after the end was asked for.
	drainTimeout = 2 * time.Second
	// streamsPerConnection bounds concurrent HTTP/2 requests of one client
	// connection; client-go holds one watch per informer on it.
	streamsPerConnection = 1000
	// actor is the source of the events that the apiserver writes for itself.
	actor = "apiserver"
)

// Config is what an apiserver needs to know.
type Config struct {
	Log events.Log
	// History is the past of Log.
	History events.History
	// Keeper tells how full Log is, and bounds its past; nil: it is never full.
	Keeper events.Keeper
	// Talker reaches the other apiservers of Log; nil: there are none.
	Talker events.Talker
	// Copier tells what this server's own copy of Log lacks; nil: nothing.
	Copier   events.Copier
	Mirror   *kernel.Mirror // of everything; run by the caller
	Schema   *kinds.Schema
	CA       *pki.CA
	Listener net.Listener // TCP; Run takes it over
	// Advertise is where pods reach this server: the endpoint of the service
	// default/kubernetes. The zero value: where Listener listens.
	Advertise netip.AddrPort
	// Names are further names and addresses for the server's certificate.
	Names []string
	// ServiceRange holds the cluster IPs. Its first address is the API's own.
	ServiceRange netip.Prefix
	// ClusterDNS is the address of the cluster's DNS: never given to another service
	// unless it asks for it by name.
	ClusterDNS netip.Addr
	// ClusterDomain is the DNS domain of the cluster, such as "cluster.local".
	ClusterDomain string
	// Deciders are those of this build, for replay.
	Deciders []kernel.Decider
	Version  string // of this build, for /version
	// Metrics writes what else of the process /metrics shows; nil: nothing.
	Metrics func(io.Writer)
	Logger  zerolog.Logger
}

// Default returns a Config with the cluster-wide defaults.
func Default() Config {
	return Config{
		ServiceRange:  netip.MustParsePrefix("10.43.0.0/16"),
		ClusterDNS:    netip.MustParseAddr("10.43.0.10"),
		ClusterDomain: "cluster.local",
		Version:       "dev",
		Logger:        zerolog.Nop(),
	}
}

// Server serves the API. It is made by New and does nothing until Run.
type Server struct {
	cfg      Config
	out      Surroundings
	routes   routes
	mounts   []mount // longest prefix first
	special  map[string]http.HandlerFunc
	index    readIndex
	access   accessCache
	tokens   *tokens
	encoded  encodedCache
	past     *past
	replays  *replays
	usage    atomic.Pointer[events.Usage] // nil: not known
	turns    queues
	project  *projection
	nodes    *nodeProxy
	metrics  *metrics
	presence *presence
	unused   unusedKeys
	tls      *tls.Config
	started  chan struct{} // closed once the bootstrap objects are there
}

// mount is a handler that another part of the package brought.
type mount struct {
	prefix  string
	handler http.Handler
}

// New checks the configuration and prepares a Server.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Log == nil || cfg.History == nil || cfg.Mirror == nil || cfg.Schema == nil || cfg.CA == nil || cfg.Listener == nil:
		return nil, errors.New("apiserver: Log, History, Mirror, Schema, CA and Listener must be set")
	case !cfg.ServiceRange.IsValid():
		return nil, errors.New("apiserver: ServiceRange is not an address range")
	}
	if !cfg.Advertise.IsValid() {
		at, err := advertised(cfg.Listener.Addr())
		if err != nil {
			return nil, err
		}
		cfg.Advertise = at
	}
	s := &Server{cfg: cfg, routes: newRoutes(kinds.All),
		metrics: newMetrics(), started: make(chan struct{})}
	s.index = newReadIndex(cfg.Log, cfg.Mirror)
	s.past = newPast(s.cfg.History, cfg.Mirror, cfg.Schema)
	s.replays = newReplays(s.past, s.ringHas)
	s.tokens = newTokens(cfg.CA.ServiceAccountKey(), "https://kubernetes.default.svc."+cfg.ClusterDomain)
	s.project = newProjection()
	s.turns = newQueues()
	s.out = s.real()
	s.special = s.specialPaths()
	s.presence = newPresence(s)
	s.Handle(doorPrefix, &door{s, s.presence})
	s.Handle(debugPrefix, &debug{s})
	var err error
	if s.tls, err = s.serverTLS(); err != nil {
		return nil, err
	}
	if s.nodes, err = newNodeProxy(cfg.CA); err != nil {
		return nil, err
	}
	return s, nil
}

// advertised is the address at which others reach a listener: its own, or for
// one that listens on all addresses the one this host would send from.
func advertised(a net.Addr) (netip.AddrPort, error) {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return at, fmt.Errorf("apiserver: listener's address: %w", err)
	}
	if !at.Addr().IsUnspecified() {
		return at, nil
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return at, fmt.Errorf("apiserver: this host's addresses: %w", err)
	}
	host := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
			host = p.Addr()
			break
		}
	}
	return netip.AddrPortFrom(host, at.Port()), nil
}

// Handle mounts a handler at a path prefix. It is called with the user in the
// request's context (UserFrom); the request was authenticated but not
// authorised: the handler does that (Authorize). It must be called before Run.
func (s *Server) Handle(prefix string, h http.Handler) {
	s.mounts = append(s.mounts, mount{prefix, h})
	sort.SliceStable(s.mounts, func(i, j int) bool { return len(s.mounts[i].prefix) > len(s.mounts[j].prefix) })
}

func (s *Server) mounted(path string) http.Handler {
	for _, m := range s.mounts {
		if strings.HasPrefix(path, m.prefix) {
			return m.handler
		}
	}
	return nil
}

// Started is closed once the objects that every cluster has are in the log.
func (s *Server) Started() <-chan struct{} { return s.started }

// serverTLS issues the server's certificate and asks clients for theirs. A
// client's certificate is verified when its first request comes, so that a
// bad one is answered with 401 instead of a broken handshake.
func (s *Server) serverTLS() (*tls.Config, error) {
	req := pki.Request{CommonName: "rutter-apiserver", Server: true,
		DNSNames: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc." + s.cfg.ClusterDomain},
		IPs: []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback, s.cfg.Advertise.Addr().AsSlice(), firstAddress(s.cfg.ServiceRange).AsSlice()}}
	for _, n := range s.cfg.Names {
		if ip := net.ParseIP(n); ip != nil {
			req.IPs = append(req.IPs, ip)
		} else {
			req.DNSNames = append(req.DNSNames, n)
		}
	}
	cert, key, err := s.cfg.CA.Ensure("apiserver", req)
	if err != nil {
		return nil, fmt.Errorf("apiserver certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("apiserver certificate: %w", err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair},
		ClientAuth: tls.RequestClientCert, ClientCAs: s.cfg.CA.Pool(),
		NextProtos: []string{"h2", "http/1.1"},
	}, nil
}

// Run serves until ctx ends. It waits for the Mirror to have read the log,
// writes the objects that every cluster has if they are missing, and then
// answers.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	hs := &http.Server{
		Handler: s, TLSConfig: s.tls, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: streamsPerConnection, SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		ConnContext: withConnection, ErrorLog: quietLog(s.cfg.Logger),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	g.Go(func() error {
		if err := hs.Serve(tls.NewListener(s.cfg.Listener, s.tls)); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("apiserver: serve: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		if err := hs.Shutdown(drain); err != nil {
			return hs.Close() // what streams would go on for ever
		}
		return nil
	})
	g.Go(func() error {
		select {
		case <-s.cfg.Mirror.Ready():
		case <-ctx.Done():
			return nil
		}
		if err := s.bootstrap(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("apiserver: bootstrap objects: %w", err)
		}
		close(s.started)
		s.cfg.Logger.Info().Stringer("addr", s.cfg.Advertise).Msg("api ready")
		return nil
	})
	g.Go(func() error { return s.follow(ctx) })
	g.Go(func() error { return s.past.run(ctx) })
	g.Go(func() error { return s.shred(ctx) })
	g.Go(func() error { return s.sweepAll(ctx) })
	g.Go(func() error { return s.watchUsage(ctx) })
	g.Go(func() error {
		select {
		case <-s.started:
		case <-ctx.Done():
			return nil
		}
		return s.presence.run(ctx)
	})
	g.Go(func() error { return s.presence.converse(ctx) })
	return g.Wait()
}

// follow keeps what is derived from the log as a whole: the compiled RBAC and
// the projected Events.
func (s *Server) follow(ctx context.Context) error {
	select {
	case <-s.cfg.Mirror.Ready():
	case <-ctx.Done():
		return nil
	}
	for ctx.Err() == nil {
		v := s.cfg.Mirror.View()
		s.access.compile(v)
		if err := s.project.restart(ctx, s.cfg.Log, v); err != nil && ctx.Err() == nil {
			s.cfg.Logger.Warn().Err(err).Msg("events of the last hour are incomplete")
		}
		for step := range s.cfg.Mirror.Since(ctx, v.Seq()) {
			if step.Fresh {
				break // the log was read anew: so do we
			}
			s.access.step(step)
			s.project.step(step)
		}
	}
	return nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	done := s.metrics.begin(hr)
	rw := &response{ResponseWriter: w}
	defer func() { done(rw.code) }()
	r := &request{Request: hr, w: rw, s: s}
	if err := r.serve(); err != nil {
		r.writeError(err)
	}
}

// response remembers what was answered.
type response struct {
	http.ResponseWriter
	code int
}

// WriteHeader implements http.ResponseWriter.
func (w *response) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (w *response) Write(p []byte) (int, error) {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush implements http.Flusher.
func (w *response) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }
