package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
)

// addresses gives pods addresses and remembers them in a folder: a file per
// address, named by it, with the pod's uid in it.
type addresses struct {
	dir         string
	first, last netip.Addr

	mu    sync.Mutex // guards the following
	of    map[string]netip.Addr
	taken map[netip.Addr]string
	next  netip.Addr // where to look first, so that a freed address rests
}

// loadAddresses reads the folder. Of the range, the first address is not a
// pod's, the second is the node's, and the last is a broadcast by convention.
func loadAddresses(dir string, r netip.Prefix) (*addresses, error) {
	if !r.Addr().Is4() || r.Bits() > 29 {
		return nil, fmt.Errorf("pod range %s: needs at least 8 IPv4 addresses", r)
	}
	a := &addresses{dir: dir, of: map[string]netip.Addr{}, taken: map[netip.Addr]string{}}
	a.first = r.Masked().Addr().Next().Next()
	a.last = lastOf(r).Prev()
	a.next = a.first
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read addresses: %w", err)
	}
	for _, f := range files {
		ip, err := netip.ParseAddr(f.Name())
		if err != nil {
			// Begun by an earlier process and never given out.
			if err := os.Remove(filepath.Join(dir, f.Name())); err != nil {
				return nil, fmt.Errorf("read addresses: %w", err)
			}
			continue
		}
		uid, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return nil, fmt.Errorf("read addresses: %w", err)
		}
		a.of[string(uid)], a.taken[ip] = ip, string(uid)
		if !ip.Less(a.next) && ip.Less(a.last) {
			a.next = ip.Next()
		}
	}
	return a, nil
}

// lastOf returns the last address of an IPv4 range.
func lastOf(r netip.Prefix) netip.Addr {
	b := r.Masked().Addr().As4()
	for i := r.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}

// give returns the pod's address, and takes a free one if it has none. It is
// on disk when give returns.
func (a *addresses) give(uid string) (netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ip, ok := a.of[uid]; ok {
		return ip, nil
	}
	ip, err := a.free()
	if err != nil {
		return netip.Addr{}, err
	}
	begun := filepath.Join(a.dir, "begun-"+uid)
	if err := os.WriteFile(begun, []byte(uid), 0o600); err != nil {
		return netip.Addr{}, fmt.Errorf("keep address: %w", err)
	}
	if err := os.Rename(begun, filepath.Join(a.dir, ip.String())); err != nil {
		return netip.Addr{}, fmt.Errorf("keep address: %w", err)
	}
	a.of[uid], a.taken[ip] = ip, uid
	a.next = ip.Next()
	return ip, nil
}

func (a *addresses) free() (netip.Addr, error) {
	ip := a.next
	for tried := false; ; ip = ip.Next() {
		if a.last.Less(ip) {
			if tried {
				return netip.Addr{}, errors.New("the node's pod range has no free address")
			}
			ip, tried = a.first, true
		}
		if a.taken[ip] == "" {
			return ip, nil
		}
	}
}

// takeBack makes the pod's address free.
func (a *addresses) takeBack(uid string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	ip, ok := a.of[uid]
	if !ok {
		return nil
	}
	if err := os.Remove(filepath.Join(a.dir, ip.String())); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("free address: %w", err)
	}
	delete(a.of, uid)
	delete(a.taken, ip)
	return nil
}

// uids returns all pods that have an address.
func (a *addresses) uids() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []string
	for uid := range a.of {
		out = append(out, uid)
	}
	return out
}
