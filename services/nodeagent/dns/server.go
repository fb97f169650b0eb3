package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
)

// Config says where a Server answers and whom it asks.
type Config struct {
	Address netip.AddrPort // such as 10.43.0.10:53; it must be one of the node's
	// Upstreams are resolvers for names outside the cluster, as host:port.
	// Empty: those of ResolvConf.
	Upstreams []string
	// ResolvConf is the host's; empty: /etc/resolv.conf.
	ResolvConf string
}

// Bounds of serving.
const (
	udpMax      = 1232            // bytes of an answer by UDP: what is not fragmented anywhere (DNS flag day 2020)
	idleMax     = 8 * time.Second // of a TCP connection between questions
	chaseMax    = 8               // links of a chain of external names within the cluster
	shutdownMax = 2 * time.Second // for answers that are being made
)

// Server answers DNS questions on one node.
type Server struct {
	udp     net.PacketConn
	tcp     net.Listener
	zone    atomic.Pointer[Zone]
	forward *forwarder
	lg      zerolog.Logger
}

// Listen opens the sockets, in the calling thread's network namespace. The
// server answers once it runs; before the first Set it refuses the cluster's
// names with SERVFAIL, so that nobody takes them for absent.
func Listen(cfg Config, lg zerolog.Logger) (*Server, error) {
	if cfg.ResolvConf == "" && len(cfg.Upstreams) == 0 {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	s := &Server{forward: newForwarder(cfg.ResolvConf, cfg.Upstreams, cfg.Address.Addr()), lg: lg}
	var err error
	if s.udp, s.tcp, err = listen(cfg.Address); err != nil {
		return nil, fmt.Errorf("listen for DNS: %w", err)
	}
	return s, nil
}

// portTries bounds how often a port is picked, of those that tests ask for.
const portTries = 32

// listen opens both sockets on one port. With port 0, which tests use, TCP
// takes the port that UDP got; another program may have it for TCP, and then
// another is picked.
func listen(at netip.AddrPort) (udp net.PacketConn, tcp net.Listener, err error) {
	for range portTries {
		if udp, err = net.ListenPacket("udp", at.String()); err != nil {
			return nil, nil, err
		}
		if tcp, err = net.Listen("tcp", udp.LocalAddr().String()); err == nil {
			return udp, tcp, nil
		}
		if err = errors.Join(err, udp.Close()); at.Port() != 0 {
			break
		}
	}
	return nil, nil, err
}

// Address is where the server answers.
func (s *Server) Address() netip.AddrPort { return s.udp.LocalAddr().(*net.UDPAddr).AddrPort() }

// Set puts a new zone in force.
func (s *Server) Set(_ context.Context, z *Zone) error {
	s.zone.Store(z)
	return nil
}

// Run answers until ctx ends, and closes the sockets.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) { s.serve(ctx, w, m) })
	for _, one := range []*dns.Server{
		{PacketConn: s.udp, Handler: handler, UDPSize: dns.DefaultMsgSize},
		{Listener: s.tcp, Handler: handler, IdleTimeout: func() time.Duration { return idleMax }},
	} {
		started := make(chan struct{})
		one.NotifyStartedFunc = func() { close(started) }
		g.Go(func() error {
			if err := one.ActivateAndServe(); err != nil && ctx.Err() == nil {
				return fmt.Errorf("serve DNS: %w", err)
			}
			return nil
		})
		g.Go(func() error {
			select {
			case <-started:
			case <-ctx.Done():
			}
			<-ctx.Done()
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownMax)
			defer cancel()
			if err := one.ShutdownContext(end); err != nil {
				// Not running yet: without sockets it cannot begin to.
				return errors.Join(ignoreClosed(s.udp.Close()), ignoreClosed(s.tcp.Close()))
			}
			return nil
		})
	}
	return g.Wait()
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// serve answers one question.
func (s *Server) serve(ctx context.Context, w dns.ResponseWriter, m *dns.Msg) {
	tcp := w.LocalAddr().Network() == "tcp"
	a := s.answer(ctx, m, tcp)
	size := dns.MinMsgSize
	if o := m.IsEdns0(); o != nil {
		size = min(max(int(o.UDPSize()), size), udpMax)
		setEDNS(a, o)
	}
	if tcp {
		size = dns.MaxMsgSize
	}
	a.Truncate(size)
	if err := w.WriteMsg(a); err != nil {
		s.lg.Debug().Err(err).Stringer("to", w.RemoteAddr()).Msg("DNS answer not sent")
	}
}

// setEDNS replaces what a resolver said about its own link by what holds for ours.
func setEDNS(a *dns.Msg, asked *dns.OPT) {
	a.Extra = slices.DeleteFunc(a.Extra, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeOPT })
	a.SetEdns0(udpMax, asked.Do())
	if asked.Version() != 0 {
		a.Answer, a.Ns, a.Rcode = nil, nil, dns.RcodeBadVers
	}
}

// answer makes the whole answer to a message, but for what is about its size.
func (s *Server) answer(ctx context.Context, m *dns.Msg, tcp bool) *dns.Msg {
	a := new(dns.Msg)
	switch {
	case m.Opcode != dns.OpcodeQuery:
		return a.SetRcode(m, dns.RcodeNotImplemented)
	case len(m.Question) != 1:
		return a.SetRcode(m, dns.RcodeFormatError)
	case m.Question[0].Qclass != dns.ClassINET:
		return a.SetRcode(m, dns.RcodeRefused)
	}
	z := s.zone.Load()
	if z == nil {
		return a.SetRcode(m, dns.RcodeServerFailure)
	}
	q := m.Question[0]
	found, ours := z.Lookup(q.Name, q.Qtype)
	if !ours {
		return s.outside(ctx, m, tcp)
	}
	a.SetReply(m)
	a.Authoritative, a.RecursionAvailable = true, true
	a.Rcode, a.Answer, a.Extra = found.Code, rotate(found.Records, m.Id), found.Extra
	if found.Chase != "" {
		s.chase(ctx, z, a, found.Chase, q.Qtype, tcp)
	}
	if len(a.Answer) == 0 {
		a.Ns = []dns.RR{z.SOA()}
	}
	return a
}

// rotate starts the records at another one for each question: many programs
// take the first.
func rotate(records []dns.RR, id uint16) []dns.RR {
	if len(records) < 2 {
		return records
	}
	n := int(id) % len(records)
	return slices.Concat(records[n:], records[:n])
}

// chase adds what an external name stands for.
func (s *Server) chase(ctx context.Context, z *Zone, a *dns.Msg, name string, qtype uint16, tcp bool) {
	for range chaseMax {
		found, ours := z.Lookup(name, qtype)
		if !ours {
			ask := new(dns.Msg).SetQuestion(name, qtype)
			outside, err := s.forward.ask(ctx, ask, tcp)
			if err != nil {
				s.lg.Debug().Err(err).Str("name", name).Msg("external name not resolved")
				a.Rcode = dns.RcodeServerFailure
				return
			}
			a.Answer, a.Rcode = append(a.Answer, outside.Answer...), outside.Rcode
			return
		}
		a.Answer, a.Rcode = append(a.Answer, found.Records...), found.Code
		if name = found.Chase; name == "" {
			return
		}
	}
	a.Rcode = dns.RcodeServerFailure // a circle
}

// outside answers what is not the cluster's by the host's resolvers.
func (s *Server) outside(ctx context.Context, m *dns.Msg, tcp bool) *dns.Msg {
	found, err := s.forward.ask(ctx, m, tcp)
	if err != nil {
		s.lg.Debug().Err(err).Str("name", m.Question[0].Name).Msg("name not resolved")
		a := new(dns.Msg).SetRcode(m, dns.RcodeServerFailure)
		a.RecursionAvailable = true
		return a
	}
	found.Id, found.Question = m.Id, m.Question // the asker's own spelling
	found.RecursionDesired, found.Authoritative = m.RecursionDesired, false
	if m.IsEdns0() == nil {
		found.Extra = slices.DeleteFunc(found.Extra, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeOPT })
	}
	return found
}
