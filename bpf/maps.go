package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
)

// batch bounds the elements of one system call: the kernel copies them.
const batch = 8192

// put writes all pairs. Where the kernel refuses a batch (a fresh map that
// allocates on demand answers ENOMEM on some kernels), it goes on one by one.
func put[K, V any](m *ebpf.Map, keys []K, values []V) error {
	for len(keys) > 0 {
		n := min(len(keys), batch)
		if _, err := m.BatchUpdate(keys[:n], values[:n], nil); err != nil {
			for i := range n {
				if err := m.Put(&keys[i], &values[i]); err != nil {
					return fmt.Errorf("write to map %s: %w", m, err)
				}
			}
		}
		keys, values = keys[n:], values[n:]
	}
	return nil
}

// remove deletes all keys; those that are not there are no error.
func remove[K any](m *ebpf.Map, keys []K) error {
	for len(keys) > 0 {
		n := min(len(keys), batch)
		if _, err := m.BatchDelete(keys[:n], nil); err != nil {
			for i := range n {
				if err := m.Delete(&keys[i]); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
					return fmt.Errorf("delete from map %s: %w", m, err)
				}
			}
		}
		keys = keys[n:]
	}
	return nil
}

// read calls f for each element.
func read[K, V any](m *ebpf.Map, f func(K, V)) error {
	var cursor ebpf.MapBatchCursor
	keys, values := make([]K, batch), make([]V, batch)
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read map %s: %w", m, err)
		}
		for i := range n {
			f(keys[i], values[i])
		}
		if err != nil {
			return nil
		}
	}
}

// contents is what the maps hold: the services, and what belongs to none.
type contents struct {
	services map[serviceSvcKey]*held
	old      []serviceSlotKey    // of a generation or a service that was, or of a service that never came to be
	unborn   []serviceSlotKey    // of the generation that an update had begun to write
	members  []serviceBackendKey // of no service
}

// readMaps reads the maps as another process left them, perhaps in the middle
// of an update.
func readMaps(m *serviceMaps) (*contents, error) {
	c := &contents{services: map[serviceSvcKey]*held{}}
	byID := map[uint32]*held{}
	err := read(m.Services, func(k serviceSvcKey, v serviceSvc) {
		id, gen, n := unpack(v.State)
		h := &held{id: id, gen: gen, backends: make([]netip.AddrPort, n)}
		c.services[k], byID[id] = h, h
	})
	if err != nil {
		return nil, err
	}
	err = read(m.Slots, func(k serviceSlotKey, a serviceAddress) {
		h := byID[k.Svc]
		switch {
		case h != nil && h.gen == k.Gen && int(k.Slot) < len(h.backends):
			h.backends[k.Slot] = addrPort(a)
		case h != nil && h.nextGen() == k.Gen:
			c.unborn = append(c.unborn, k)
		default:
			c.old = append(c.old, k)
		}
	})
	if err != nil {
		return nil, err
	}
	members := map[uint32]int{}
	err = read(m.Backends, func(k serviceBackendKey, _ uint32) {
		if h := byID[k.Svc]; h != nil && contains(h.backends, addrPort(k.Addr)) {
			members[k.Svc]++
			return
		}
		c.members = append(c.members, k)
	})
	if err != nil {
		return nil, err
	}
	for _, h := range c.services {
		h.broken = slices.Contains(h.backends, netip.AddrPort{}) || members[h.id] != len(h.backends)
		h.backends = slices.DeleteFunc(h.backends, func(b netip.AddrPort) bool { return !b.IsValid() })
	}
	return c, nil
}
