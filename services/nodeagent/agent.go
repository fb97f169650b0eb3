package nodeagent

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/nodeagent/logs"
	"github.com/rutterhq/rutter/services/nodeagent/podspec"
	"github.com/rutterhq/rutter/services/nodeagent/runtime"
)

// Agent makes one node match the log.
type Agent struct {
	cfg    Config
	lg     zerolog.Logger
	actor  string
	mirror *kernel.Mirror
	rt     Runtime
	keeper *logs.Client
	pokes  chan kernel.Key
	events *reporter
	now    func() time.Time

	mu      sync.Mutex // protects the following fields
	pods    map[kernel.Key]*pod
	node    *corev1.Node // as it is in the log, for allocatable and the pod range
	network Network

	work *errgroup.Group // hooks, probes, pulls: all that takes longer than a step; set by Run
}

// pod is the state of one pod on this node.
type pod struct {
	key    kernel.Key
	ctx    context.Context // ends when the pod is forgotten; its long work hangs on it
	cancel context.CancelFunc

	// mu protects the following fields. Who holds it may not take the agent's
	// mu: that is held by those who look at one pod after the other.
	mu     sync.Mutex
	spec   *corev1.Pod
	world  World
	wrote  kernel.Seq // of the last status in the log that is ours
	behind time.Time  // since when the log's status is not what is; zero: it is
	probes map[string]context.CancelFunc
	tokens map[podspec.Token]token
}

// New returns an agent that does nothing until Run.
func New(cfg Config) (*Agent, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Hostname == "" {
		cfg.Hostname = cfg.Node
	}
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	if cfg.ClusterDomain == "" {
		cfg.ClusterDomain = "cluster.local"
	}
	a := &Agent{
		cfg: cfg, actor: "nodeagent/" + cfg.Node, pods: map[kernel.Key]*pod{}, pokes: make(chan kernel.Key), now: time.Now,
		lg:     cfg.Logger.With().Str("svc", "nodeagent").Str("node", cfg.Node).Logger(),
		mirror: kernel.NewMirror(cfg.Log, cfg.Schema, nil),
		keeper: logs.NewClient(cfg.RunDir, cfg.Helper),
	}
	a.events = newReporter(a)
	return a, nil
}

// Mirror is the agent's view of the log, for what runs beside it.
func (a *Agent) Mirror() *kernel.Mirror { return a.mirror }

// Run keeps the node as the log asks for, until ctx ends. Containers go on
// running without it.
func (a *Agent) Run(ctx context.Context) error {
	if a.rt == nil {
		rt, err := a.connect(ctx)
		if err != nil {
			return err
		}
		defer rt.Close()
		a.rt = rt
	}
	if err := a.keeper.Start(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	a.work = g
	g.Go(func() error { return a.mirror.Run(ctx) })
	g.Go(func() error { return a.keepNode(ctx) })
	g.Go(func() error { return a.events.run(ctx) })
	if a.cfg.Listen != "" {
		g.Go(func() error { return a.serveStreams(ctx) })
	}
	for _, beside := range a.cfg.Beside {
		g.Go(func() error { return beside(ctx, a.mirror) })
	}
	g.Go(func() error { return a.keepPods(ctx) })
	err := g.Wait()
	if ctx.Err() != nil && err == nil {
		return nil
	}
	return err
}

// connectAgain is the wait before containerd is dialled again.
const connectAgain = 500 * time.Millisecond

// lookAtContainersEvery is how often all containers are looked at, in case an
// exit was not heard of.
const lookAtContainersEvery = 20 * time.Second

// connect waits for containerd.
func (a *Agent) connect(ctx context.Context) (*runtime.Client, error) {
	for {
		rt, err := runtime.New(a.cfg.Containerd, a.cfg.RunDir, a.keeper)
		if err == nil {
			_, err = rt.Version(ctx)
			if err == nil {
				return rt, nil
			}
			rt.Close()
		}
		a.lg.Warn().Err(err).Msg("containerd does not answer; will try again")
		if !sleep(ctx, connectAgain) {
			return nil, ctx.Err()
		}
	}
}

// sleep waits, and tells whether it did so to the end.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// keepPods adopts what runs, then steps every pod towards its goal.
func (a *Agent) keepPods(ctx context.Context) error {
	select {
	case <-a.mirror.Ready():
	case <-ctx.Done():
		return nil
	}
	for {
		err := a.restore(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil
		}
		a.lg.Warn().Err(err).Msg("containers not taken over; will try again")
		if !sleep(ctx, connectAgain) {
			return nil
		}
	}
	stepper := kernel.Stepper{Name: "pods", Wakes: a.wakes, Step: a.step, Pokes: a.poked}
	a.work.Go(func() error { return a.watchExits(ctx) })
	a.work.Go(func() error {
		// A view that was read anew does not tell what is gone: look at every pod.
		for step := range a.mirror.Follow(ctx) {
			if step.Fresh {
				a.pokeAll(ctx)
			}
		}
		return nil
	})
	return stepper.Run(ctx, a.mirror, a.lg)
}

// wakes names the pods that an event may concern.
func (a *Agent) wakes(v *kernel.View, e kernel.Event) []kernel.Key {
	switch e.Key.Resource {
	case kinds.Pods.Resource:
		return []kernel.Key{e.Key}
	case kinds.ConfigMaps.Resource, kinds.Secrets.Resource, kinds.EndpointSlices.Resource:
	default:
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []kernel.Key
	for k, p := range a.pods {
		if k.Namespace == e.Key.Namespace && p.concerned(e.Key) {
			out = append(out, k)
		}
	}
	return out
}

// concerned tells whether a change of another object may matter to the pod. What
// failed for want of it is then tried again at once.
func (p *pod) concerned(k kernel.Key) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k.Resource == kinds.EndpointSlices.Resource {
		return !p.world.StopSince.IsZero()
	}
	if !slices.Contains(podspec.References(p.spec), k) {
		return false
	}
	p.world.Volumes.RetryAt = time.Time{}
	for _, c := range p.world.Containers {
		c.Create.RetryAt = time.Time{}
	}
	return true
}

// poked hands on what was poked.
func (a *Agent) poked(ctx context.Context, wake func(kernel.Key)) error {
	for {
		select {
		case k := <-a.pokes:
			wake(k)
		case <-ctx.Done():
			return nil
		}
	}
}

// poke has a pod looked at again.
func (a *Agent) poke(ctx context.Context, k kernel.Key) {
	select {
	case a.pokes <- k:
	case <-ctx.Done():
	}
}

func (a *Agent) pokeAll(ctx context.Context) {
	for _, p := range a.all() {
		a.poke(ctx, p.key)
	}
}

// all returns the pods there is state of, in the order of their keys.
func (a *Agent) all() []*pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]*pod, 0, len(a.pods))
	for _, p := range a.pods {
		out = append(out, p)
	}
	slices.SortFunc(out, func(x, y *pod) int {
		if x.key.String() < y.key.String() {
			return -1
		}
		return 1
	})
	return out
}

// watchExits learns of containers that end. Whenever containerd was away it
// looks at all of them.
func (a *Agent) watchExits(ctx context.Context) error {
	a.work.Go(func() error {
		// An exit in the moment in which a watch begins may be told to nobody.
		for sleep(ctx, lookAtContainersEvery) {
			a.findEnded(ctx)
		}
		return nil
	})
	for away := false; ctx.Err() == nil; {
		err := a.rt.Watch(ctx, func() {
			a.work.Go(func() error { return a.findEnded(ctx) })
		}, func(id string) { away = false; a.ended(ctx, id) })
		if ctx.Err() != nil {
			return nil
		}
		if !away {
			a.lg.Warn().Err(err).Msg("containerd went away; will look again")
		}
		away = true
		sleep(ctx, connectAgain)
	}
	return nil
}

// findEnded looks for containers whose end nobody told of.
func (a *Agent) findEnded(ctx context.Context) error {
	infos, err := a.list(ctx)
	if err != nil {
		if ctx.Err() == nil {
			a.lg.Debug().Err(err).Msg("containers not listed")
		}
		return nil // the watch will find containerd gone, too, and come back
	}
	running := map[string]bool{}
	for _, i := range infos {
		running[i.ID] = i.Running
	}
	for _, p := range a.all() {
		p.mu.Lock()
		var ids []string
		for _, c := range p.world.Containers {
			// One that was started after the list was made is not in it.
			if up, listed := running[c.ID]; c.Phase == Running && listed && !up {
				ids = append(ids, c.ID)
			}
		}
		p.mu.Unlock()
		for _, id := range ids {
			a.ended(ctx, id)
		}
	}
	return nil
}

// ended notes that a container's process is no more.
func (a *Agent) ended(ctx context.Context, id string) {
	for _, p := range a.all() {
		p.mu.Lock()
		found := false
		for _, c := range p.world.Containers {
			if c.ID == id && c.Phase == Running {
				c.Phase, found = Ended, true
			}
		}
		p.mu.Unlock()
		if found {
			a.poke(ctx, p.key)
			return
		}
	}
}

// podDir is where a pod's files are.
func (a *Agent) podDir(p *corev1.Pod) string {
	return filepath.Join(a.cfg.DataDir, "pods", string(p.UID))
}

// logDir is where a pod's logs are, named as kubelet names it.
func (a *Agent) logDir(p *corev1.Pod) string {
	return filepath.Join(a.cfg.DataDir, "logs", p.Namespace+"_"+p.Name+"_"+string(p.UID))
}

func (a *Agent) logPath(p *corev1.Pod, container string, attempt int) string {
	return filepath.Join(a.logDir(p), container, fmt.Sprintf("%d.log", attempt))
}

// podCgroup is the pod's place in every cgroup hierarchy.
func (a *Agent) podCgroup(p *corev1.Pod) string { return NodeCgroup(a.cfg.Node) + "/" + string(p.UID) }

func (a *Agent) cgroup(p *corev1.Pod, container string) string {
	return a.podCgroup(p) + "/" + container
}

// NodeCgroup is the cgroup that holds all pods of a node: where programs that
// rewrite service addresses are attached.
func NodeCgroup(node string) string { return "/rutter/" + node }

// pods' network, nil until the node has its range of addresses.
func (a *Agent) net() Network {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.network
}

func (a *Agent) allocatable() corev1.ResourceList {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.node == nil {
		return nil
	}
	return a.node.Status.Allocatable
}

func (a *Agent) hostIPs() []string {
	return addressesOf(a.cfg.Addresses)
}

func addressesOf(list []netip.Addr) []string {
	out := make([]string, len(list))
	for i, ip := range list {
		out[i] = ip.String()
	}
	return out
}
