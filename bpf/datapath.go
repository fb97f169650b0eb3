package bpf

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
)

// layout is the version of the maps' contents. A program that finds maps of
// another layout fills new ones beside them and removes the old ones, and the
// programs that read them, when it is done.
const layout = "v1"

// retirement is for how long slots stay after no service names them: much
// longer than a program runs that read their service before.
const retirement = time.Second

// Config says for whom a Datapath works.
type Config struct {
	// Node is the node's name: nodes on one machine have maps of their own.
	Node string
	// CgroupPath is the cgroup whose sockets are served, in the unified
	// hierarchy; empty: "/rutter/<Node>". It is created if need be.
	CgroupPath string
	// HostServices serves the programs of the node itself, too: every socket,
	// in whatever cgroup, in the network namespace of the thread that calls Open.
	HostServices bool
	// PinDir is the folder for pins, in a BPF file system; empty:
	// "/sys/fs/bpf/rutter".
	PinDir string
	// Range is where service addresses are from. Connections to an address in
	// it that no service has are refused; without it they go where the routes lead.
	Range netip.Prefix
}

// Datapath balances connections to services among their backends.
type Datapath struct {
	cfg    Config
	root   string // where the unified hierarchy is mounted
	cgroup string // the node's
	dir    string // of the pins of this layout

	mu      sync.Mutex // guards the following
	objects serviceObjects
	host    servicePrograms // with HostServices, those for the node itself
	links   []link.Link
	have    map[serviceSvcKey]*held
	ids     ids
	retired []retiree
	stale   bool // a write failed: have may not be what the maps hold
	swept   bool // other layouts were removed
}

// retiree is slots that no service names since a time.
type retiree struct {
	since time.Time
	slots []serviceSlotKey
}

// Open loads the programs and attaches them, or takes over those that an
// earlier process left: the services it set stay in force, and no connection
// fails in between.
func Open(cfg Config) (*Datapath, error) {
	if cfg.Node == "" || strings.ContainsAny(cfg.Node, "/") || strings.HasPrefix(cfg.Node, ".") {
		return nil, fmt.Errorf("open datapath: %q is no node name", cfg.Node)
	}
	if cfg.CgroupPath == "" {
		cfg.CgroupPath = "/rutter/" + cfg.Node
	}
	if cfg.PinDir == "" {
		cfg.PinDir = bpffs + "/rutter"
	}
	root, err := CgroupRoot()
	if err != nil {
		return nil, fmt.Errorf("open datapath: %w", err)
	}
	d := &Datapath{cfg: cfg, root: root, cgroup: filepath.Join(root, cfg.CgroupPath), dir: filepath.Join(cfg.PinDir, cfg.Node, layout)}
	if err := d.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open datapath of node %s: %w", cfg.Node, err), d.Close())
	}
	return d, nil
}

func (d *Datapath) open() error {
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("raise memory limit: %w", err)
	}
	if err := mountBPF(); err != nil {
		return err
	}
	if err := os.MkdirAll(d.cgroup, 0o755); err != nil {
		return fmt.Errorf("create cgroup: %w", err)
	}
	err := d.load()
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		// Maps of this layout, yet others than ours: nothing can be taken over.
		if err := removePins(d.dir); err != nil {
			return err
		}
		err = d.load()
	}
	if err != nil {
		return err
	}
	if err := d.reload(); err != nil {
		return err
	}
	return d.attach()
}

// Whom programs are for, as service.c says it.
const (
	scopeAll = iota
	scopeOthers
	scopeOwn
)

// load loads the programs, with the pinned maps where there are any.
func (d *Datapath) load() error {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return fmt.Errorf("create pin folder: %w", err)
	}
	own, scope := uint64(0), uint32(scopeAll)
	if d.cfg.HostServices {
		var err error
		if own, err = netnsCookie(); err != nil {
			return err
		}
		scope = scopeOthers
	}
	spec, err := d.spec(scope, own)
	if err != nil {
		return err
	}
	if err := spec.LoadAndAssign(&d.objects, &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: d.dir}}); err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	if !d.cfg.HostServices {
		return nil
	}
	if spec, err = d.spec(scopeOwn, own); err != nil {
		return err
	}
	if err := spec.LoadAndAssign(&d.host, &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: d.dir}}); err != nil {
		return fmt.Errorf("load programs for the host: %w", err)
	}
	return nil
}

// spec is the programs with what is constant in them.
func (d *Datapath) spec(scope uint32, own uint64) (*ebpf.CollectionSpec, error) {
	spec, err := loadService()
	if err != nil {
		return nil, err
	}
	constants := map[string]any{serviceVarScope: scope, serviceVarOwnNetns: own}
	if r := d.cfg.Range; r.IsValid() {
		if !r.Addr().Is4() || r.Bits() == 0 {
			return nil, fmt.Errorf("service range %s: needs to be a range of IPv4 addresses", r)
		}
		constants[serviceVarRangeMask], constants[serviceVarRangeNet] = portableMask(r.Bits()), ipBits(r.Masked().Addr())
	}
	for name, value := range constants {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
	}
	return spec, nil
}

// portableMask is the netmask in network byte order.
func portableMask(bits int) uint32 {
	m := ^uint32(0) << (32 - bits)
	return ipBits(netip.AddrFrom4([4]byte{byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)}))
}

// reload reads what the maps hold, and removes what belongs to no service.
func (d *Datapath) reload() error {
	c, err := readMaps(&d.objects.serviceMaps)
	if err != nil {
		return err
	}
	if err := errors.Join(remove(d.objects.Backends, c.members), remove(d.objects.Slots, c.unborn)); err != nil {
		return err
	}
	d.have = c.services
	d.retire(c.old)
	// An id that old slots have must not come again before they are gone.
	d.ids.used = map[uint32]bool{}
	for _, k := range c.old {
		d.ids.used[k.Svc] = true
	}
	for _, h := range d.have {
		d.ids.used[h.id] = true
	}
	for id := range d.ids.used {
		d.ids.last = max(d.ids.last, id)
	}
	d.stale = false
	return nil
}

// Set makes services the services in force: the whole configuration. Only
// what differs from the one before is written, each service by one atomic
// write. After an error some services may have changed and others not; the
// next Set finds out.
func (d *Datapath) Set(ctx context.Context, services []Service) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stale {
		if err := d.reload(); err != nil {
			return fmt.Errorf("set services: %w", err)
		}
	}
	if err := d.bury(); err != nil {
		return fmt.Errorf("set services: %w", err)
	}
	p, err := planFor(d.have, &d.ids, services)
	if err != nil {
		d.stale = true // ids were taken
		return fmt.Errorf("set services: %w", err)
	}
	if err := d.makeRoom(ctx, len(p.newSlots)); err != nil {
		d.stale = true
		return fmt.Errorf("set services: %w", err)
	}
	if err := d.apply(p); err != nil {
		d.stale = true
		return fmt.Errorf("set services: %w", err)
	}
	return d.sweep()
}

// apply carries a plan out.
func (d *Datapath) apply(p *plan) error {
	if p.empty() {
		return nil
	}
	m := &d.objects.serviceMaps
	if err := put(m.Backends, p.newMembers, make([]uint32, len(p.newMembers))); err != nil {
		return err
	}
	if err := put(m.Slots, p.newSlots, p.newTargets); err != nil {
		return err
	}
	if err := put(m.Services, p.services, p.states); err != nil {
		return err
	}
	if err := remove(m.Services, p.deleted); err != nil {
		return err
	}
	if err := remove(m.Backends, p.oldMembers); err != nil {
		return err
	}
	if len(p.oldSlots) > 0 {
		d.retired = append(d.retired, retiree{since: time.Now(), slots: p.oldSlots})
	}
	for _, k := range p.deleted {
		delete(d.ids.used, d.have[k].id)
		delete(d.have, k)
	}
	maps.Copy(d.have, p.changed)
	return nil
}

// retire notes slots that no service names any longer, but for those that it
// was told of before: they have waited since then.
func (d *Datapath) retire(slots []serviceSlotKey) {
	known := map[serviceSlotKey]bool{}
	for _, r := range d.retired {
		for _, k := range r.slots {
			known[k] = true
		}
	}
	slots = slices.DeleteFunc(slices.Clone(slots), func(k serviceSlotKey) bool { return known[k] })
	if len(slots) > 0 {
		d.retired = append(d.retired, retiree{since: time.Now(), slots: slots})
	}
}

// bury removes the slots that were retired long enough ago. It is called by
// Set, so that what one update retires stays until a later one: no more than
// one generation of what changed.
func (d *Datapath) bury() error {
	now, n := time.Now(), 0
	for _, r := range d.retired {
		if now.Sub(r.since) < retirement {
			break
		}
		if err := remove(d.objects.Slots, r.slots); err != nil {
			return err
		}
		n++
	}
	d.retired = slices.Delete(d.retired, 0, n)
	return nil
}

// makeRoom waits for retired slots to be buried if the new ones would not fit
// beside them: when nearly everything changes several times a second.
func (d *Datapath) makeRoom(ctx context.Context, slots int) error {
	for slots > 0 && len(d.retired) > 0 && slots+d.slotsHeld() > int(d.objects.Slots.MaxEntries()) {
		select {
		case <-time.After(retirement - time.Since(d.retired[0].since)):
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := d.bury(); err != nil {
			return err
		}
	}
	return nil
}

// slotsHeld counts the slots in the map: those in force and those retired.
func (d *Datapath) slotsHeld() int {
	n := 0
	for _, h := range d.have {
		n += len(h.backends)
	}
	for _, r := range d.retired {
		n += len(r.slots)
	}
	return n
}

// Services returns what the maps hold, in the order of the addresses.
func (d *Datapath) Services() ([]Service, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c, err := readMaps(&d.objects.serviceMaps)
	if err != nil {
		return nil, err
	}
	var out []Service
	for k, h := range c.services {
		s := serviceOf(k)
		s.Backends = h.backends
		out = append(out, s)
	}
	slices.SortFunc(out, compareServices)
	return out, nil
}

// Stats counts what the programs did since they were first loaded on the node.
type Stats struct {
	Picked     uint64 // connections, or first datagrams, sent to a backend
	Kept       uint64 // datagrams sent where the socket's last one went
	Empty      uint64 // refused: the service has no backend
	Unknown    uint64 // refused: in the service range, but no service
	Incomplete uint64 // refused: a slot was missing, which must not happen
}

// Stats returns the sums over all processors.
func (d *Datapath) Stats() (Stats, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var sums [5]uint64
	for i := range sums {
		var each []uint64
		if err := d.objects.Counters.Lookup(uint32(i), &each); err != nil {
			return Stats{}, fmt.Errorf("read counters: %w", err)
		}
		for _, n := range each {
			sums[i] += n
		}
	}
	return Stats{Picked: sums[0], Kept: sums[1], Empty: sums[2], Unknown: sums[3], Incomplete: sums[4]}, nil
}

// Close lets go of the maps and programs. They stay in force by their pins,
// for the next process to take over.
func (d *Datapath) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.close()
}

func (d *Datapath) close() error {
	var errs []error
	for _, l := range d.links {
		errs = append(errs, l.Close())
	}
	d.links = nil
	errs = append(errs, d.objects.Close(), d.host.Close())
	return errors.Join(errs...)
}

// Remove takes the programs, the maps and the node's cgroup away, as far as
// the cgroup has no processes, and closes d. Sockets that exist keep what they were
// connected to.
func (d *Datapath) Remove() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Join(d.close(), Remove(d.cfg))
}

// Remove takes away what a Datapath of this configuration left, without
// opening it.
func Remove(cfg Config) error {
	pins := cfg.PinDir
	if pins == "" {
		pins = bpffs + "/rutter"
	}
	path := cfg.CgroupPath
	if path == "" {
		path = "/rutter/" + cfg.Node
	}
	var errs []error
	errs = append(errs, removePins(filepath.Join(pins, cfg.Node)), removeEmpty(pins, filepath.Dir(pins)), unmountBPF())
	root, err := CgroupRoot()
	if err == nil {
		err = removeEmpty(filepath.Join(root, path), root)
	}
	return errors.Join(append(errs, err)...)
}
