package network

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	linkPrefix = "rut" // of the node's ends of pods' links
	podLink    = "eth0"
)

// linkName names the node's end of a pod's link: 15 bytes, all there is room for.
func linkName(uid string) string {
	sum := sha256.Sum256([]byte(uid))
	return fmt.Sprintf("%s%x", linkPrefix, sum[:6])
}

// The node's ends all have one MAC, and a pod's has its address in it: neither
// needs to be asked for.
var nodeMAC = net.HardwareAddr{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}

func podMAC(ip netip.Addr) net.HardwareAddr {
	b := ip.As4()
	return net.HardwareAddr{0x0a, 0x58, b[0], b[1], b[2], b[3]}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Attach gives a pod its namespaces and its place in the network: it returns
// the file of its network namespace and its address. IPC and UTS namespaces
// are pinned along with it (see IPC and UTS). For a pod that has them already it looks
// whether all is there, mends what is not, and returns the same. A pod must
// not be attached twice at once.
func (n *Network) Attach(ctx context.Context, podUID string) (netnsPath string, ip netip.Addr, err error) {
	if err := checkUID(podUID); err != nil {
		return "", ip, err
	}
	if err := ctx.Err(); err != nil {
		return "", ip, err
	}
	ip, err = n.addresses.give(podUID)
	if err != nil {
		return "", ip, fmt.Errorf("attach pod %s: %w", podUID, err)
	}
	path := n.path(netNamespace, podUID)
	if n.whole(podUID, ip) {
		return path, ip, nil
	}
	err = onThread(func() error {
		if err := n.enter(podUID, namespaces...); err != nil {
			return err
		}
		return n.connect(podUID, ip, path)
	})
	if err != nil {
		return "", netip.Addr{}, fmt.Errorf("attach pod %s: %w", podUID, err)
	}
	return path, ip, nil
}

// Isolate is Attach for a pod that uses the node's network: it pins an IPC
// namespace and nothing else.
func (n *Network) Isolate(ctx context.Context, podUID string) error {
	if err := checkUID(podUID); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := onThread(func() error { return n.enter(podUID, ipcNamespace) }); err != nil {
		return fmt.Errorf("isolate pod %s: %w", podUID, err)
	}
	return nil
}

// Net, IPC and UTS are the files of a pod's namespaces.
func (n *Network) Net(podUID string) string { return n.path(netNamespace, podUID) }

// IPC is the file of a pod's IPC namespace.
func (n *Network) IPC(podUID string) string { return n.path(ipcNamespace, podUID) }

// UTS is the file of a pod's UTS namespace, which holds its host name.
func (n *Network) UTS(podUID string) string { return n.path(utsNamespace, podUID) }

// checkUID refuses what cannot be a file name.
func checkUID(uid string) error {
	if uid == "" || uid == "." || uid == ".." || strings.ContainsAny(uid, "/\x00") {
		return fmt.Errorf("%q is no pod uid", uid)
	}
	return nil
}

// enter moves the thread into the pod's namespaces, making those that are not there.
func (n *Network) enter(uid string, kinds ...namespace) error {
	for _, kind := range kinds {
		path := n.path(kind, uid)
		if !pinned(path) {
			if err := pin(kind, path); err != nil {
				return err
			}
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("open namespace: %w", err)
		}
		err = unix.Setns(int(f.Fd()), kind.flag)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("enter %s namespace: %w", kind.folder, err)
		}
	}
	return nil
}

// whole tells whether the pod is attached: the route is what is made last.
func (n *Network) whole(uid string, ip netip.Addr) bool {
	for _, kind := range namespaces {
		if !pinned(n.path(kind, uid)) {
			return false
		}
	}
	l, err := n.nl.LinkByName(linkName(uid))
	if err != nil || l.Attrs().Flags&net.FlagUp == 0 {
		return false
	}
	routes, err := n.nl.RouteListFiltered(unix.AF_INET, &netlink.Route{LinkIndex: l.Attrs().Index, Protocol: protoPod}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
	return err == nil && slices.ContainsFunc(routes, func(r netlink.Route) bool {
		return r.Dst != nil && r.Dst.String() == ipNet(netip.PrefixFrom(ip, 32)).String()
	})
}

// connect makes the link between the pod, in whose namespaces the thread is,
// and the node.
func (n *Network) connect(uid string, ip netip.Addr, path string) error {
	name := linkName(uid)
	// A link that is there is of an attempt that was cut off.
	if old, err := n.nl.LinkByName(name); err == nil {
		if err := n.nl.LinkDel(old); err != nil {
			return fmt.Errorf("remove link %s: %w", name, err)
		}
	}
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open namespace: %w", err)
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = name, n.cfg.MTU, nodeMAC
	attrs.Flags = net.FlagUp
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace, veth.PeerHardwareAddr = podLink, netlink.NsFd(ns.Fd()), podMAC(ip)
	if err := n.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("create link %s: %w", name, err)
	}
	if err := configurePod(ip); err != nil {
		return err
	}
	index := veth.Attrs().Index
	neighbour := &netlink.Neigh{LinkIndex: index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: podMAC(ip)}
	if err := n.nl.NeighSet(neighbour); err != nil {
		return fmt.Errorf("tell the node the pod's MAC: %w", err)
	}
	route := &netlink.Route{LinkIndex: index, Dst: ipNet(netip.PrefixFrom(ip, 32)), Scope: unix.RT_SCOPE_LINK, Protocol: protoPod, Src: n.Address().AsSlice()}
	if err := n.nl.RouteReplace(route); err != nil {
		return fmt.Errorf("add route to %s: %w", ip, err)
	}
	return nil
}

// podSysctls are as container runtimes set them for pods: every user may
// listen on low ports and ping.
var podSysctls = map[string]string{
	"/proc/sys/net/ipv4/ip_unprivileged_port_start": "0",
	"/proc/sys/net/ipv4/ping_group_range":           "0 2147483647",
}

// configurePod sets the pod's end up, in the thread's namespace.
func configurePod(ip netip.Addr) error {
	for file, value := range podSysctls {
		if err := os.WriteFile(file, []byte(value), 0); err != nil {
			return fmt.Errorf("set %s: %w", filepath.Base(file), err)
		}
	}
	pod, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink in the pod: %w", err)
	}
	defer pod.Close()
	lo, err := pod.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo in the pod: %w", err)
	}
	eth, err := pod.LinkByName(podLink)
	if err != nil {
		return fmt.Errorf("find %s in the pod: %w", podLink, err)
	}
	index := eth.Attrs().Index
	everything := ipNet(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"set lo up", func() error { return pod.LinkSetUp(lo) }},
		{"set address", func() error {
			return pod.AddrReplace(eth, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(ip, 32))})
		}},
		{"set " + podLink + " up", func() error { return pod.LinkSetUp(eth) }},
		{"set the gateway's MAC", func() error {
			return pod.NeighSet(&netlink.Neigh{LinkIndex: index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: gateway.AsSlice(), HardwareAddr: nodeMAC})
		}},
		{"set default route", func() error {
			return pod.RouteReplace(&netlink.Route{LinkIndex: index, Dst: everything, Gw: gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK)})
		}},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s in the pod: %w", step.what, err)
		}
	}
	return nil
}

// Detach takes away what Attach or Isolate made for a pod, as far as it is
// there. The address becomes free last.
func (n *Network) Detach(ctx context.Context, podUID string) error {
	if err := checkUID(podUID); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	var missing netlink.LinkNotFoundError
	l, err := n.nl.LinkByName(linkName(podUID))
	if err == nil {
		err = n.nl.LinkDel(l)
	}
	if err != nil && !errors.As(err, &missing) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("detach pod %s: remove link: %w", podUID, err)
	}
	for _, kind := range namespaces {
		if err := unpin(n.path(kind, podUID)); err != nil {
			return fmt.Errorf("detach pod %s: %w", podUID, err)
		}
	}
	if err := n.addresses.takeBack(podUID); err != nil {
		return fmt.Errorf("detach pod %s: %w", podUID, err)
	}
	return nil
}

// Sweep detaches all pods but those to keep, also what half an attempt left.
// It goes on after errors and returns them all.
func (n *Network) Sweep(ctx context.Context, keep []string) error {
	known := n.addresses.uids()
	for _, kind := range namespaces {
		files, err := os.ReadDir(filepath.Join(n.cfg.RunDir, kind.folder))
		if err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("sweep: %w", err)
		}
		for _, f := range files {
			known = append(known, f.Name())
		}
	}
	slices.Sort(known)
	var errs []error
	for _, uid := range slices.Compact(known) {
		if !slices.Contains(keep, uid) {
			errs = append(errs, n.Detach(ctx, uid))
		}
	}
	return errors.Join(append(errs, n.sweepLinks(keep))...)
}

// sweepLinks removes links that no file tells of: RunDir was lost.
func (n *Network) sweepLinks(keep []string) error {
	links, err := n.nl.LinkList()
	if err != nil {
		return fmt.Errorf("sweep: list links: %w", err)
	}
	names := map[string]bool{}
	for _, uid := range keep {
		names[linkName(uid)] = true
	}
	var errs []error
	for _, l := range links {
		name := l.Attrs().Name
		if l.Type() != "veth" || len(name) != len(linkName("")) || !strings.HasPrefix(name, linkPrefix) || names[name] {
			continue
		}
		if err := n.nl.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("sweep: remove link %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}
