package apiserver

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

const (
	// silentAfter is how long a node may be without an open stream, and
	// without a renewed Lease, until it is called silent.
	silentAfter = 3 * time.Second
	// lookEvery is how often presence looks.
	lookEvery = 250 * time.Millisecond
	// stall is the pause of this process itself after which nothing that was
	// not heard meanwhile may be held against a node.
	stall = time.Second

	reasonSilent = "NodeStatusUnknown"
	doorActor    = "door"
)

// presence knows which nodes are heard, and appends what it observes:
// node.silent and node.heard. What follows from that is a Decider's.
type presence struct {
	s  *Server
	mu sync.Mutex // protects the following
	// open counts each node's streams; heard is when it last had one, or when
	// its Lease was last seen to change.
	open  map[string]int
	heard map[string]time.Time
	lease map[string]kernel.Seq
}

func newPresence(s *Server) *presence {
	return &presence{s: s, open: map[string]int{}, heard: map[string]time.Time{}, lease: map[string]kernel.Seq{}}
}

// enter notes that a node has a stream, until the function is called.
func (p *presence) enter(node string) (leave func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[node]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.open[node]--
		p.heard[node] = p.s.out.Now()
	}
}

// run observes until ctx ends.
func (p *presence) run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	last := p.s.out.Now()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		now := p.s.out.Now()
		p.look(ctx, now, now.Sub(last))
		last = now
	}
}

// look judges every node; since is how long it has not.
func (p *presence) look(ctx context.Context, now time.Time, since time.Duration) {
	if since > stall {
		p.forgive()
	}
	for _, n := range kinds.Nodes.List(p.s.out.View(), "") {
		if change := p.judge(n, now); change != nil {
			if err := p.append(ctx, n, change); err != nil && ctx.Err() == nil {
				p.s.cfg.Logger.Warn().Err(err).Str("node", n.Name).Msg("presence not recorded; will try again")
			}
		}
	}
}

// forgive gives every node a full timeout from now on.
func (p *presence) forgive() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.heard)
}

// judge returns the Ready condition that the node should have, or nil if what
// it has agrees with what is observed.
func (p *presence) judge(n *corev1.Node, now time.Time) *corev1.NodeCondition {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.s.out.View().Entry(kinds.Leases.Key(nodeLeases, n.Name)); e != nil && !e.Delete && e.Seq != p.lease[n.Name] {
		p.lease[n.Name], p.heard[n.Name] = e.Seq, now
	}
	if _, known := p.heard[n.Name]; !known || p.open[n.Name] > 0 {
		p.heard[n.Name] = now
	}
	silent := now.Sub(p.heard[n.Name]) > silentAfter
	i := slices.IndexFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })
	called := i >= 0 && n.Status.Conditions[i].Status == corev1.ConditionUnknown && n.Status.Conditions[i].Reason == reasonSilent
	at := metav1.Time{Time: now.UTC()}
	switch {
	case silent && !called:
		return &corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: reasonSilent,
			Message: fmt.Sprintf("The node has not been heard for %s.", silentAfter), LastHeartbeatTime: at, LastTransitionTime: at}
	case !silent && called && p.open[n.Name] > 0:
		return &corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady",
			Message: "The node is heard.", LastHeartbeatTime: at, LastTransitionTime: at}
	}
	return nil
}

// append records an observation.
func (p *presence) append(ctx context.Context, n *corev1.Node, c *corev1.NodeCondition) error {
	v := p.s.out.View()
	entry := v.Entry(kinds.Nodes.Key("", n.Name))
	if entry == nil || entry.Delete {
		return nil
	}
	// What is observed goes into the newest Node: n may be older than entry.
	observed := entry.Object().(*corev1.Node).DeepCopy()
	observed.Status.Conditions = slices.DeleteFunc(observed.Status.Conditions, func(o corev1.NodeCondition) bool { return o.Type == c.Type })
	observed.Status.Conditions = append(observed.Status.Conditions, *c)
	done, refused := p.s.cfg.Schema.Make(v, kernel.Write{Key: entry.Key, Subresource: "status", New: observed, By: doorActor, Manager: doorActor},
		p.s.out.Now().Round(0).UTC())
	if refused != nil {
		return refused
	}
	if done == nil {
		return nil
	}
	done.ID, done.Type, done.Note = p.s.out.ID(), "node.silent", c.Message
	if c.Status == corev1.ConditionTrue {
		done.Type = "node.heard"
	}
	seq, err := p.s.cfg.Log.Append(ctx, done.Record)
	if err != nil {
		return err
	}
	_, err = p.s.out.At(ctx, seq, time.Time{}) // or it would be observed again
	return err
}
