package apiserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

const (
	// silentAfter is how long a node may be without an open stream, and
	// without a renewed Lease, until it is called silent.
	silentAfter = 3 * time.Second
	// moveWithin is how much longer it may be if the apiserver that had its
	// stream has gone quiet, too: the node finds that out by two pings of 2 s, and
	// goes to another.
	moveWithin = 3 * time.Second
	// lookEvery is how often presence looks.
	lookEvery = 250 * time.Millisecond
	// stall is the pause of this process itself after which nothing that was
	// not heard meanwhile may be held against a node.
	stall = time.Second

	reasonSilent = "NodeStatusUnknown"
	doorActor    = "door"
)

// presence knows which nodes are heard, by this apiserver and by the others,
// and appends what it observes: node.silent and node.heard. What follows from
// that is a Decider's.
type presence struct {
	s    *Server
	self string     // unlike any other apiserver's
	mu   sync.Mutex // protects the following
	// open counts each node's streams at this apiserver.
	open map[string]int
	// signs are each node's last ones of life, by the apiserver that had it: that
	// one noticed the end of a stream says nothing of another's.
	signs map[string]map[string]sign
	// since is from when on it is held against a node that it gives no sign.
	since map[string]time.Time
	lease map[string]kernel.Seq
	// peer is when another apiserver last said anything, or when this one began.
	peer time.Time
	// answered is when the log was last asked, because no other was heard, and
	// answered.
	answered time.Time
	// away is closed while this apiserver is cut off from the log and the others.
	away  chan struct{}
	isCut bool
}

// sign is one of a node's life.
type sign struct {
	at   time.Time
	open bool // a stream was open then. That none followed may be the apiserver's end, and not the node's
}

// until is when the sign is too old to speak for the node.
func (s sign) until() time.Time {
	if s.open {
		return s.at.Add(silentAfter + moveWithin)
	}
	return s.at.Add(silentAfter)
}

func (s sign) silent(now time.Time) bool { return now.After(s.until()) }

func newPresence(s *Server) *presence {
	return &presence{s: s, self: s.out.ID(), open: map[string]int{}, signs: map[string]map[string]sign{}, since: map[string]time.Time{},
		lease: map[string]kernel.Seq{}, peer: s.out.Steady(), away: make(chan struct{})}
}

// enter notes that a node has a stream, until the function is called.
func (p *presence) enter(node string) (leave func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[node]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.open[node]--; p.open[node] == 0 {
			delete(p.open, node)
		}
		p.note(node, p.self, sign{p.s.out.Steady(), p.open[node] > 0})
	}
}

// note takes a sign of a node that an apiserver had, if it is not an old one.
// The lock must be held.
func (p *presence) note(node, apiserver string, s sign) {
	if p.signs[node] == nil {
		p.signs[node] = map[string]sign{}
	}
	if !s.at.Before(p.signs[node][apiserver].at) {
		p.signs[node][apiserver] = s
	}
}

// run observes until ctx ends.
func (p *presence) run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	last := p.s.out.Steady()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		now := p.s.out.Steady()
		p.look(ctx, now, now.Sub(last))
		last = now
	}
}

// look judges every node, at a time of the steady clock; since is how long it
// has not.
func (p *presence) look(ctx context.Context, now time.Time, since time.Duration) {
	if since > stall {
		p.forgive()
	}
	v := p.s.out.View()
	p.forget(v)
	for _, n := range kinds.Nodes.List(v, "") {
		change := p.judge(v, n, now)
		if change == nil {
			continue
		}
		// Another apiserver may observe the same: the log takes what comes first.
		if err := p.append(ctx, v, n, change); err != nil && ctx.Err() == nil && !errors.Is(err, events.ErrConflict) {
			p.s.cfg.Logger.Warn().Err(err).Str("node", n.Name).Msg("presence not recorded; will try again")
		}
		if p.s.out.Steady().Sub(now) > stall {
			return // what was true then may not be any more; the next look forgives
		}
	}
}

// forgive gives every node a full timeout from now on.
func (p *presence) forgive() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.since)
}

// forget drops what is known of nodes that are no more.
func (p *presence) forget(v *kernel.View) {
	p.mu.Lock()
	defer p.mu.Unlock()
	gone := func(node string) bool {
		_, ok := kinds.Nodes.Get(v, "", node)
		return !ok
	}
	maps.DeleteFunc(p.since, func(node string, _ time.Time) bool { return gone(node) })
	maps.DeleteFunc(p.signs, func(node string, _ map[string]sign) bool { return gone(node) })
	maps.DeleteFunc(p.lease, func(node string, _ kernel.Seq) bool { return gone(node) })
}

// judge returns the Ready condition that the node should have, or nil if what
// it has agrees with what is observed.
func (p *presence) judge(v *kernel.View, n *corev1.Node, now time.Time) *corev1.NodeCondition {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := v.Entry(kinds.Leases.Key(nodeLeases, n.Name)); e != nil && !e.Delete && e.Seq != p.lease[n.Name] {
		p.lease[n.Name] = e.Seq
		p.note(n.Name, p.self, sign{at: now, open: p.open[n.Name] > 0})
	}
	if _, known := p.since[n.Name]; !known {
		p.since[n.Name] = now
	}
	if p.isCut {
		return nil // the others know better, and this could not be recorded
	}
	i := slices.IndexFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })
	called := i >= 0 && n.Status.Conditions[i].Status == corev1.ConditionUnknown && n.Status.Conditions[i].Reason == reasonSilent
	if called {
		p.since[n.Name] = now // who calls it heard has a sign that may not have been told here yet
	}
	last := sign{p.since[n.Name], p.s.cfg.Talker != nil} // it may be connected to an apiserver that has not said so yet
	for _, s := range p.signs[n.Name] {
		if s.until().After(last.until()) {
			last = s
		}
	}
	here := p.open[n.Name] > 0
	silent := !here && last.silent(now)
	if p.lonelyAt(now) {
		// Perhaps it is cut off, and the others know better; or it was until a moment
		// ago, and they have not had the time to say so.
		silent = silent && last.silent(p.answered) && p.answered.Sub(p.peer) >= aloneAfter
	}
	at := metav1.Time{Time: p.s.out.Now().UTC()}
	switch {
	case silent && !called:
		return &corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: reasonSilent,
			Message: fmt.Sprintf("The node has not been heard for %s.", silentAfter), LastHeartbeatTime: at, LastTransitionTime: at}
	case here && called:
		return &corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady",
			Message: "The node is heard.", LastHeartbeatTime: at, LastTransitionTime: at}
	}
	return nil
}

// append records an observation of a Node as the View has it.
func (p *presence) append(ctx context.Context, v *kernel.View, n *corev1.Node, c *corev1.NodeCondition) error {
	observed := n.DeepCopy()
	observed.Status.Conditions = slices.DeleteFunc(observed.Status.Conditions, func(o corev1.NodeCondition) bool { return o.Type == c.Type })
	observed.Status.Conditions = append(observed.Status.Conditions, *c)
	done, refused := p.s.cfg.Schema.Make(v, kernel.Write{Key: kinds.Nodes.Key("", n.Name), Subresource: "status", New: observed, By: doorActor, Manager: doorActor},
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
