package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Bounds of forwarding.
const (
	upstreamTimeout = 2 * time.Second  // for one resolver; a pod's own resolver gives up after 5 s
	forwardMax      = 256              // questions that wait for resolvers at once
	cacheMax        = 1024             // answers kept
	cacheTTLMax     = 30 * time.Second // for how long at most
	cacheSOAMax     = 5 * time.Second  // and for how long that there is none
	resolvAge       = 5 * time.Second  // how often the host's resolv.conf is read
)

// errBusy: too many questions wait already.
var errBusy = errors.New("too many questions wait for resolvers")

// forwarder asks the host's resolvers, and remembers what they said for a while.
type forwarder struct {
	resolvConf string
	own        netip.Addr // never asked: that is ourselves
	waiting    chan struct{}

	mu        sync.Mutex // guards the following
	upstreams []string   // host:port
	read      time.Time  // when they were
	cache     map[cacheKey]cached
}

// cacheKey is what an answer depends on.
type cacheKey struct {
	dns.Question
	dnssec, checked bool
}

type cached struct {
	answer  *dns.Msg
	until   time.Time
	fetched time.Time
}

func newForwarder(resolvConf string, upstreams []string, own netip.Addr) *forwarder {
	return &forwarder{resolvConf: resolvConf, upstreams: upstreams, own: own, waiting: make(chan struct{}, forwardMax), cache: map[cacheKey]cached{}}
}

func keyOf(m *dns.Msg) cacheKey {
	k := cacheKey{Question: m.Question[0], checked: m.CheckingDisabled}
	k.Name = strings.ToLower(k.Name)
	if o := m.IsEdns0(); o != nil {
		k.dnssec = o.Do()
	}
	return k
}

// ask returns the answer of the host's resolvers to a question, as a message
// of the caller's own. tcp asks by TCP, for an asker who could not take the
// answer otherwise.
func (f *forwarder) ask(ctx context.Context, m *dns.Msg, tcp bool) (*dns.Msg, error) {
	k, now := keyOf(m), time.Now()
	if a := f.cached(k, now); a != nil {
		return a, nil
	}
	select {
	case f.waiting <- struct{}{}:
		defer func() { <-f.waiting }()
	default:
		return nil, errBusy
	}
	var errs []error
	for _, upstream := range f.resolvers(now) {
		a, err := exchange(ctx, m, upstream, tcp)
		if err != nil || a.Rcode == dns.RcodeServerFailure || a.Rcode == dns.RcodeRefused {
			if err == nil {
				err = errors.New(dns.RcodeToString[a.Rcode])
			}
			errs = append(errs, fmt.Errorf("resolver %s: %w", upstream, err))
			continue
		}
		f.keep(k, a, now)
		return a, nil
	}
	if len(errs) == 0 {
		return nil, fmt.Errorf("the host has no resolvers in %s", f.resolvConf)
	}
	return nil, errors.Join(errs...)
}

// exchange asks one resolver, and again by TCP if its answer was cut.
func exchange(ctx context.Context, m *dns.Msg, upstream string, tcp bool) (*dns.Msg, error) {
	ask := m.Copy()
	ask.Id = dns.Id()
	ask.RecursionDesired = true
	c := &dns.Client{Timeout: upstreamTimeout, UDPSize: dns.DefaultMsgSize}
	if tcp {
		c.Net = "tcp"
	}
	a, _, err := c.ExchangeContext(ctx, ask, upstream)
	if err == nil && a.Truncated && !tcp {
		c.Net = "tcp"
		if whole, _, err := c.ExchangeContext(ctx, ask, upstream); err == nil {
			a = whole
		}
	}
	if err != nil {
		return nil, err
	}
	if !slices.Equal(a.Question, ask.Question) {
		return nil, errors.New("answered another question")
	}
	return a, nil
}

// resolvers returns the host's resolvers, as they are now.
func (f *forwarder) resolvers(now time.Time) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.resolvConf == "" || now.Sub(f.read) < resolvAge {
		return f.upstreams
	}
	f.read = now
	c, err := dns.ClientConfigFromFile(f.resolvConf)
	if err != nil {
		return f.upstreams // as they were: the file may be being replaced
	}
	f.upstreams = nil
	for _, s := range c.Servers {
		if ip, err := netip.ParseAddr(s); err == nil && ip != f.own {
			f.upstreams = append(f.upstreams, net.JoinHostPort(s, c.Port))
		}
	}
	return f.upstreams
}

// cached returns what is remembered, with what is left of its time.
func (f *forwarder) cached(k cacheKey, now time.Time) *dns.Msg {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, ok := f.cache[k]
	if !ok || !now.Before(c.until) {
		return nil
	}
	a := c.answer.Copy()
	age := uint32(now.Sub(c.fetched) / time.Second)
	for _, rr := range slices.Concat(a.Answer, a.Ns, a.Extra) {
		if h := rr.Header(); h.Rrtype != dns.TypeOPT {
			h.Ttl -= min(h.Ttl, age)
		}
	}
	return a
}

// keep remembers an answer for the shortest of its times.
func (f *forwarder) keep(k cacheKey, a *dns.Msg, now time.Time) {
	if a.Truncated || (a.Rcode != dns.RcodeSuccess && a.Rcode != dns.RcodeNameError) {
		return
	}
	keep := cacheTTLMax
	if len(a.Answer) == 0 {
		keep = cacheSOAMax
	}
	for _, rr := range slices.Concat(a.Answer, a.Ns) {
		keep = min(keep, time.Duration(rr.Header().Ttl)*time.Second)
	}
	if keep <= 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.cache) >= cacheMax {
		f.evict(now)
	}
	f.cache[k] = cached{answer: a.Copy(), until: now.Add(keep), fetched: now}
}

// evict makes room: what is over goes, or else about a tenth of all, whichever.
func (f *forwarder) evict(now time.Time) {
	for k, c := range f.cache {
		if !now.Before(c.until) {
			delete(f.cache, k)
		}
	}
	for k := range f.cache {
		if len(f.cache) < cacheMax*9/10 {
			return
		}
		delete(f.cache, k)
	}
}
