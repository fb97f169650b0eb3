package dns

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/rs/zerolog"
)

// resolver is a host's resolver that knows example.com.
type resolver struct {
	addr  string
	asked atomic.Int32 // questions
}

func newResolver(t *testing.T, code int) *resolver {
	t.Helper()
	r := &resolver{}
	udp, tcp, err := listen(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	r.addr = udp.LocalAddr().String()
	h := dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		r.asked.Add(1)
		a := new(dns.Msg).SetRcode(m, code)
		name := strings.ToLower(m.Question[0].Name)
		switch {
		case code != dns.RcodeSuccess:
		case name == "big.example.com.":
			for i := range 100 {
				rr, _ := dns.NewRR(fmt.Sprintf("big.example.com. 60 IN A 192.0.2.%d", i))
				a.Answer = append(a.Answer, rr)
			}
			if w.LocalAddr().Network() == "udp" {
				a.Truncate(dns.MinMsgSize)
			}
		case strings.HasSuffix(name, "example.com."):
			rr, _ := dns.NewRR(m.Question[0].Name + " 60 IN A 192.0.2.1")
			a.Answer = []dns.RR{rr}
		default:
			soa, _ := dns.NewRR(". 60 IN SOA a. b. 1 1 1 1 60")
			a.Rcode, a.Ns = dns.RcodeNameError, []dns.RR{soa}
		}
		w.WriteMsg(a)
	})
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: h}, {Listener: tcp, Handler: h}} {
		go s.ActivateAndServe()
	}
	t.Cleanup(func() { udp.Close(); tcp.Close() })
	return r
}

func newServer(t *testing.T, cfg Config) *Server {
	t.Helper()
	cfg.Address = netip.MustParseAddrPort("127.0.0.1:0")
	s, err := Listen(cfg, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *Server) test(t *testing.T, network, name string, qtype uint16, edns uint16) *dns.Msg {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, qtype)
	if edns > 0 {
		m.SetEdns0(edns, false)
	}
	c := &dns.Client{Net: network, Timeout: 5 * time.Second}
	a, _, err := c.Exchange(m, s.Address().String())
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return a
}

func TestServer(t *testing.T) {
	up := newResolver(t, dns.RcodeSuccess)
	s := newServer(t, Config{Upstreams: []string{up.addr}})
	if a := s.test(t, "udp", "kubernetes.default.svc.cluster.local.", dns.TypeA, 0); a.Rcode != dns.RcodeServerFailure {
		t.Errorf("without a zone: %s", dns.RcodeToString[a.Rcode])
	}
	if err := s.Set(context.Background(), testZone()); err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"udp", "tcp"} {
		for _, test := range []struct {
			name    string
			qtype   uint16
			code    int
			answers int
			soa     bool
		}{
			{"kubernetes.default.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, 1, false},
			{"kubernetes.default.svc.cluster.local.", dns.TypeAAAA, dns.RcodeSuccess, 0, true},
			{"example.com.default.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, 0, true},
			{"db.shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, 3, false},
			{"out.shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, 2, false},
			{"alias.shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, 2, false},
			{"www.example.com.", dns.TypeA, dns.RcodeSuccess, 1, false},
			{"nothing.invalid.", dns.TypeA, dns.RcodeNameError, 0, true},
			{"big.example.com.", dns.TypeA, dns.RcodeSuccess, map[string]int{"udp": 100, "tcp": 100}[network], false},
		} {
			edns := uint16(0)
			if test.name == "big.example.com." {
				edns = 4096
			}
			a := s.test(t, network, test.name, test.qtype, edns)
			if network == "udp" && test.answers == 100 {
				// It does not fit: what does is sent, and TC says so.
				a.Compress = true // as it was on the wire
				if !a.Truncated || len(a.Answer) == 0 || len(a.Answer) == 100 || a.Len() > udpMax {
					t.Errorf("%s by UDP: TC %t, %d answers in %d bytes", test.name, a.Truncated, len(a.Answer), a.Len())
				}
				continue
			}
			hasSOA := len(a.Ns) == 1 && a.Ns[0].Header().Rrtype == dns.TypeSOA
			if a.Rcode != test.code || len(a.Answer) != test.answers || hasSOA != test.soa || a.Truncated {
				t.Errorf("%s by %s: want %+v, got %s", test.name, network, test, a)
			}
			if (a.IsEdns0() != nil) != (edns > 0) {
				t.Errorf("%s by %s: EDNS was asked for: %t; got %v", test.name, network, edns > 0, a.IsEdns0())
			}
		}
	}
	if a := s.test(t, "udp", "circle.shop.svc.cluster.local.", dns.TypeA, 0); a.Rcode != dns.RcodeServerFailure {
		t.Errorf("a circle of names: %s", a)
	}
}

func TestBadQuestions(t *testing.T) {
	s := newServer(t, Config{Upstreams: []string{"127.0.0.1:1"}})
	if err := s.Set(context.Background(), testZone()); err != nil {
		t.Fatal(err)
	}
	ask := func(change func(*dns.Msg)) int {
		m := new(dns.Msg).SetQuestion("kubernetes.default.svc.cluster.local.", dns.TypeA)
		change(m)
		a, _, err := (&dns.Client{Timeout: 5 * time.Second}).Exchange(m, s.Address().String())
		if err != nil {
			t.Fatal(err)
		}
		return a.Rcode
	}
	if code := ask(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }); code != dns.RcodeRefused {
		t.Errorf("another class: %d", code)
	}
	if code := ask(func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }); code != dns.RcodeBadVers {
		t.Errorf("EDNS version 1: %d", code)
	}
	if code := ask(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }); code != dns.RcodeNotImplemented {
		t.Errorf("an update: %d", code)
	}
	if code := ask(func(m *dns.Msg) { m.Question[0].Name = "outside.example.com." }); code != dns.RcodeServerFailure {
		t.Errorf("with no resolver: %d", code)
	}
}

func TestResolvers(t *testing.T) {
	broken, good := newResolver(t, dns.RcodeServerFailure), newResolver(t, dns.RcodeSuccess)
	s := newServer(t, Config{Upstreams: []string{broken.addr, good.addr}})
	if err := s.Set(context.Background(), testZone()); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"www.example.com.", "WWW.example.com.", "www.EXAMPLE.com."} {
		a := s.test(t, "udp", name, dns.TypeA, 0)
		if a.Rcode != dns.RcodeSuccess || len(a.Answer) != 1 || a.Question[0].Name != name {
			t.Errorf("question %d: %s", i, a)
		}
	}
	if b, g := broken.asked.Load(), good.asked.Load(); b != 1 || g != 1 {
		t.Errorf("resolvers were asked %d and %d times for one name, want once each", b, g)
	}
	for range 2 {
		s.test(t, "udp", "nothing.invalid.", dns.TypeA, 0)
	}
	if g := good.asked.Load(); g != 2 {
		t.Errorf("the resolver was asked %d times for two names", g)
	}
}

func TestResolvConf(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("nameserver 10.43.0.10\nnameserver 192.0.2.53\nnameserver fd00::53\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := newForwarder(file, nil, netip.MustParseAddr("10.43.0.10"))
	now := time.Now()
	if got := fmt.Sprint(f.resolvers(now)); got != "[192.0.2.53:53 [fd00::53]:53]" {
		t.Errorf("resolvers are %s", got)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got := len(f.resolvers(now.Add(resolvAge))); got != 2 {
		t.Errorf("with the file gone there are %d resolvers, want what was", got)
	}
}

func TestCacheIsBounded(t *testing.T) {
	f := newForwarder("", nil, netip.Addr{})
	now := time.Now()
	rr, _ := dns.NewRR("x. 60 IN A 192.0.2.1")
	for i := range 3 * cacheMax {
		m := new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.", i), dns.TypeA)
		m.Answer = []dns.RR{rr}
		f.keep(keyOf(m), m, now)
	}
	if len(f.cache) > cacheMax {
		t.Errorf("the cache has %d answers", len(f.cache))
	}
	m := new(dns.Msg).SetQuestion("last.", dns.TypeA)
	m.Answer = []dns.RR{rr}
	f.keep(keyOf(m), m, now)
	if a := f.cached(keyOf(m), now.Add(10*time.Second)); a == nil || a.Answer[0].Header().Ttl != 50 {
		t.Errorf("after 10 s: %v, want 50 s left", a)
	}
	if a := f.cached(keyOf(m), now.Add(cacheTTLMax)); a != nil {
		t.Errorf("after %s: %v", cacheTTLMax, a)
	}
}

func BenchmarkLookup(b *testing.B) {
	var all []*corev1.Service
	var slices []*discoveryv1.EndpointSlice
	for i := range 1000 {
		all = append(all, svc("shop", fmt.Sprint("s", i), fmt.Sprintf("10.43.%d.%d", i/250, i%250), corev1.ServicePort{Port: 80}))
	}
	z := Records(Cluster{Domain: "cluster.local"}, all, slices)
	b.Run("lookup", func(b *testing.B) {
		for b.Loop() {
			z.Lookup("s500.shop.svc.cluster.local.", dns.TypeA)
		}
	})
	b.Run("build", func(b *testing.B) {
		for b.Loop() {
			Records(Cluster{Domain: "cluster.local"}, all, slices)
		}
	})
}
