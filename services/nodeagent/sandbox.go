package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/services/nodeagent/volumes"
)

// shmSize is the size of a pod's shared memory, in bytes, as container
// runtimes have it.
const shmSize = 64 << 20

// errNoNetwork: the node has not been given a range of pod addresses yet.
var errNoNetwork = errors.New("network is not ready: the node has no range of pod addresses yet")

// sandbox makes what all containers of a pod share: folders, namespaces,
// network, and the files by which programs learn names.
func (a *Agent) sandbox(ctx context.Context, p *pod, g Goal) error {
	ips, err := a.makeSandbox(ctx, g.Pod)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	p.update(func(w *World) {
		if err != nil {
			w.Sandbox.fail("FailedCreatePodSandBox", err.Error(), a.now(), retryDelayFirst, retryDelayMax)
			return
		}
		w.Sandbox, w.IPs = Step{Done: true}, ips
	})
	if err != nil && !errors.Is(err, errNoNetwork) {
		a.events.add(g.Pod, "", corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: "+err.Error())
	}
	return nil
}

func (a *Agent) makeSandbox(ctx context.Context, p *corev1.Pod) (ips []string, err error) {
	dir := a.podDir(p)
	for _, sub := range []string{"etc", "volumes", "termination"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("pod folder: %w", err)
		}
	}
	if err := os.MkdirAll(a.logDir(p), 0o755); err != nil {
		return nil, fmt.Errorf("log folder: %w", err)
	}
	n := a.net()
	if n == nil {
		return nil, errNoNetwork
	}
	if p.Spec.HostNetwork {
		if err := n.Isolate(ctx, string(p.UID)); err != nil {
			return nil, err
		}
		ips = a.hostIPs()
	} else {
		_, ip, err := n.Attach(ctx, string(p.UID))
		if err != nil {
			return nil, err
		}
		ips = []string{ip.String()}
	}
	if !p.Spec.HostIPC {
		if err := volumes.Tmpfs(filepath.Join(dir, "shm"), shmSize, 0o777|os.ModeSticky); err != nil {
			return nil, err
		}
		if err := os.Chmod(filepath.Join(dir, "shm"), 0o777|os.ModeSticky); err != nil {
			return nil, fmt.Errorf("shared memory: %w", err)
		}
	}
	return ips, a.writeEtc(p, ips)
}

// writeEtc writes hosts, resolv.conf and hostname.
func (a *Agent) writeEtc(p *corev1.Pod, ips []string) error {
	node, err := os.ReadFile(a.cfg.ResolvConf)
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("the node's resolver: %w", err)
	}
	hosts := hostsFile(p, ips, a.cfg.ClusterDomain)
	if p.Spec.HostNetwork {
		own, err := os.ReadFile("/etc/hosts")
		if err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("the node's hosts: %w", err)
		}
		hosts = string(own) + aliases(p)
	}
	dns := ""
	if a.cfg.ClusterDNS.IsValid() {
		dns = a.cfg.ClusterDNS.String()
	}
	for name, text := range map[string]string{
		"hosts":       hosts,
		"hostname":    hostname(p, a.cfg.Hostname) + "\n",
		"resolv.conf": resolvFile(p, string(node), dns, a.cfg.ClusterDomain),
	} {
		path := filepath.Join(a.podDir(p), "etc", name)
		if old, err := os.ReadFile(path); err == nil && string(old) == text {
			continue
		}
		// Written in place: the file is mounted in containers, and a container may
		// have changed it; only a new sandbox gets here.
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return fmt.Errorf("pod's %s: %w", name, err)
		}
	}
	return nil
}

// hostname is the name a pod's programs see.
func hostname(p *corev1.Pod, node string) string {
	switch {
	case p.Spec.HostnameOverride != nil:
		return *p.Spec.HostnameOverride
	case p.Spec.HostNetwork:
		return node
	case p.Spec.Hostname != "":
		return p.Spec.Hostname
	case len(p.Name) > 63:
		return strings.TrimRight(p.Name[:63], "-.")
	}
	return p.Name
}

// hostsFile is a pod's /etc/hosts.
func hostsFile(p *corev1.Pod, ips []string, domain string) string {
	var b strings.Builder
	b.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
	name := hostname(p, "")
	for _, ip := range ips {
		if p.Spec.Subdomain != "" && p.Spec.HostnameOverride == nil {
			fmt.Fprintf(&b, "%s\t%s.%s.%s.svc.%s\t%s\n", ip, name, p.Spec.Subdomain, p.Namespace, domain, name)
		} else {
			fmt.Fprintf(&b, "%s\t%s\n", ip, name)
		}
	}
	b.WriteString(aliases(p))
	return b.String()
}

func aliases(p *corev1.Pod) string {
	if len(p.Spec.HostAliases) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("\n# Entries added by HostAliases.\n")
	for _, h := range p.Spec.HostAliases {
		fmt.Fprintf(&b, "%s\t%s\n", h.IP, strings.Join(h.Hostnames, "\t"))
	}
	return b.String()
}

// Limits of resolv.conf, as Kubernetes has them.
const (
	nameserversMax = 3
	searchMax      = 32
)

// resolvFile is a pod's /etc/resolv.conf by its dnsPolicy and dnsConfig. node
// is the node's own.
func resolvFile(p *corev1.Pod, node, dns, domain string) string {
	servers, search, options := parseResolv(node)
	policy := p.Spec.DNSPolicy
	if policy == corev1.DNSClusterFirst && p.Spec.HostNetwork {
		policy = corev1.DNSDefault
	}
	switch {
	case policy == corev1.DNSNone:
		servers, search, options = nil, nil, nil
	case policy == corev1.DNSDefault || dns == "":
	default:
		servers = []string{dns}
		search = append([]string{p.Namespace + ".svc." + domain, "svc." + domain, domain}, search...)
		options = []string{"ndots:5"}
	}
	if c := p.Spec.DNSConfig; c != nil {
		servers = append(servers, c.Nameservers...)
		search = append(search, c.Searches...)
		for _, o := range c.Options {
			options = slices.DeleteFunc(options, func(have string) bool { return have == o.Name || strings.HasPrefix(have, o.Name+":") })
			if o.Value != nil && *o.Value != "" {
				options = append(options, o.Name+":"+*o.Value)
			} else {
				options = append(options, o.Name)
			}
		}
	}
	return writeResolv(unique(servers), unique(search), options)
}

func writeResolv(servers, search, options []string) string {
	var b strings.Builder
	if search = search[:min(len(search), searchMax)]; len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	for _, s := range servers[:min(len(servers), nameserversMax)] {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(options, " "))
	}
	return b.String()
}

func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func parseResolv(text string) (servers, search, options []string) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			servers = append(servers, f[1])
		case "search":
			search = f[1:]
		case "options":
			options = append(options, f[1:]...)
		}
	}
	search = slices.DeleteFunc(search, func(s string) bool { return s == "." })
	return servers, search, options
}
