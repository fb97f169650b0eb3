package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

const (
	dialTimeout     = time.Second
	idlePerEndpoint = 256 // connections kept to one pod
	idleTimeout     = 90 * time.Second
	triesPerRequest = 3
	bufferSize      = 32 << 10
)

// Proxy answers requests by the table that was set last.
type Proxy struct {
	lg       zerolog.Logger
	current  atomic.Pointer[routing]
	fallback *tls.Certificate // for names that no Ingress has a certificate for
	reverse  *httputil.ReverseProxy

	mu        sync.Mutex // protects endpoints
	endpoints map[netip.AddrPort]*endpoint
}

// routing is a compiled Table.
type routing struct {
	table    *Table
	hosts    map[string][]int // rules by exact host, "*.domain" or ""
	backends []*balancer      // of table.Rules
	byClient *balancer        // of table.Default
	certs    map[string]*tls.Certificate
}

// endpoint is one pod's address with the connections to it.
type endpoint struct {
	addr      netip.AddrPort
	transport *http.Transport
}

// balancer picks the endpoints of one backend in turn.
type balancer struct {
	service   string
	endpoints []*endpoint
	next      atomic.Uint32
}

// NewProxy returns a Proxy with an empty table. fallback is served to TLS
// clients whose name has no certificate.
func NewProxy(lg zerolog.Logger, fallback *tls.Certificate) *Proxy {
	p := &Proxy{lg: lg, fallback: fallback, endpoints: map[netip.AddrPort]*endpoint{}}
	p.current.Store(&routing{table: &Table{}})
	p.reverse = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetXForwarded() // what an untrusted client claims is dropped
			r.Out.URL.Scheme, r.Out.URL.Host = "http", r.In.Host
			r.Out.Host = r.In.Host
		},
		Transport:     balanced{p},
		FlushInterval: -1, // streams are passed on as they come
		BufferPool:    &buffers{sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}},
		ErrorHandler:  p.failed,
	}
	return p
}

// Set makes the table the one in force: kernel.Setter's Set.
func (p *Proxy) Set(_ context.Context, t *Table) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	used := map[netip.AddrPort]bool{}
	r := &routing{table: t, hosts: map[string][]int{}, certs: map[string]*tls.Certificate{}}
	for i, rule := range t.Rules {
		r.hosts[rule.Host] = append(r.hosts[rule.Host], i)
		r.backends = append(r.backends, p.balancer(rule.Backend, used))
	}
	if t.Default != nil {
		r.byClient = p.balancer(*t.Default, used)
	}
	for _, c := range t.Certs {
		pair, err := tls.X509KeyPair([]byte(c.Cert), []byte(c.Key))
		if err != nil {
			p.lg.Warn().Err(err).Strs("hosts", c.Hosts).Msg("certificate not usable")
			continue
		}
		for _, h := range c.Hosts {
			r.certs[strings.ToLower(h)] = &pair
		}
	}
	p.current.Store(r)
	for addr, e := range p.endpoints { // in no order: each is looked at alone
		if !used[addr] {
			e.transport.CloseIdleConnections() // requests in flight go on
			delete(p.endpoints, addr)
		}
	}
	return nil
}

func (p *Proxy) balancer(b Backend, used map[netip.AddrPort]bool) *balancer {
	out := &balancer{service: b.Service}
	addrs := b.Ready
	if len(addrs) == 0 {
		addrs = b.Terminating
	}
	for _, a := range addrs {
		e := p.endpoints[a]
		if e == nil {
			e = &endpoint{a, &http.Transport{
				DialContext:         (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
				MaxIdleConnsPerHost: idlePerEndpoint, IdleConnTimeout: idleTimeout, DisableCompression: true,
			}}
			p.endpoints[a] = e
		}
		used[a] = true
		out.endpoints = append(out.endpoints, e)
	}
	return out
}

// pick returns the backend of a request, or nil.
func (r *routing) pick(host, path string) *balancer {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	_, domain, _ := strings.Cut(host, ".")
	for _, name := range []string{host, "*." + domain, ""} {
		for _, i := range r.hosts[name] {
			if r.table.Rules[i].matches(path) {
				return r.backends[i]
			}
		}
	}
	return r.byClient
}

// matches compares a path as the Ingress API defines it: a prefix matches
// element by element, so that /foo does not match /foobar.
func (r *Rule) matches(path string) bool {
	if r.Exact {
		return path == r.Path
	}
	prefix := strings.TrimSuffix(r.Path, "/")
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

type backendKey struct{}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b := p.current.Load().pick(r.Host, r.URL.Path)
	if b == nil {
		http.Error(w, "no Ingress has a rule for this host and path", http.StatusNotFound)
		return
	}
	p.reverse.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), backendKey{}, b)))
}

// failed answers a request that no pod answered.
func (p *Proxy) failed(w http.ResponseWriter, r *http.Request, err error) {
	code := http.StatusBadGateway
	switch {
	case errors.Is(err, context.Canceled):
		return // the client has gone
	case errors.Is(err, errNoEndpoints):
		code = http.StatusServiceUnavailable
	case errors.Is(err, context.DeadlineExceeded):
		code = http.StatusGatewayTimeout
	}
	p.lg.Warn().Err(err).Str("host", r.Host).Str("path", r.URL.Path).Msg("no answer from a pod")
	http.Error(w, http.StatusText(code), code)
}

var errNoEndpoints = errors.New("the service has no ready endpoints")

// balanced sends a request to one of its backend's endpoints.
type balanced struct{ p *Proxy }

// RoundTrip implements http.RoundTripper. Another endpoint is tried only if no
// connection to the first could be made: then nothing was sent.
func (b balanced) RoundTrip(r *http.Request) (*http.Response, error) {
	backend := r.Context().Value(backendKey{}).(*balancer)
	n := len(backend.endpoints)
	if n == 0 {
		return nil, fmt.Errorf("%s: %w", backend.service, errNoEndpoints)
	}
	first := int(backend.next.Add(1))
	var err error
	for try := range min(triesPerRequest, n) {
		e := backend.endpoints[(first+try)%n]
		r.URL.Host = e.addr.String()
		var resp *http.Response
		if resp, err = e.transport.RoundTrip(r); err == nil {
			return resp, nil
		}
		var op *net.OpError
		if !errors.As(err, &op) || op.Op != "dial" {
			break
		}
	}
	return nil, fmt.Errorf("%s at %s: %w", backend.service, r.URL.Host, err)
}

// certificate picks by the name that a TLS client asks for.
func (p *Proxy) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	certs := p.current.Load().certs
	name := strings.ToLower(hello.ServerName)
	_, domain, _ := strings.Cut(name, ".")
	for _, n := range []string{name, "*." + domain, ""} {
		if c := certs[n]; c != nil {
			return c, nil
		}
	}
	return p.fallback, nil
}

// Equal compares tables, for kernel.Setter.
func Equal(a, b *Table) bool {
	return slices.EqualFunc(a.Rules, b.Rules, func(x, y Rule) bool {
		return x.Host == y.Host && x.Path == y.Path && x.Exact == y.Exact && x.Backend.equal(&y.Backend)
	}) && (a.Default == nil) == (b.Default == nil) && (a.Default == nil || a.Default.equal(b.Default)) &&
		slices.EqualFunc(a.Certs, b.Certs, func(x, y Cert) bool {
			return x.Cert == y.Cert && x.Key == y.Key && slices.Equal(x.Hosts, y.Hosts)
		})
}

func (b *Backend) equal(o *Backend) bool {
	return b.Service == o.Service && slices.Equal(b.Ready, o.Ready) && slices.Equal(b.Terminating, o.Terminating)
}

// buffers is an httputil.BufferPool.
type buffers struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte { return *b.pool.Get().(*[]byte) }

// Put implements httputil.BufferPool.
func (b *buffers) Put(buf []byte) { b.pool.Put(&buf) }
