package bpf

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func svcFor(p Protocol, addr string, backends ...string) Service {
	a := netip.MustParseAddrPort(addr)
	s := Service{Address: a.Addr(), Port: a.Port(), Protocol: p}
	for _, b := range backends {
		s.Backends = append(s.Backends, netip.MustParseAddrPort(b))
	}
	return s
}

// kernelMaps is what the maps would hold, with what a program does with them.
type kernelMaps struct {
	services map[serviceSvcKey]uint64
	slots    map[serviceSlotKey]serviceAddress
	members  map[serviceBackendKey]bool
	retired  []serviceSlotKey
}

func newKernelMaps() *kernelMaps {
	return &kernelMaps{map[serviceSvcKey]uint64{}, map[serviceSlotKey]serviceAddress{}, map[serviceBackendKey]bool{}, nil}
}

// backends returns all that a connect could reach; complete is false if it
// could find a slot missing.
func (m *kernelMaps) backends(k serviceSvcKey) (out []netip.AddrPort, complete bool) {
	id, gen, n := unpack(m.services[k])
	for i := range n {
		a, ok := m.slots[serviceSlotKey{Svc: id, Gen: gen, Slot: uint32(i)}]
		if !ok {
			return nil, false
		}
		out = append(out, addrPort(a))
	}
	return out, true
}

// apply carries a plan out one write at a time and looks at the services after each.
func (m *kernelMaps) apply(p *plan, look func()) {
	for _, k := range p.newMembers {
		m.members[k] = true
		look()
	}
	for i, k := range p.newSlots {
		m.slots[k] = p.newTargets[i]
		look()
	}
	for i, k := range p.services {
		m.services[k] = p.states[i].State
		look()
	}
	for _, k := range p.deleted {
		delete(m.services, k)
		look()
	}
	for _, k := range p.oldMembers {
		delete(m.members, k)
		look()
	}
	for _, k := range m.retired {
		delete(m.slots, k)
		look()
	}
	m.retired = p.oldSlots
}

// At every moment of any series of updates, each service leads to all of its
// old backends or to all of its new ones; and nothing is left over at the end.
func TestUpdatesAreAtomic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, have, n := newKernelMaps(), map[serviceSvcKey]*held{}, &ids{used: map[uint32]bool{}}
		before := map[serviceSvcKey][]netip.AddrPort{}
		for range rapid.IntRange(1, 6).Draw(t, "updates") {
			want := map[serviceSvcKey][]netip.AddrPort{}
			var config []Service
			for i := range 4 {
				if !rapid.Bool().Draw(t, "there") {
					continue
				}
				s := Service{Address: netip.AddrFrom4([4]byte{10, 43, 0, byte(i)}), Port: 80, Protocol: TCP}
				for _, b := range rapid.SliceOfN(rapid.IntRange(0, 5), 0, 6).Draw(t, "backends") {
					s.Backends = append(s.Backends, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 42, 0, byte(b)}), 8080))
				}
				config = append(config, s)
				want[s.key()] = sorted(s.Backends)
			}
			p, err := planFor(have, n, config)
			if err != nil {
				t.Fatal(err)
			}
			m.apply(p, func() {
				for k := range m.services {
					got, complete := m.backends(k)
					if !complete || (!cmp.Equal(got, before[k], addrs) && !cmp.Equal(got, want[k], addrs)) {
						t.Fatalf("in between, a service leads to %v (complete: %t), not to %v or %v", got, complete, before[k], want[k])
					}
				}
			})
			for _, k := range p.deleted {
				delete(n.used, have[k].id)
				delete(have, k)
			}
			for k, h := range p.changed {
				have[k] = h
			}
			before = want
			if again, err := planFor(have, n, config); err != nil || !again.empty() {
				t.Fatalf("the same configuration again changes %+v, %v", again, err)
			}
		}
		members := 0
		for k, want := range before {
			got, _ := m.backends(k)
			if !cmp.Equal(got, want, addrs) {
				t.Fatalf("in the end a service leads to %v, not %v", got, want)
			}
			members += len(want)
		}
		if len(m.services) != len(before) || len(m.members) != members || len(m.slots) != members+len(m.retired) {
			t.Fatalf("left over: %d services, %d members, %d slots of which %d go with the next update", len(m.services), len(m.members), len(m.slots), len(m.retired))
		}
	})
}

var addrs = cmp.Comparer(func(a, b []netip.AddrPort) bool {
	return fmt.Sprint(a) == fmt.Sprint(b)
})

func TestBadConfigurationsAreRefused(t *testing.T) {
	many := svcFor(TCP, "10.43.0.1:80")
	many.Backends = make([]netip.AddrPort, MaxBackends+1)
	for _, test := range []struct {
		services []Service
		want     string
	}{
		{[]Service{svcFor(TCP, "10.43.0.1:80"), svcFor(TCP, "10.43.0.1:80")}, "TCP 10.43.0.1:80: is configured twice"},
		{[]Service{svcFor(1, "10.43.0.1:80")}, "only TCP and UDP"},
		{[]Service{svcFor(TCP, "10.43.0.1:0")}, "needs an IPv4 address and a port"},
		{[]Service{svcFor(UDP, "[fd00::1]:80")}, "needs an IPv4 address and a port"},
		{[]Service{svcFor(TCP, "10.43.0.1:80", "[fd00::1]:80")}, "backend [fd00::1]:80"},
		{[]Service{many}, "has 65536 backends"},
	} {
		_, err := planFor(nil, &ids{used: map[uint32]bool{}}, test.services)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want %q", err, test.want)
		}
	}
	_, err := planFor(nil, &ids{used: map[uint32]bool{}}, []Service{svcFor(TCP, "10.43.0.1:80"), svcFor(TCP, "10.43.0.1:80")})
	if !errors.Is(err, errTwice) {
		t.Errorf("%v is not errTwice", err)
	}
}

func TestStateHasRoom(t *testing.T) {
	for _, want := range [][3]int{{1, 1, 0}, {maxID, maxGen, MaxBackends}, {0, 0, 0}} {
		id, gen, n := unpack(state(uint32(want[0]), uint32(want[1]), want[2]))
		if got := [3]int{int(id), int(gen), n}; got != want {
			t.Errorf("%v came back as %v", want, got)
		}
	}
	h := &held{gen: maxGen}
	if h.nextGen() != 0 {
		t.Errorf("after generation %d comes %d", maxGen, h.nextGen())
	}
}

func TestIDsRest(t *testing.T) {
	n := &ids{last: maxID - 1, used: map[uint32]bool{1: true}}
	if got := [3]uint32{n.take(), n.take(), n.take()}; got != [3]uint32{maxID, 2, 3} {
		t.Errorf("ids are %v", got)
	}
}

func TestAddressesAreInNetworkOrder(t *testing.T) {
	want := netip.MustParseAddrPort("10.42.3.4:8080")
	if got := addrPort(address(want)); got != want {
		t.Errorf("%s came back as %s", want, got)
	}
	if m := portableMask(16); m != ipBits(netip.MustParseAddr("255.255.0.0")) {
		t.Errorf("the mask of /16 is %x", m)
	}
	s := svcFor(UDP, "10.43.0.10:53")
	if got := serviceOf(s.key()); compareServices(got, s) != 0 {
		t.Errorf("%s came back as %s", s, got)
	}
}

// The committed object is what the loader and this package take it for.
func TestObject(t *testing.T) {
	spec, err := loadService()
	if err != nil {
		t.Fatal(err)
	}
	if got := spec.Maps[serviceMapServices].MaxEntries; got != MaxServices {
		t.Errorf("services has room for %d, not %d", got, MaxServices)
	}
	if got := spec.Maps[serviceMapSlots].MaxEntries; got != maxSlots {
		t.Errorf("slots has room for %d, not %d", got, maxSlots)
	}
	var specs serviceSpecs
	if err := spec.Assign(&specs); err != nil {
		t.Error(err)
	}
}

// The committed object was made from the committed source: go generate.
func TestGeneratedIsCurrent(t *testing.T) {
	sums, err := os.ReadFile("service.sum")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(sums)) {
		want, file, _ := strings.Cut(strings.TrimSpace(line), "  ")
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%x", sha256.Sum256(source)); got != want {
			t.Errorf("%s has changed since go generate ./bpf was run", file)
		}
	}
}
