package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
)

// table is the one netfilter table of this package, in the node's namespace.
const table = "rutter"

// unrule removes the table; naming it first makes that no error if there is none.
const unrule = "table ip " + table + "\ndelete table ip " + table + "\n"

// rules is the table as a whole, set in one transaction. Connection tracking,
// which the masquerade brings about, is kept away from what stays inside.
func (n *Network) rules() string {
	return "table ip " + table + "\n" + strings.NewReplacer(
		"$TABLE", table, "$PODS", n.cfg.PodRange.Masked().String(), "$CLUSTER", n.cfg.ClusterRange.Masked().String(),
	).Replace(`flush table ip $TABLE
table ip $TABLE {
	map hostports {
		type inet_proto . inet_service : ipv4_addr . inet_service
	}
	map hostports_at {
		type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
	}
	chain untracked_in {
		type filter hook prerouting priority raw; policy accept;
		ip saddr $CLUSTER ip daddr $CLUSTER notrack
		ip saddr $PODS fib daddr type local notrack
	}
	chain untracked_out {
		type filter hook output priority raw; policy accept;
		ip daddr $PODS notrack
	}
	chain to_hostports {
		type nat hook prerouting priority dstnat; policy accept;
		dnat ip to ip daddr . meta l4proto . th dport map @hostports_at
		fib daddr type local dnat ip to meta l4proto . th dport map @hostports
	}
	chain leaving {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr $PODS ip daddr != $CLUSTER masquerade
	}
}
`)
}

// HostPort is a port of the node behind which a pod is.
type HostPort struct {
	Protocol string     // "TCP" or "UDP"
	Address  netip.Addr // of the node; zero: any of its addresses
	Port     uint16
	Pod      netip.AddrPort
}

// SetHostPorts makes the node's host ports those given, the whole of them, in
// one transaction. Connections that exist stay.
func (n *Network) SetHostPorts(ctx context.Context, ports []HostPort) error {
	var b strings.Builder
	fmt.Fprintf(&b, "flush map ip %s hostports\nflush map ip %s hostports_at\n", table, table)
	for _, p := range ports {
		proto := strings.ToLower(p.Protocol)
		if (proto != "tcp" && proto != "udp") || p.Port == 0 || !p.Pod.Addr().Is4() || p.Pod.Port() == 0 {
			return fmt.Errorf("set host ports: %+v: needs TCP or UDP, a port and a pod's IPv4 address and port", p)
		}
		to := fmt.Sprintf("%s . %d : %s . %d", proto, p.Port, p.Pod.Addr(), p.Pod.Port())
		if p.Address.IsValid() && !p.Address.IsUnspecified() {
			fmt.Fprintf(&b, "add element ip %s hostports_at { %s . %s }\n", table, p.Address, to)
		} else {
			fmt.Fprintf(&b, "add element ip %s hostports { %s }\n", table, to)
		}
	}
	if err := n.nft(ctx, b.String()); err != nil {
		return fmt.Errorf("set host ports: %w", err)
	}
	return nil
}

// nft runs a transaction of netfilter in the node's namespace.
func (n *Network) nft(ctx context.Context, script string) error {
	return n.onNode(func() error {
		cmd := exec.CommandContext(ctx, "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("nft (of the package nftables): %w: %s", err, bytes.TrimSpace(out.Bytes()))
		}
		return nil
	})
}

// The chain in which iptables' FORWARD rules are kept, since iptables became a
// front end of nftables.
const forwardChain = "ip filter FORWARD"

// passMark is the comment on the rules that this package puts there.
const passMark = "rutter pods"

// passRule is a line of nft --handle list chain, of a rule of ours.
var passRule = regexp.MustCompile(`comment "` + passMark + `" # handle (\d+)`)

// pass lets the pods' packets through where another program has the host drop
// what is forwarded, as Docker does.
func (n *Network) pass(ctx context.Context) error {
	chain, err := n.chain(ctx)
	if err != nil || !strings.Contains(chain, "policy drop") || passRule.MatchString(chain) {
		return err
	}
	var b strings.Builder
	for _, direction := range []string{"saddr", "daddr"} {
		fmt.Fprintf(&b, "insert rule %s ip %s %s accept comment %q\n", forwardChain, direction, n.cfg.ClusterRange.Masked(), passMark)
	}
	if err := n.nft(ctx, b.String()); err != nil {
		return fmt.Errorf("let pods' packets pass: %w", err)
	}
	return nil
}

// unpass removes the rules of pass.
func (n *Network) unpass(ctx context.Context) error {
	chain, err := n.chain(ctx)
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, rule := range passRule.FindAllStringSubmatch(chain, -1) {
		fmt.Fprintf(&b, "delete rule %s handle %s\n", forwardChain, rule[1])
	}
	if b.Len() == 0 {
		return nil
	}
	return n.nft(ctx, b.String())
}

// chain lists the chain that forwardChain names; empty if there is none.
func (n *Network) chain(ctx context.Context) (list string, err error) {
	err = n.onNode(func() error {
		args := append([]string{"--handle", "list", "chain"}, strings.Fields(forwardChain)...)
		out, err := exec.CommandContext(ctx, "nft", args...).Output()
		var failed *exec.ExitError
		if err != nil && !errors.As(err, &failed) {
			return fmt.Errorf("nft (of the package nftables): %w", err)
		}
		list = string(out)
		return nil
	})
	return list, err
}
