package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/bpf"
	"github.com/rutterhq/rutter/internal/pki"
	"github.com/rutterhq/rutter/internal/zlog"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/nodeagent"
	"github.com/rutterhq/rutter/services/nodeagent/dns"
	"github.com/rutterhq/rutter/services/nodeagent/network"
	"github.com/rutterhq/rutter/services/nodeagent/services"
)

// nodeFlags describe one node.
type nodeFlags struct {
	name         string
	address      string
	kubelet      int
	hostServices bool
	containerd   string
}

func (n *nodeFlags) flags(c *cobra.Command, hostServices bool) {
	host, _ := os.Hostname() // empty: the flag must be given
	c.Flags().StringVar(&n.name, "node", strings.ToLower(host), "name of this node")
	c.Flags().StringVar(&n.address, "node-address", "", "address of this node; empty: this host's own")
	c.Flags().IntVar(&n.kubelet, "node-port", 10250, "port for logs and exec")
	c.Flags().BoolVar(&n.hostServices, "host-services", hostServices, "serve service addresses to the host's own processes, too")
	c.Flags().StringVar(&n.containerd, "containerd", "", "socket of a containerd; empty: start one of our own")
}

// hostAddress is the address given, or the one this host sends from.
func hostAddress(given string) (netip.Addr, error) {
	if given != "" {
		return netip.ParseAddr(given)
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() && !podRange.Contains(p.Addr()) && !serviceRange.Contains(p.Addr()) {
			return p.Addr(), nil
		}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
}

func netipPort(a netip.Addr, port int) netip.AddrPort { return netip.AddrPortFrom(a, uint16(port)) }

// credentials are a node's: its certificate, and the authority that it trusts.
type credentials struct {
	ca    []byte
	pair  tls.Certificate
	roots *x509.CertPool
}

// issueNode makes a node's credentials in its folder, for rutter nodeagent to
// read there or to be carried to the node.
func issueNode(ca *pki.CA, dir, name string, addr netip.Addr) (*credentials, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	cert, key, err := ca.Issue(pki.Request{CommonName: pki.NodePrefix + name, Organizations: []string{pki.NodesGroup},
		DNSNames: []string{name}, IPs: []net.IP{addr.AsSlice()}, Server: true, Client: true})
	if err != nil {
		return nil, err
	}
	for file, b := range map[string][]byte{"ca.crt": ca.CertPEM(), "node.crt": cert, "node.key": key} {
		if err := writeWhole(filepath.Join(dir, file), b); err != nil {
			return nil, err
		}
	}
	return readNode(dir)
}

func readNode(dir string) (*credentials, error) {
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no credentials of this node: expected ca.crt, node.crt and node.key in %s", dir)
	}
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "node.crt"), filepath.Join(dir, "node.key"))
	if err != nil {
		return nil, err
	}
	c := &credentials{ca: ca, pair: pair, roots: x509.NewCertPool()}
	c.roots.AppendCertsFromPEM(ca)
	return c, nil
}

// runNode is a node agent with its datapath and DNS. All that it knows of the
// cluster comes through the door of the apiservers at these URLs, one at a time.
func runNode(ctx context.Context, f *folders, n *nodeFlags, urls []string, cred *credentials, lg zerolog.Logger) error {
	addr, err := hostAddress(n.address)
	if err != nil {
		return fmt.Errorf("--node-address: %w", err)
	}
	if n.containerd == "" {
		if n.containerd, err = startContainerd(ctx, f, lg); err != nil {
			return err
		}
	}
	datapath, err := bpf.Open(bpf.Config{Node: n.name, HostServices: n.hostServices, Range: serviceRange})
	if err != nil {
		return fmt.Errorf("datapath: %w", err)
	}
	defer datapath.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	part := &nodeParts{folders: f, name: n.name, addr: addr, ready: make(chan struct{}),
		lg: lg.With().Str(zlog.Svc, "nodeagent").Str(zlog.Node, n.name).Logger()}
	servers, err := nodeagent.NewServers(urls, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cred.roots, Certificates: []tls.Certificate{cred.pair}})
	if err != nil {
		return err
	}
	agent, err := nodeagent.New(nodeagent.Config{
		Node: n.name, Log: nodeagent.DialDoor(servers, n.name), Schema: &kinds.Schema{},
		Containerd: n.containerd, DataDir: f.node(n.name), RunDir: f.nodeRun(n.name), Helper: []string{self, "keeper"},
		Addresses: []netip.Addr{addr}, Hostname: n.name, Version: build,
		Listen: net.JoinHostPort(addr.String(), fmt.Sprint(n.kubelet)),
		StreamTLS: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cred.pair}, ClientCAs: cred.roots,
			ClientAuth: tls.RequireAndVerifyClientCert, VerifyConnection: pki.OnlyAPIServer}, // other certificates of the cluster are users'
		API: servers.URL(), APIClient: &http.Client{Transport: servers, Timeout: 10 * time.Second},
		RootCA: cred.ca, ClusterDNS: clusterDNS, ClusterDomain: clusterDomain,
		Network: part.makeNetwork, DrainedAt: part.drainedAt,
		Beside: []func(context.Context, *kernel.Mirror) error{part.serveDNS, part.setHostPorts, part.setPeers,
			func(ctx context.Context, m *kernel.Mirror) error { return part.setServices(ctx, m, datapath) }},
		Logger: lg,
	})
	if err != nil {
		return err
	}
	return agent.Run(ctx)
}

// nodeParts are what runs beside the agent on its node.
type nodeParts struct {
	folders *folders
	name    string
	addr    netip.Addr
	lg      zerolog.Logger
	set     progress // up to where the datapath is

	ready   chan struct{} // closed once network is set
	network *network.Network
}

// makeNetwork sets up the pods' network once the node has its range.
func (p *nodeParts) makeNetwork(ctx context.Context, pods netip.Prefix) (nodeagent.Network, error) {
	run := p.folders.nodeRun(p.name)
	if err := writeWhole(filepath.Join(run, podRangeFile), []byte(pods.String())); err != nil {
		return nil, err // without it rutter down would not know what to take away
	}
	n, err := network.New(networkConfig(run, pods))
	if err != nil {
		return nil, err
	}
	if err := n.Setup(ctx); err != nil {
		return nil, err
	}
	p.network = n
	close(p.ready)
	return n, nil
}

// dnsAgain is the wait before DNS tries to listen again.
const dnsAgain = time.Second

// podRangeFile holds the range that a node's network was made with.
const podRangeFile = "podrange"

func networkConfig(run string, pods netip.Prefix) network.Config {
	return network.Config{RunDir: run, PodRange: pods, ClusterRange: podRange, ServiceRange: serviceRange, Local: []netip.Addr{clusterDNS}}
}

var endpointReads = []kernel.Resource{kinds.Services.Resource, kinds.EndpointSlices.Resource}

// networked waits until the node has its network.
func (p *nodeParts) networked(ctx context.Context) bool {
	select {
	case <-p.ready:
		return true
	case <-ctx.Done():
		return false
	}
}

// setHostPorts keeps the way from the node's ports to its pods.
func (p *nodeParts) setHostPorts(ctx context.Context, m *kernel.Mirror) error {
	if !p.networked(ctx) {
		return nil
	}
	return kernel.Setter[[]network.HostPort]{Name: "hostports", Reads: []kernel.Resource{kinds.Pods.Resource},
		Goal: p.hostPorts, Equal: slices.Equal[[]network.HostPort], Set: p.network.SetHostPorts}.Run(ctx, m, p.lg)
}

func (p *nodeParts) hostPorts(v *kernel.View) []network.HostPort {
	return services.HostPorts(p.name, kinds.Pods.List(v, ""))
}

// setPeers keeps the routes to the pods of other nodes.
func (p *nodeParts) setPeers(ctx context.Context, m *kernel.Mirror) error {
	if !p.networked(ctx) {
		return nil
	}
	return kernel.Setter[[]network.Peer]{Name: "peers", Reads: []kernel.Resource{kinds.Nodes.Resource},
		Goal: p.peers, Equal: slices.Equal[[]network.Peer], Set: p.network.SetPeers}.Run(ctx, m, p.lg)
}

func (p *nodeParts) peers(v *kernel.View) []network.Peer {
	var out []network.Peer
	for _, n := range kinds.Nodes.List(v, "") {
		pods, err := netip.ParsePrefix(n.Spec.PodCIDR)
		if err != nil || n.Name == p.name {
			continue // it has no range yet, or is this node
		}
		for _, a := range n.Status.Addresses {
			if at, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP && at != p.addr {
				out = append(out, network.Peer{PodRange: pods, Address: at})
				break
			}
		}
	}
	return out
}

// serveDNS answers names once the node has the address for it.
func (p *nodeParts) serveDNS(ctx context.Context, m *kernel.Mirror) error {
	if !p.networked(ctx) {
		return nil
	}
	server, err := dns.Listen(dns.Config{Address: netip.AddrPortFrom(clusterDNS, 53)}, p.lg)
	for err != nil {
		// Most often a process before us that has not ended yet. Pods run without names, too.
		p.lg.Warn().Err(err).Msg("names are not served; will try again")
		select {
		case <-time.After(dnsAgain):
		case <-ctx.Done():
			return nil
		}
		server, err = dns.Listen(dns.Config{Address: netip.AddrPortFrom(clusterDNS, 53)}, p.lg)
	}
	cluster := dns.Cluster{Domain: clusterDomain, Server: clusterDNS, Ranges: []netip.Prefix{podRange, serviceRange}}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error {
		return kernel.Setter[*dns.Zone]{Name: "dns", Reads: endpointReads, Set: server.Set,
			Goal: func(v *kernel.View) *dns.Zone {
				return dns.Records(cluster, kinds.Services.List(v, ""), kinds.EndpointSlices.List(v, ""))
			},
			Equal: func(a, b *dns.Zone) bool { return a == b },
		}.Run(ctx, m, p.lg)
	})
	return g.Wait()
}

// setServices keeps the datapath's maps as the Services ask for.
func (p *nodeParts) setServices(ctx context.Context, m *kernel.Mirror, d *bpf.Datapath) error {
	at := netip.AddrPortFrom(clusterDNS, 53)
	var local []bpf.Service // DNS is served on this node, at its own address
	for _, protocol := range []bpf.Protocol{bpf.UDP, bpf.TCP} {
		local = append(local, bpf.Service{Address: clusterDNS, Port: 53, Protocol: protocol, Backends: []netip.AddrPort{at}})
	}
	return kernel.Setter[[]bpf.Service]{Name: "datapath", Reads: append([]kernel.Resource{kinds.Pods.Resource}, endpointReads...), Set: d.Set, Equal: services.Equal, At: p.set.reach,
		Goal: func(v *kernel.View) []bpf.Service {
			here := append(services.AtNode(p.hostPorts(v), []netip.Addr{p.addr}), local...)
			return services.Goal(kinds.Services.List(v, ""), kinds.EndpointSlices.List(v, ""), here)
		},
	}.Run(ctx, m, p.lg)
}

func (p *nodeParts) drainedAt(seq kernel.Seq) bool { return p.set.at() >= seq }

func nodeagentCommand() *cobra.Command {
	var f folders
	var l logging
	var n nodeFlags
	var apis []string
	c := &cobra.Command{Use: "nodeagent", Short: "Run the containers of one node, alone", Args: cobra.NoArgs,
		Long: "Run the containers of one node. Its credentials (ca.crt, node.crt, node.key) are expected in DATA/nodes/NODE, where `rutter up` and `rutter node-credentials` write them.",
		RunE: func(c *cobra.Command, _ []string) error {
			lg, err := l.logger()
			if err != nil {
				return err
			}
			cred, err := readNode(f.node(n.name))
			if err != nil {
				return err
			}
			return runNode(c.Context(), &f, &n, apis, cred, lg)
		}}
	f.flags(c.Flags())
	l.flags(c.Flags())
	n.flags(c, false)
	c.Flags().StringSliceVar(&apis, "apiserver", []string{"https://127.0.0.1:6443"}, "URL of the API; of several (with commas, or again) the next is used when one does not answer")
	return c
}

func nodeCredentialsCommand() *cobra.Command {
	var f folders
	var n nodeFlags
	c := &cobra.Command{Use: "node-credentials", Short: "Write the credentials of a node", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			addr, err := hostAddress(n.address)
			if err != nil {
				return fmt.Errorf("--node-address: %w", err)
			}
			ca, err := pki.Open(f.pki())
			if err != nil {
				return err
			}
			if _, err := issueNode(ca, f.node(n.name), n.name, addr); err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), f.node(n.name))
			return err
		}}
	f.flags(c.Flags())
	n.flags(c, false)
	return c
}
