package nodeagent

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

const (
	// pingAfter is how long a server may say nothing until it is asked for a sign
	// of life, and pingTimeout how long that may take. A node whose server is gone
	// must be at another within the six seconds that it is spared for.
	pingAfter   = 2 * time.Second
	pingTimeout = 2 * time.Second
	// serverTimeout bounds a connection's beginning, TLS included.
	serverTimeout = 2 * time.Second
)

// Servers are the API servers that a node may use. It uses one, the first at
// first, until that does not answer, ends a connection other than in order, or says that
// it cannot serve (503); then the next, and stays there. As an http.RoundTripper it sends every
// request to the one in use, whichever the request names.
type Servers struct {
	hosts []string // host:port
	t     *http2.Transport

	mu sync.Mutex // protects the following field
	at int        // index of the one in use
}

// NewServers returns those at the URLs (https://host:port). config holds the
// node's certificate (CN=system:node:<node>). Nothing is dialled yet.
func NewServers(urls []string, config *tls.Config) (*Servers, error) {
	s := &Servers{t: &http2.Transport{
		TLSClientConfig: config,
		DialTLSContext: func(ctx context.Context, network, address string, c *tls.Config) (net.Conn, error) {
			return (&tls.Dialer{NetDialer: &net.Dialer{Timeout: serverTimeout}, Config: c}).DialContext(ctx, network, address)
		},
		ReadIdleTimeout: pingAfter, PingTimeout: pingTimeout,
	}}
	for _, one := range urls {
		u, err := url.Parse(one)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.Path != "" && u.Path != "/" {
			return nil, fmt.Errorf("API server %q: expected https://host:port", one)
		}
		if !slices.Contains(s.hosts, u.Host) {
			s.hosts = append(s.hosts, u.Host)
		}
	}
	if len(s.hosts) == 0 {
		return nil, fmt.Errorf("no API server: expected https://host:port")
	}
	return s, nil
}

// URL is the base of requests.
func (s *Servers) URL() string { return "https://" + s.hosts[0] }

// Current is the server in use, as host:port.
func (s *Servers) Current() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hosts[s.at]
}

// leave goes on to the next server if this one is in use.
func (s *Servers) leave(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hosts[s.at] == host {
		s.at = (s.at + 1) % len(s.hosts)
	}
}

// RoundTrip implements http.RoundTripper. It tries once.
func (s *Servers) RoundTrip(r *http.Request) (*http.Response, error) {
	host := s.Current()
	sent := r.Clone(r.Context())
	sent.URL.Scheme, sent.URL.Host, sent.Host = "https", host, ""
	res, err := s.t.RoundTrip(sent)
	if err != nil && r.Context().Err() == nil || err == nil && res.StatusCode == http.StatusServiceUnavailable {
		s.leave(host)
	}
	return res, err
}
