package jetstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events"
)

const (
	// Servers is how many keep a replicated log. One of them may be lost.
	Servers = 3
	// clusterName is the same for all servers of a control plane: their
	// certificates keep those of another one away.
	clusterName = "rutter"
	// routeTimeout bounds a handshake between two servers.
	routeTimeout = 5 * time.Second
	// routeReports is how many vain attempts to reach another server make one
	// message; there is one a second.
	routeReports = 60
	// openTimeout bounds one attempt to find the streams: a question that came
	// before the servers had agreed on a leader is never answered.
	openTimeout = 3 * time.Second
	// nobody is a subject that no event ever has.
	nobody = events.SubjectRoot + ".rutter.nobody._.none"
)

// JetStream's error codes that say: not now.
const (
	codeNoPeers     = 10005 // too few servers have come for so many replicas
	codeUnavailable = 10008
	codeNoLeader    = 10009
)

// errAwaited says that there is no stream yet, and that another server makes it.
var errAwaited = errors.New("there is no log yet")

// ClusterConfig says with which others a server keeps the log.
type ClusterConfig struct {
	// Name is this server's own, the same at every start: what it promised to
	// the others it promised by that name.
	Name string
	// Listen is where the other servers reach it, "192.0.2.11:7422".
	Listen string
	// Join are the addresses of the other servers.
	Join []string
	// TLS is for connections between servers, in both directions: it must
	// refuse who is not one.
	TLS *tls.Config
}

// options sets what makes a server one of several.
func (c *ClusterConfig) options(o *server.Options) error {
	host, p, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("log server: listen for others on %q: %w", c.Listen, err)
	}
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil || port == 0 || c.Name == "" || c.TLS == nil {
		return fmt.Errorf("log server: one of several needs a name, keys and a port for the others, not %q", c.Listen)
	}
	for _, a := range c.Join {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return fmt.Errorf("log server: join %q: %w", a, err)
		}
		o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: a})
	}
	o.ServerName, o.ReconnectErrorReports = c.Name, routeReports
	o.Cluster = server.ClusterOpts{
		Name: clusterName, Host: host, Port: int(port), Advertise: c.Listen,
		TLSConfig: c.TLS, TLSTimeout: routeTimeout.Seconds(), NoAdvertise: true,
		PoolSize: -1, // one connection carries what three servers say
	}
	// NATS speaks to other servers only once it listens for clients: it does so
	// where nobody outside this machine comes. Services go through the guard,
	// and the gate lets nobody in who did not.
	o.DontListen, o.Host, o.Port = false, "127.0.0.1", server.RANDOM_PORT
	return nil
}

// Peers returns how many servers take part in keeping the log, this one
// included, as far as it knows: 0 while they have no leader.
func (s *Server) Peers() int {
	n := 0
	for _, p := range s.server.JetStreamClusterPeers() {
		if p != "" {
			n++
		}
	}
	return n
}

// again tries until the servers can answer: while they look for a leader, or
// the third of them is still to come, they cannot.
func again(ctx context.Context, try func(ctx context.Context) error) error {
	for {
		ask, cancel := context.WithTimeout(ctx, openTimeout)
		err := try(ask)
		cancel()
		if err == nil || !notNow(err) {
			return err
		}
		if werr := wait(ctx, retryPause); werr != nil {
			return errors.Join(werr, err)
		}
	}
}

// notNow tells whether an error of the API may be gone when it is asked again.
func notNow(err error) bool {
	if errors.Is(err, errAwaited) {
		return true
	}
	code := 0
	var ae *js.APIError
	var old *nats.APIError // of the client's older package, which the store of states goes through
	switch {
	case errors.As(err, &ae):
		code = int(ae.ErrorCode)
	case errors.As(err, &old):
		code = int(old.ErrorCode)
	}
	if code != 0 {
		return code == codeNoPeers || code == codeUnavailable || code == codeNoLeader
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, js.ErrNoStreamResponse)
}

// confirm returns once the server that leads has had a majority's consent after
// confirm was called. One that was cut off from the others believes for
// seconds that it still leads, and would call an old end of the log the last.
// To have nothing removed is the one thing that can be proposed without a trace.
func (l *Log) confirm(ctx context.Context) error {
	if !l.several || l.server == nil {
		return nil
	}
	ctx, cancel := l.question(ctx)
	defer cancel()
	if err := l.stream.Purge(ctx, js.WithPurgeSubject(nobody)); err != nil {
		return fmt.Errorf("ask for a majority: %w", err)
	}
	return nil
}

// patience bounds a call by GiveUp.
func (l *Log) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	if l.giveUp <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, l.giveUp)
}

// unavailable says so if a call ended because patience did, or because the
// servers were looking for a leader.
func (l *Log) unavailable(ctx, tries context.Context, err error) error {
	if ctx.Err() == nil && !errors.Is(err, events.ErrConflict) && (tries.Err() != nil || l.several && notNow(err)) {
		l.doubt.Store(true)
		return fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	return err
}

// refuse is an error at once if the servers could not be reached a moment ago
// and have no leader still: nobody should have to wait for that again.
func (l *Log) refuse() error {
	if !l.doubt.Load() {
		return nil
	}
	if _, _, alone := l.lone(); alone {
		return fmt.Errorf("this server is alone; nothing was written: %w", events.ErrUnavailable)
	}
	l.doubt.Store(false)
	return nil
}
