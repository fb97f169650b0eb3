package dns

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// Times to live, in seconds.
const (
	ttl         = 5 // of everything: endpoints come and go
	ttlNegative = 5 // of what is not there: a service may be created at any moment
)

// version is that of the specification that the records follow.
const version = "1.1.0"

// Answer is what a Zone says about one question.
type Answer struct {
	Records []dns.RR
	Extra   []dns.RR // addresses of what Records name
	Code    int      // dns.RcodeSuccess or dns.RcodeNameError
	// Chase is a name outside the cluster that Records end with (CNAME): the
	// asker is served best if its records are added.
	Chase string
}

// Lookup answers a question about a name. ours is false if the name is not the
// cluster's: then someone else must be asked.
func (z *Zone) Lookup(name string, qtype uint16) (a Answer, ours bool) {
	lower := strings.ToLower(dns.Fqdn(name))
	switch {
	case lower == z.domain:
		return z.apex(name, qtype), true
	case strings.HasSuffix(lower, "."+z.domain):
		labels := dns.SplitDomainName(strings.TrimSuffix(lower, "."+z.domain))
		slices.Reverse(labels)
		l := lookup{z, dns.Fqdn(name), qtype}
		return l.below(labels), true
	case strings.HasSuffix(lower, ".in-addr.arpa."):
		return z.pointer(name, lower, qtype)
	}
	return Answer{}, false
}

// SOA is the record that a negative answer carries: it says how long it holds.
func (z *Zone) SOA() dns.RR {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: z.domain, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttlNegative},
		Ns:  z.name("ns", "dns"), Mbox: z.name("hostmaster"), Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttlNegative,
	}
}

var (
	absent = Answer{Code: dns.RcodeNameError} // there is no such name
	empty  = Answer{}                         // the name is there, such a record is not
)

func (z *Zone) apex(name string, qtype uint16) Answer {
	switch qtype {
	case dns.TypeSOA:
		soa := z.SOA()
		soa.Header().Name = dns.Fqdn(name)
		return Answer{Records: []dns.RR{soa}}
	case dns.TypeNS:
		ns := z.name("ns", "dns")
		return Answer{
			Records: []dns.RR{&dns.NS{Hdr: header(dns.Fqdn(name), dns.TypeNS), Ns: ns}},
			Extra:   []dns.RR{address(ns, z.cluster.Server)},
		}
	}
	return empty
}

// pointer answers a reverse question. What is in the cluster's ranges and has
// no name has none anywhere.
func (z *Zone) pointer(name, lower string, qtype uint16) (Answer, bool) {
	labels := dns.SplitDomainName(strings.TrimSuffix(lower, ".in-addr.arpa."))
	slices.Reverse(labels)
	ip, err := netip.ParseAddr(strings.Join(labels, "."))
	if err != nil {
		return Answer{}, false
	}
	names := z.reverse[ip]
	if len(names) == 0 {
		return absent, slices.ContainsFunc(z.cluster.Ranges, func(r netip.Prefix) bool { return r.Contains(ip) })
	}
	if qtype != dns.TypePTR && qtype != dns.TypeANY {
		return empty, true
	}
	var a Answer
	for _, n := range names {
		a.Records = append(a.Records, &dns.PTR{Hdr: header(dns.Fqdn(name), dns.TypePTR), Ptr: n})
	}
	return a, true
}

// lookup is one question about a name below the domain.
type lookup struct {
	*Zone
	name  string // as it was asked, fully qualified
	qtype uint16
}

// below follows the labels of the name, from the domain on.
func (l lookup) below(labels []string) Answer {
	if len(labels) == 0 {
		return absent // not a name at all, as "..cluster.local."
	}
	switch first, rest := labels[0], labels[1:]; {
	case first == "svc":
		return l.svc(rest)
	case first == "pod":
		return l.pod(rest)
	case first == "dns-version" && len(rest) == 0:
		if l.qtype != dns.TypeTXT && l.qtype != dns.TypeANY {
			return empty
		}
		return Answer{Records: []dns.RR{&dns.TXT{Hdr: header(l.name, dns.TypeTXT), Txt: []string{version}}}}
	case first == "dns" && len(rest) == 0:
		return empty
	case first == "dns" && len(rest) == 1 && rest[0] == "ns":
		return l.addresses(l.cluster.Server)
	}
	return absent
}

// svc answers NAME.NAMESPACE.svc and what is below it.
func (l lookup) svc(labels []string) Answer {
	if len(labels) == 0 {
		return empty
	}
	byName, ok := l.services[labels[0]]
	if !ok {
		return absent
	}
	if len(labels) == 1 {
		return empty
	}
	s, ok := byName[labels[1]]
	if !ok {
		return absent
	}
	base := l.Zone.name(labels[1], labels[0], "svc")
	switch labels := labels[2:]; len(labels) {
	case 0:
		return l.service(s, base)
	case 1:
		if protocol, ok := strings.CutPrefix(labels[0], "_"); ok {
			if slices.ContainsFunc(s.allPorts(), func(p port) bool { return p.protocol == protocol && p.name != "" }) {
				return empty // there are names below it
			}
			return absent
		}
		return l.host(s, base, labels[0])
	case 2:
		protocol, ok1 := strings.CutPrefix(labels[0], "_")
		name, ok2 := strings.CutPrefix(labels[1], "_")
		if ok1 && ok2 {
			return l.named(s, base, name, protocol)
		}
	}
	return absent
}

// allPorts returns the service's ports and those of its endpoints.
func (s *service) allPorts() []port {
	all := slices.Clone(s.ports)
	for _, h := range s.hosts {
		all = append(all, h.ports...)
	}
	return all
}

// service answers the name of a service itself.
func (l lookup) service(s *service, base string) Answer {
	switch {
	case s.external != "":
		cname := &dns.CNAME{Hdr: header(l.name, dns.TypeCNAME), Target: s.external}
		a := Answer{Records: []dns.RR{cname}}
		if l.qtype != dns.TypeCNAME && l.qtype != dns.TypeANY {
			a.Chase = s.external
		}
		return a
	case l.qtype == dns.TypeSRV:
		return l.srv(s, base, func(port) bool { return true })
	case s.headless():
		if len(s.hosts) == 0 {
			return absent // as the specification says; it comes with its first endpoint
		}
		var ips []netip.Addr
		for _, h := range s.hosts {
			ips = append(ips, h.address)
		}
		return l.addresses(slices.Compact(ips)...)
	}
	return l.addresses(s.address)
}

// host answers the name of one endpoint of a headless service.
func (l lookup) host(s *service, base, name string) Answer {
	one := &service{}
	var ips []netip.Addr
	for _, h := range s.hosts {
		if h.name == name {
			one.hosts = append(one.hosts, h)
			ips = append(ips, h.address)
		}
	}
	if len(ips) == 0 {
		return absent
	}
	if l.qtype == dns.TypeSRV {
		return l.srv(one, base, func(port) bool { return true })
	}
	return l.addresses(slices.Compact(ips)...)
}

// named answers _PORT._PROTOCOL below a service.
func (l lookup) named(s *service, base, name, protocol string) Answer {
	match := func(p port) bool { return p.name == name && p.protocol == protocol && name != "" }
	if !slices.ContainsFunc(s.allPorts(), match) {
		return absent
	}
	if l.qtype != dns.TypeSRV && l.qtype != dns.TypeANY {
		return empty
	}
	return l.srv(s, base, match)
}

// srv returns the ports that match, with addresses. base is the service's name.
func (l lookup) srv(s *service, base string, match func(port) bool) Answer {
	var a Answer
	add := func(target string, ip netip.Addr, ports []port) {
		found := false
		for _, p := range ports {
			if match(p) {
				found = true
				a.Records = append(a.Records, &dns.SRV{Hdr: header(l.name, dns.TypeSRV), Weight: 100, Port: p.number, Target: target})
			}
		}
		if found {
			a.Extra = append(a.Extra, address(target, ip))
		}
	}
	if s.address.IsValid() {
		add(base, s.address, s.ports)
	}
	for _, h := range s.hosts {
		add(h.name+"."+base, h.address, h.ports)
	}
	return a
}

// pod answers A-B-C-D.NAMESPACE.pod: the address that the name says.
func (l lookup) pod(labels []string) Answer {
	switch len(labels) {
	case 0, 1:
		return empty
	case 2:
		if ip, err := netip.ParseAddr(strings.ReplaceAll(labels[1], "-", ".")); err == nil && ip.Is4() {
			return l.addresses(ip)
		}
	}
	return absent
}

// addresses answers with A records if those were asked for.
func (l lookup) addresses(ips ...netip.Addr) Answer {
	if l.qtype != dns.TypeA && l.qtype != dns.TypeANY {
		return empty
	}
	var a Answer
	for _, ip := range ips {
		a.Records = append(a.Records, address(l.name, ip))
	}
	return a
}

func header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

func address(name string, ip netip.Addr) dns.RR {
	return &dns.A{Hdr: header(name, dns.TypeA), A: ip.AsSlice()}
}
