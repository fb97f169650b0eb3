package bpf

import (
	"fmt"
	"net/netip"
	"slices"
)

// held is what the maps hold for one service.
type held struct {
	id, gen  uint32
	backends []netip.AddrPort // sorted, in the order of the slots
	broken   bool             // the maps, when read, lacked a part of it
}

func (h *held) nextGen() uint32 { return (h.gen + 1) & maxGen }

// plan is what must be written, in the order in which it must be: nothing
// that a program may look up is missing at any moment, and each service moves
// from its old backends to its new ones by one write.
type plan struct {
	// First, what no service names yet.
	newMembers []serviceBackendKey
	newSlots   []serviceSlotKey
	newTargets []serviceAddress // of newSlots
	// Then one write per service.
	services []serviceSvcKey
	states   []serviceSvc // of services
	deleted  []serviceSvcKey
	// Then what no service names any longer.
	oldMembers []serviceBackendKey
	oldSlots   []serviceSlotKey // after a while: a program may be about to read them

	changed map[serviceSvcKey]*held // what the maps hold after it
}

func (p *plan) empty() bool { return len(p.services) == 0 && len(p.deleted) == 0 }

// planFor compares the configuration that is wanted with what the maps hold.
func planFor(have map[serviceSvcKey]*held, n *ids, want []Service) (*plan, error) {
	if len(want) > MaxServices {
		return nil, fmt.Errorf("%d service ports are configured, at most %d are possible", len(want), MaxServices)
	}
	p := &plan{changed: map[serviceSvcKey]*held{}}
	seen := make(map[serviceSvcKey]bool, len(want))
	total := 0
	for _, s := range want {
		if err := s.check(); err != nil {
			return nil, err
		}
		k := s.key()
		if seen[k] {
			return nil, fmt.Errorf("service %s: %w", s, errTwice)
		}
		seen[k] = true
		total += len(s.Backends)
		h := have[k]
		if h != nil && !h.broken && slices.Equal(h.backends, s.Backends) {
			continue
		}
		backends := sorted(s.Backends)
		if h != nil && !h.broken && slices.Equal(h.backends, backends) {
			continue
		}
		p.replace(k, h, n, backends)
	}
	if total > maxSlots/2 {
		return nil, fmt.Errorf("%d backends are configured, at most %d are possible", total, maxSlots/2)
	}
	for k, h := range have {
		if !seen[k] {
			p.deleted = append(p.deleted, k)
			p.retire(h, nil)
		}
	}
	return p, nil
}

// replace plans the move of one service to the backends; h is nil for a new one.
func (p *plan) replace(k serviceSvcKey, h *held, n *ids, backends []netip.AddrPort) {
	next := &held{gen: 1, backends: backends}
	if h != nil {
		next.id, next.gen = h.id, h.nextGen()
		p.retire(h, backends)
	} else {
		next.id = n.take()
	}
	for i, b := range backends {
		a := address(b)
		p.newSlots = append(p.newSlots, serviceSlotKey{Svc: next.id, Gen: next.gen, Slot: uint32(i)})
		p.newTargets = append(p.newTargets, a)
		if h == nil || h.broken || !contains(h.backends, b) {
			p.newMembers = append(p.newMembers, serviceBackendKey{Svc: next.id, Addr: a})
		}
	}
	p.services = append(p.services, k)
	p.states = append(p.states, serviceSvc{Key: k, State: state(next.id, next.gen, len(backends))})
	p.changed[k] = next
}

// retire plans the removal of what a service had and does not keep.
func (p *plan) retire(h *held, keep []netip.AddrPort) {
	for i, b := range h.backends {
		p.oldSlots = append(p.oldSlots, serviceSlotKey{Svc: h.id, Gen: h.gen, Slot: uint32(i)})
		if !contains(keep, b) {
			p.oldMembers = append(p.oldMembers, serviceBackendKey{Svc: h.id, Addr: address(b)})
		}
	}
}

func contains(sorted []netip.AddrPort, b netip.AddrPort) bool {
	_, found := slices.BinarySearchFunc(sorted, b, netip.AddrPort.Compare)
	return found
}

// The widths of what state packs.
const (
	maxID  = 1<<24 - 1
	maxGen = 1<<24 - 1
)

// ids gives services their numbers, from 1. One that was used comes again
// only after all others: sockets remember it.
type ids struct {
	last uint32
	used map[uint32]bool
}

func (n *ids) take() uint32 {
	for {
		n.last = n.last&maxID + 1
		if n.last <= maxID && !n.used[n.last] {
			n.used[n.last] = true
			return n.last
		}
	}
}
