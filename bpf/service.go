package bpf

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Protocol is an IP protocol number. Only TCP and UDP can be balanced.
type Protocol uint8

// The protocols of services.
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

// String gives the protocol as the Kubernetes API writes it.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// Service is one port of one service: who connects to Address:Port is
// connected to one of the Backends instead, and refused if there are none.
// A backend that equals the service's own address means that it is served
// there, on this node, and nothing is translated.
type Service struct {
	Address  netip.Addr
	Port     uint16
	Protocol Protocol
	Backends []netip.AddrPort
}

// String names the service as "TCP 10.43.0.1:443".
func (s Service) String() string {
	return s.Protocol.String() + " " + netip.AddrPortFrom(s.Address, s.Port).String()
}

// Bounds of what the maps hold; they are the maps' max_entries in service.c.
const (
	MaxServices = 1 << 16 // service ports
	// maxSlots bounds the backends of all services together. During an update
	// the changed services have theirs twice.
	maxSlots = 1 << 19
	// MaxBackends bounds the backends of one service: the width of a count.
	MaxBackends = 1<<16 - 1
)

// check reports why the service cannot be balanced, or nil.
func (s Service) check() error {
	if s.Protocol != TCP && s.Protocol != UDP {
		return fmt.Errorf("service %s: only TCP and UDP can be balanced", s)
	}
	if !s.Address.Is4() || s.Address.IsUnspecified() || s.Port == 0 {
		return fmt.Errorf("service %s: needs an IPv4 address and a port", s)
	}
	if len(s.Backends) > MaxBackends {
		return fmt.Errorf("service %s: has %d backends, at most %d are possible", s, len(s.Backends), MaxBackends)
	}
	for _, b := range s.Backends {
		if !b.Addr().Is4() || b.Addr().IsUnspecified() || b.Port() == 0 {
			return fmt.Errorf("service %s: backend %s: needs an IPv4 address and a port", s, b)
		}
	}
	return nil
}

// errTwice is wrapped by the error for a configuration that names a service
// port more than once.
var errTwice = errors.New("is configured twice")

// The maps hold addresses and ports in network byte order: the bytes as they
// are, read as a number of this machine.

func ipBits(a netip.Addr) uint32 {
	b := a.As4()
	return binary.NativeEndian.Uint32(b[:])
}

func portBits(p uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], p)
	return binary.NativeEndian.Uint16(b[:])
}

func (s Service) key() serviceSvcKey {
	return serviceSvcKey{Ip: ipBits(s.Address), Port: portBits(s.Port), Proto: uint8(s.Protocol)}
}

func serviceOf(k serviceSvcKey) Service {
	b := addrPort(serviceAddress{Ip: k.Ip, Port: k.Port})
	return Service{Address: b.Addr(), Port: b.Port(), Protocol: Protocol(k.Proto)}
}

func address(b netip.AddrPort) serviceAddress {
	return serviceAddress{Ip: ipBits(b.Addr()), Port: portBits(b.Port())}
}

func addrPort(a serviceAddress) netip.AddrPort {
	var ip [4]byte
	var port [2]byte
	binary.NativeEndian.PutUint32(ip[:], a.Ip)
	binary.NativeEndian.PutUint16(port[:], a.Port)
	return netip.AddrPortFrom(netip.AddrFrom4(ip), binary.BigEndian.Uint16(port[:]))
}

// state packs what a lookup needs into one word, which is read and written at
// once: 24 bits of id, 24 bits of generation, 16 bits of slots.
func state(id, gen uint32, slots int) uint64 {
	return uint64(id)<<40 | uint64(gen)<<16 | uint64(slots)
}

func unpack(state uint64) (id, gen uint32, slots int) {
	return uint32(state >> 40), uint32(state>>16) & (1<<24 - 1), int(state & (1<<16 - 1))
}

// sorted returns the backends in one order, each once.
func sorted(backends []netip.AddrPort) []netip.AddrPort {
	out := slices.Clone(backends)
	slices.SortFunc(out, netip.AddrPort.Compare)
	return slices.Compact(out)
}

func compareServices(a, b Service) int {
	return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
}
