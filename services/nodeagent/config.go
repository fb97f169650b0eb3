package nodeagent

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/nodeagent/runtime"
)

// Config is all that a node agent is told from outside.
type Config struct {
	Node   string
	Log    events.Log // the door's (see DialDoor)
	Schema *kinds.Schema

	Containerd string // socket
	DataDir    string // pods' folders and logs; outlives a restart of the machine
	RunDir     string // sockets, FIFOs, namespaces; does not
	// Helper is the command that starts the log keeper; the run folder is added as
	// the last argument. The program must call logs.RunKeeper with it.
	Helper []string

	Addresses []netip.Addr // of the node, its own first
	Hostname  string       // empty: Node
	Labels    map[string]string
	Version   string // of Rutter, for the Node's nodeInfo

	// Listen is where kubelet's streams are served ("10.0.0.5:10250"), with
	// StreamTLS, which must ask for the API server's certificate. Empty: nowhere.
	Listen    string
	StreamTLS *tls.Config

	// API is where tokens of service accounts come from: a server's URL and a client
	// with the node's certificate (over Servers: any of them). Without it pods that mount a token do not start.
	API       string
	APIClient *http.Client
	RootCA    []byte // PEM of the cluster's CA, for pods whose namespace has no kube-root-ca.crt

	ClusterRange  netip.Prefix // of all pods; what goes there is not masqueraded
	ServiceRange  netip.Prefix
	ClusterDNS    netip.Addr // this node answers there
	ClusterDomain string     // "cluster.local"
	ResolvConf    string     // of the node; empty: /etc/resolv.conf

	// Network makes the pods' network once the node has its range. Nil: pods get
	// the network of package network.
	Network func(ctx context.Context, pods netip.Prefix) (Network, error)
	// DrainedAt tells whether the local datapath is at least at seq, so that no
	// new connection goes by older endpoints. Nil: always.
	DrainedAt func(seq kernel.Seq) bool
	// Beside runs other parts of the node on the same Mirror: its datapath, its
	// DNS. Each runs until ctx ends; an error of one ends the agent.
	Beside []func(ctx context.Context, m *kernel.Mirror) error

	Logger zerolog.Logger
}

// Network is the boundary to the pods' network (package network).
type Network interface {
	// Attach gives a pod its namespaces and address; again for one that has them it
	// returns the same.
	Attach(ctx context.Context, podUID string) (netns string, ip netip.Addr, err error)
	// Isolate is Attach for a pod in the node's own network.
	Isolate(ctx context.Context, podUID string) error
	// Detach takes away what the two made, as far as it is there.
	Detach(ctx context.Context, podUID string) error
	// Net, IPC and UTS are the files of the namespaces.
	Net(podUID string) string
	IPC(podUID string) string
	UTS(podUID string) string
	// Sweep detaches all pods but those to keep.
	Sweep(ctx context.Context, keep []string) error
}

// Runtime is the boundary to containerd (package runtime, where the methods
// are described).
type Runtime interface {
	Version(ctx context.Context) (string, error)
	Present(ctx context.Context, image string) (*runtime.Image, error)
	Pull(ctx context.Context, image string, credentials []runtime.Credential) (*runtime.Image, error)
	Images(ctx context.Context) ([]runtime.StoredImage, error)
	Start(ctx context.Context, c runtime.Container) (runtime.Started, error)
	List(ctx context.Context) ([]runtime.Info, error)
	Running(ctx context.Context, id string) (bool, error)
	Watch(ctx context.Context, ready func(), ended func(id string)) error
	Signal(ctx context.Context, id string, sig syscall.Signal, all bool) error
	Reap(ctx context.Context, id, cgroup string) (runtime.Exit, error)
	Remove(ctx context.Context, id string) error
	Exec(ctx context.Context, id string, e runtime.Exec) (int, error)
	Output(ctx context.Context, id string, args []string, timeout time.Duration, limit int) (string, int, error)
	Resize(ctx context.Context, id string, width, height uint32) error
	CloseStdin(ctx context.Context, id string) error
	StdinPath(id string) string
}

func (c *Config) check() error {
	switch {
	case c.Node == "":
		return errors.New("node agent: no node name")
	case c.Log == nil || c.Schema == nil:
		return errors.New("node agent: no log")
	case c.DataDir == "" || c.RunDir == "":
		return errors.New("node agent: no data or run folder")
	case len(c.Addresses) == 0:
		return errors.New("node agent: the node has no address")
	case len(c.Helper) == 0:
		return errors.New("node agent: no command for the log keeper")
	}
	return nil
}
