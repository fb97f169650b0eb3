package nodeagent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	gort "runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/nodeagent/network"
	"github.com/rutterhq/rutter/services/nodeagent/runtime"
)

const (
	podsMax = 110 // pods per node, as Kubernetes recommends
	// Kubelet's thresholds of eviction, here of the conditions.
	memoryReserve   = 100 << 20 // bytes
	diskReserve     = 10        // percent
	pidReserve      = 10        // percent
	imagesMax       = 50        // images that the Node lists
	lookAtNodeEvery = 10 * time.Second
	// kubeletVersion is the version of Kubernetes that the node speaks; ours follows
	// as build metadata, where tools that compare versions do not look.
	kubeletVersion = "v1.37.2+rutter"
)

// facts of the machine, measured.
type machine struct {
	cpus                    int64
	memory, memoryAvailable int64 // bytes
	disk, diskAvailable     int64 // bytes of the data folder's file system
	pids, pidsMax           int64
	info                    corev1.NodeSystemInfo
	images                  []corev1.ContainerImage
	notReady                string // why the node is not ready; empty: it is
}

// keepNode registers the node, keeps its status true, and sets up the pods'
// network as soon as the node has a range of addresses.
func (a *Agent) keepNode(ctx context.Context) error {
	steps := make(chan kernel.Step)
	a.work.Go(func() error {
		for s := range a.mirror.Follow(ctx) {
			select {
			case steps <- s:
			case <-ctx.Done():
			}
		}
		return nil
	})
	tick := time.NewTicker(lookAtNodeEvery)
	defer tick.Stop()
	key := kinds.Nodes.Key("", a.cfg.Node)
	for {
		look := false
		select {
		case s := <-steps:
			look = s.Fresh || slices.ContainsFunc(s.Events, func(e kernel.Event) bool { return e.Key == key })
		case <-tick.C:
			look = true
		case <-ctx.Done():
			return nil
		}
		if !look {
			continue
		}
		v := a.mirror.View()
		select {
		case <-a.mirror.Ready():
		default:
			continue // the log has not been read yet
		}
		if err := a.syncNode(ctx, v); err != nil && ctx.Err() == nil {
			a.lg.Warn().Err(err).Msg("node not registered; will try again")
		}
	}
}

// syncNode brings network and Node up to date with each other.
func (a *Agent) syncNode(ctx context.Context, v *kernel.View) error {
	old, _ := kinds.Nodes.Get(v, "", a.cfg.Node)
	netErr := a.setUpNetwork(ctx, old)
	next := NodeOf(old, &a.cfg, a.measure(ctx, old, netErr), a.now().Truncate(time.Second))
	a.mu.Lock()
	a.node = next
	a.mu.Unlock()
	if old != nil && apiequality.Semantic.DeepEqual(old.Status, next.Status) && apiequality.Semantic.DeepEqual(old.Labels, next.Labels) {
		return netErr
	}
	_, err := a.write(ctx, v, next, 0, false, "")
	if errors.Is(err, events.ErrConflict) {
		err = nil // the newer Node is on its way and brings us here again
	}
	return errors.Join(err, netErr)
}

// setUpNetwork makes the pods' network, once the node has its range. A range
// does not change while a node lives.
func (a *Agent) setUpNetwork(ctx context.Context, node *corev1.Node) error {
	if node == nil || node.Spec.PodCIDR == "" || a.net() != nil {
		return nil
	}
	r, err := netip.ParsePrefix(node.Spec.PodCIDR)
	if err != nil {
		return fmt.Errorf("pod range: %w", err)
	}
	makeNetwork := a.cfg.Network
	if makeNetwork == nil {
		makeNetwork = a.makeNetwork
	}
	n, err := makeNetwork(ctx, r)
	if err != nil {
		return fmt.Errorf("pod network: %w", err)
	}
	if err := n.Sweep(ctx, a.known()); err != nil {
		return fmt.Errorf("pod network: %w", err)
	}
	a.mu.Lock()
	a.network = n
	a.mu.Unlock()
	a.lg.Info().Str("pods", r.String()).Msg("pod network is up")
	a.work.Go(func() error { a.pokeAll(ctx); return nil })
	return nil
}

// known are the uids of all pods that may have a place in the network.
func (a *Agent) known() []string {
	var out []string
	for _, p := range kinds.Pods.List(a.mirror.View(), "") {
		if p.Spec.NodeName == a.cfg.Node {
			out = append(out, string(p.UID))
		}
	}
	for _, p := range a.all() {
		p.mu.Lock()
		out = append(out, string(p.world.UID))
		p.mu.Unlock()
	}
	return out
}

// hasPodRange tells whether the node was given a range of pod addresses.
func (a *Agent) hasPodRange() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.node != nil && a.node.Spec.PodCIDR != ""
}

func (a *Agent) makeNetwork(ctx context.Context, r netip.Prefix) (Network, error) {
	if err := os.WriteFile(podRangePath(&a.cfg), []byte(r.String()), 0o600); err != nil {
		return nil, fmt.Errorf("keep the pod range: %w", err)
	}
	n, err := network.New(networkConfig(&a.cfg, r))
	if err != nil {
		return nil, err
	}
	return n, n.Setup(ctx)
}

// podRangePath holds the node's range for whoever takes the network down.
func podRangePath(cfg *Config) string { return filepath.Join(cfg.RunDir, "pod-range") }

func networkConfig(cfg *Config, r netip.Prefix) network.Config {
	c := network.Config{RunDir: cfg.RunDir, PodRange: r, ClusterRange: cfg.ClusterRange, ServiceRange: cfg.ServiceRange}
	if cfg.ClusterDNS.IsValid() {
		c.Local = []netip.Addr{cfg.ClusterDNS}
	}
	return c
}

func (a *Agent) measure(ctx context.Context, old *corev1.Node, netErr error) machine {
	m := readMachine(a.cfg.DataDir)
	m.info.KubeletVersion = kubeletVersion
	if a.cfg.Version != "" {
		m.info.KubeletVersion += "." + a.cfg.Version
	}
	version, err := a.rt.Version(ctx)
	switch {
	case err != nil:
		m.notReady = "container runtime is down: " + err.Error()
	case netErr != nil:
		m.notReady = "container runtime network not ready: " + netErr.Error()
	case a.net() == nil:
		m.notReady = "container runtime network not ready: the node has no range of pod addresses yet"
	}
	m.info.ContainerRuntimeVersion = "containerd://" + version
	if err != nil && old != nil {
		m.info.ContainerRuntimeVersion = old.Status.NodeInfo.ContainerRuntimeVersion
	}
	images, err := a.rt.Images(ctx)
	if err != nil && old != nil {
		m.images = old.Status.Images
	}
	slices.SortStableFunc(images, func(x, y runtime.StoredImage) int { return int(y.Size - x.Size) })
	for _, i := range images[:min(len(images), imagesMax)] {
		m.images = append(m.images, corev1.ContainerImage{Names: i.Names, SizeBytes: i.Size})
	}
	return m
}

// readMachine reads what the kernel says of the machine.
func readMachine(dataDir string) machine {
	m := machine{cpus: int64(gort.NumCPU())}
	memory := fields("/proc/meminfo")
	m.memory, m.memoryAvailable = memory["MemTotal"]<<10, memory["MemAvailable"]<<10
	var st unix.Statfs_t
	if unix.Statfs(dataDir, &st) == nil {
		block := int64(st.Bsize) // 32 bits on 386, which the replay of recordings is compiled for
		m.disk, m.diskAvailable = int64(st.Blocks)*block, int64(st.Bavail)*block
	}
	m.pidsMax = number("/proc/sys/kernel/pid_max")
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 3 {
			_, all, _ := strings.Cut(f[3], "/")
			m.pids, _ = strconv.ParseInt(all, 10, 64)
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.info.KernelVersion = unix.ByteSliceToString(u.Release[:])
	}
	m.info.MachineID = word("/etc/machine-id")
	m.info.BootID = word("/proc/sys/kernel/random/boot_id")
	m.info.SystemUUID = word("/sys/class/dmi/id/product_uuid")
	m.info.OSImage = osImage()
	m.info.OperatingSystem, m.info.Architecture = gort.GOOS, gort.GOARCH
	return m
}

func word(path string) string {
	b, _ := os.ReadFile(path) // what a machine does not have is left empty
	return string(bytes.TrimSpace(b))
}

func number(path string) int64 {
	n, _ := strconv.ParseInt(word(path), 10, 64)
	return n
}

func fields(path string) map[string]int64 {
	out := map[string]int64{}
	f, err := os.Open(path)
	if err != nil {
		return out
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		name, rest, _ := strings.Cut(s.Text(), ":")
		if w := strings.Fields(rest); len(w) > 0 {
			out[name], _ = strconv.ParseInt(w[0], 10, 64)
		}
	}
	return out
}

func osImage() string {
	for line := range strings.Lines(word("/etc/os-release") + "\n") {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(name, `"`)
		}
	}
	return ""
}

// NodeOf is the Node as its agent sees it; what others wrote in old stays.
// Pure.
func NodeOf(old *corev1.Node, cfg *Config, m machine, now time.Time) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: cfg.Node}}
	if old != nil {
		n = old.DeepCopy()
	}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	for k, v := range map[string]string{corev1.LabelHostname: cfg.Hostname, corev1.LabelOSStable: gort.GOOS, corev1.LabelArchStable: gort.GOARCH} {
		n.Labels[k] = v
	}
	for k, v := range cfg.Labels {
		n.Labels[k] = v
	}
	s := &n.Status
	s.Capacity = resources(m.cpus, m.memory, m.disk)
	s.Allocatable = resources(m.cpus, max(m.memory-memoryReserve, 0), m.disk/100*(100-diskReserve))
	s.NodeInfo = m.info
	s.Addresses = nil
	for _, ip := range cfg.Addresses {
		s.Addresses = append(s.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip.String()})
	}
	s.Addresses = append(s.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: cfg.Hostname})
	s.DaemonEndpoints.KubeletEndpoint.Port = portOfListen(cfg.Listen)
	if len(m.images) > 0 {
		s.Images = m.images
	}
	setNodeConditions(s, m, now)
	return n
}

func portOfListen(listen string) int32 {
	if a, err := netip.ParseAddrPort(listen); err == nil {
		return int32(a.Port())
	}
	_, port, _ := strings.Cut(listen, ":")
	n, _ := strconv.ParseInt(port, 10, 32)
	return int32(n)
}

func resources(cpus, memory, disk int64) corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(cpus, resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(memory, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(disk, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(podsMax, resource.DecimalSI),
	}
}

// setNodeConditions writes kubelet's four conditions. Their heartbeat is the
// time of the last change: that the node lives its open stream says.
func setNodeConditions(s *corev1.NodeStatus, m machine, now time.Time) {
	set := func(t corev1.NodeConditionType, bad bool, no, yes [2]string) {
		c := corev1.NodeCondition{Type: t, Status: corev1.ConditionFalse, Reason: no[0], Message: no[1]}
		if bad {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, yes[0], yes[1]
		}
		c.LastTransitionTime, c.LastHeartbeatTime = metav1.NewTime(now), metav1.NewTime(now)
		for i := range s.Conditions {
			was := &s.Conditions[i]
			if was.Type != t {
				continue
			}
			if was.Status == c.Status {
				c.LastTransitionTime = was.LastTransitionTime
				if was.Reason == c.Reason && was.Message == c.Message {
					c.LastHeartbeatTime = was.LastHeartbeatTime
				}
			}
			*was = c
			return
		}
		s.Conditions = append(s.Conditions, c)
	}
	set(corev1.NodeMemoryPressure, m.memoryAvailable < memoryReserve,
		[2]string{"KubeletHasSufficientMemory", "kubelet has sufficient memory available"},
		[2]string{"KubeletHasInsufficientMemory", "kubelet has insufficient memory available"})
	set(corev1.NodeDiskPressure, m.disk > 0 && m.diskAvailable < m.disk/100*diskReserve/2,
		[2]string{"KubeletHasNoDiskPressure", "kubelet has no disk pressure"},
		[2]string{"KubeletHasDiskPressure", "kubelet has disk pressure"})
	set(corev1.NodePIDPressure, m.pidsMax > 0 && m.pids > m.pidsMax/100*(100-pidReserve),
		[2]string{"KubeletHasSufficientPID", "kubelet has sufficient PID available"},
		[2]string{"KubeletHasInsufficientPID", "kubelet has insufficient PID available"})
	set(corev1.NodeReady, m.notReady == "",
		[2]string{"KubeletNotReady", m.notReady},
		[2]string{"KubeletReady", "kubelet is posting ready status"})
}
