package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Config says which addresses a node's network uses.
type Config struct {
	// RunDir is for pinned namespaces and records of addresses. It should not
	// outlive a restart of the machine, such as /run/rutter/<node>.
	RunDir string
	// PodRange is where this node's pods have their addresses from, such as
	// 10.42.1.0/24. The node itself has the first of them, 10.42.1.1.
	PodRange netip.Prefix
	// ClusterRange is where all nodes' pods have theirs from: what goes there
	// is not masqueraded. Zero: PodRange.
	ClusterRange netip.Prefix
	// ServiceRange is where service addresses are from. No packet should be
	// addressed there, for sockets do not send such, and those that are get
	// an error back instead of leaving the node. Zero: not known.
	ServiceRange netip.Prefix
	// Local are further addresses at which this node answers its pods, such as
	// that of DNS.
	Local []netip.Addr
	// MTU is the pods' largest packet in bytes. Zero: 1500.
	MTU int
}

// gateway is the next hop of every pod. It is nobody's address: its MAC is
// known to the pods.
var gateway = netip.AddrFrom4([4]byte{169, 254, 1, 1})

// Who made a route, so that it is known again. The numbers are of the range
// that is free for everyone's use.
const (
	protoNode = 114 // belongs to the node
	protoPod  = 115 // leads to a pod
	protoPeer = 116 // leads to another node's pods
)

const defaultMTU = 1500

// Network is the pod network of one node.
type Network struct {
	cfg       Config
	ns        netns.NsHandle // of the node
	nl        *netlink.Handle
	addresses *addresses
}

// New returns the network of the node whose network namespace the calling
// thread is in. It reads what an earlier process left in RunDir and changes nothing.
func New(cfg Config) (*Network, error) {
	if cfg.ClusterRange == (netip.Prefix{}) {
		cfg.ClusterRange = cfg.PodRange
	}
	if cfg.MTU == 0 {
		cfg.MTU = defaultMTU
	}
	if cfg.RunDir == "" || !cfg.PodRange.IsValid() {
		return nil, errors.New("network: needs a run folder and a pod range")
	}
	n := &Network{cfg: cfg}
	for _, dir := range []string{"net", "ipc", "uts", "addresses"} {
		if err := os.MkdirAll(filepath.Join(cfg.RunDir, dir), 0o711); err != nil {
			return nil, fmt.Errorf("network: %w", err)
		}
	}
	var err error
	if n.addresses, err = loadAddresses(filepath.Join(cfg.RunDir, "addresses"), cfg.PodRange); err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	if n.ns, err = netns.Get(); err != nil {
		return nil, fmt.Errorf("network: find own namespace: %w", err)
	}
	if n.nl, err = netlink.NewHandleAt(n.ns, unix.NETLINK_ROUTE); err != nil {
		return nil, errors.Join(fmt.Errorf("network: open netlink: %w", err), n.ns.Close())
	}
	return n, nil
}

// Close lets go of the node's network namespace; everything stays in force.
func (n *Network) Close() error {
	n.nl.Close()
	return n.ns.Close()
}

// Address is the node's own address among its pods'.
func (n *Network) Address() netip.Addr { return n.cfg.PodRange.Masked().Addr().Next() }

// Setup makes the node forward, answer and masquerade. It may be repeated.
func (n *Network) Setup(ctx context.Context) error {
	if err := n.setup(ctx); err != nil {
		return fmt.Errorf("set up pod network: %w", err)
	}
	return nil
}

func (n *Network) setup(ctx context.Context) error {
	lo, err := n.nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := n.nl.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	for _, ip := range append([]netip.Addr{n.Address()}, n.cfg.Local...) {
		addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(ip, 32)), Scope: unix.RT_SCOPE_HOST}
		if err := n.nl.AddrReplace(lo, addr); err != nil {
			return fmt.Errorf("add %s to lo: %w", ip, err)
		}
	}
	// What nobody has must not leave by the default route.
	for _, r := range []netip.Prefix{n.cfg.PodRange, n.cfg.ServiceRange} {
		if !r.IsValid() {
			continue
		}
		route := &netlink.Route{Dst: ipNet(r), Type: unix.RTN_UNREACHABLE, Protocol: protoNode}
		if err := n.nl.RouteReplace(route); err != nil {
			return fmt.Errorf("add unreachable route for %s: %w", r, err)
		}
	}
	if err := n.forward(); err != nil {
		return err
	}
	if err := n.nft(ctx, n.rules()); err != nil {
		return err
	}
	return n.pass(ctx)
}

const forwardFile = "/proc/sys/net/ipv4/ip_forward"

// forward makes the node a router, and remembers how it was.
func (n *Network) forward() error {
	return n.onNode(func() error {
		was, err := os.ReadFile(forwardFile)
		if err != nil {
			return fmt.Errorf("turn forwarding on: %w", err)
		}
		if strings.TrimSpace(string(was)) == "1" {
			return nil
		}
		if err := os.WriteFile(n.forwarded(), was, 0o600); err != nil {
			return fmt.Errorf("turn forwarding on: %w", err)
		}
		if err := os.WriteFile(forwardFile, []byte("1"), 0); err != nil {
			return fmt.Errorf("turn forwarding on: %w", err)
		}
		return nil
	})
}

func (n *Network) forwarded() string { return filepath.Join(n.cfg.RunDir, "ip_forward") }

// Teardown takes away all that Setup and Attach made, and what earlier
// processes left. It goes on after errors and returns them all.
func (n *Network) Teardown(ctx context.Context) error {
	errs := []error{n.Sweep(ctx, nil), n.nft(ctx, unrule), n.unpass(ctx), n.teardownRoutes()}
	if lo, err := n.nl.LinkByName("lo"); err != nil {
		errs = append(errs, fmt.Errorf("find lo: %w", err))
	} else {
		for _, ip := range append([]netip.Addr{n.Address()}, n.cfg.Local...) {
			err := n.nl.AddrDel(lo, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(ip, 32))})
			if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				errs = append(errs, fmt.Errorf("remove %s from lo: %w", ip, err))
			}
		}
	}
	errs = append(errs, n.unforward())
	for _, dir := range []string{"net", "ipc", "uts", "addresses"} {
		if err := os.Remove(filepath.Join(n.cfg.RunDir, dir)); err != nil && !os.IsNotExist(err) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("tear pod network down: %w", err)
	}
	return nil
}

func (n *Network) unforward() error {
	was, err := os.ReadFile(n.forwarded())
	if os.IsNotExist(err) {
		return nil
	}
	if err == nil {
		err = n.onNode(func() error { return os.WriteFile(forwardFile, was, 0) })
	}
	if err != nil {
		return fmt.Errorf("turn forwarding off: %w", err)
	}
	return os.Remove(n.forwarded())
}

func (n *Network) teardownRoutes() error {
	routes, err := n.routes(protoNode, protoPeer)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range routes {
		if err := n.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route %s: %w", r.Dst, err))
		}
	}
	return errors.Join(errs...)
}

// routes returns the routes that the given parts of this package made.
func (n *Network) routes(protos ...netlink.RouteProtocol) ([]netlink.Route, error) {
	all, err := n.nl.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return slices.DeleteFunc(all, func(r netlink.Route) bool { return !slices.Contains(protos, r.Protocol) }), nil
}

// Peer is another node: its pods are reached through its address.
type Peer struct {
	PodRange netip.Prefix
	Address  netip.Addr
}

// SetPeers makes the routes to other nodes' pods those to peers: the whole of them.
func (n *Network) SetPeers(ctx context.Context, peers []Peer) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	have, err := n.routes(protoPeer)
	if err != nil {
		return fmt.Errorf("set peers: %w", err)
	}
	for _, p := range peers {
		if p.PodRange == n.cfg.PodRange {
			continue
		}
		dst := ipNet(p.PodRange)
		r := &netlink.Route{Dst: dst, Gw: p.Address.AsSlice(), Protocol: protoPeer}
		if err := n.nl.RouteReplace(r); err != nil {
			return fmt.Errorf("set route to %s by %s: %w", p.PodRange, p.Address, err)
		}
		have = slices.DeleteFunc(have, func(r netlink.Route) bool { return r.Dst.String() == dst.String() })
	}
	for _, r := range have {
		if err := n.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route to %s: %w", r.Dst, err)
		}
	}
	return nil
}
