package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
)

// errNoAnswer is what a writer is told of a write whose outcome nobody knows.
var errNoAnswer = errors.New("no answer came")

// maxSkew is by how much a process' clock is wrong from its start, either way.
const maxSkew = 500 * time.Millisecond

// process is one process of a service that decides: a Core, its View of the
// log, and its connection to the log, on which writes and answers take their
// time.
type process struct {
	w        *World
	name     string
	deciders []kernel.Decider
	lives    int           // how often it was started
	off      time.Duration // its clock
	core     *kernel.Core
	view     *kernel.View
	outbox   []kernel.Proposal // not yet at the log
	answers  []processAnswer   // on their way back
}

type processAnswer struct {
	kernel.Proposal
	seq kernel.Seq
	err error
}

func newProcess(w *World, name string, ds []kernel.Decider) *process {
	p := &process{w: w, name: name, deciders: ds}
	p.boot()
	return p
}

// boot starts the process anew: all that it knows, it reads from the log.
func (p *process) boot() {
	p.lives++
	p.off = p.w.between(-maxSkew, maxSkew, "skew", p.name, p.lives)
	p.core = kernel.NewCore(p.w.rules, build, fmt.Sprintf("%s.%d", p.name, p.lives), p.deciders...)
	p.outbox, p.answers = nil, nil
	p.view = p.w.fold(p.name)
	p.core.Start(p.view)
}

// crash kills the process. What it had sent may still land, or never.
func (p *process) crash(d *dice) {
	p.w.count("crash of a decider's process")
	for _, o := range p.outbox {
		p.w.die(o.Record, d)
	}
	p.boot()
}

// read folds at most n events.
func (p *process) read(n int) bool {
	rs, err := p.w.after(p.view.Seq(), n)
	if err != nil {
		// What it has not read was purged: it reads anew, as a Mirror does,
		// and what it has in flight is answered as before.
		p.w.count("reading anew after a purge")
		p.view = p.w.fold(p.name)
		p.core.Start(p.view)
		return true
	}
	if len(rs) == 0 {
		return false
	}
	v, es := p.view.Fold(rs...)
	p.view = v
	p.w.told.views.read(p.name, v)
	p.core.Apply(v, es...)
	return true
}

func (p *process) clock() time.Time { return p.w.now.Add(p.off) }

// decide asks the Core.
func (p *process) decide() bool {
	ps := p.core.Ready(p.clock())
	p.outbox = append(p.outbox, ps...)
	return len(ps) > 0
}

// send has one write arrive at the log, in any order.
func (p *process) send(d *dice) bool {
	if len(p.outbox) == 0 {
		return false
	}
	i := d.below(len(p.outbox))
	o := p.outbox[i]
	p.outbox = slices.Delete(p.outbox, i, i+1)
	seq, err := p.w.append(o.Record)
	p.answers = append(p.answers, processAnswer{o, seq, err})
	return true
}

// hear has one answer arrive, or get lost.
func (p *process) hear(d *dice, lost bool) bool {
	if len(p.answers) == 0 {
		return false
	}
	i := d.below(len(p.answers))
	a := p.answers[i]
	p.answers = slices.Delete(p.answers, i, i+1)
	if lost && (a.err == nil || errors.Is(a.err, events.ErrConflict)) {
		p.w.count("lost answer to a decider")
		a.seq, a.err = 0, errNoAnswer
	}
	p.core.Done(a.Proposal, a.seq, a.err, p.clock())
	return true
}

// round does all that there is to do without faults.
func (p *process) round() bool {
	busy := p.read(everything)
	busy = p.decide() || busy
	for p.send(nil) || p.hear(nil, false) {
		busy = true
	}
	return busy
}

// next is when the Core wants to be asked again.
func (p *process) next() time.Time {
	next := p.core.Next()
	if next.IsZero() {
		return next
	}
	return next.Add(-p.off)
}
