package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
)

// errNoAnswer is what a Core is told of a write whose outcome nobody knows.
var errNoAnswer = errors.New("no answer came")

// process is one process of a service: a Core, its View of the log, and its
// connection to the log, on which writes and answers take their time.
type process struct {
	w        *World
	name     string
	deciders []kernel.Decider
	lives    int           // how often it was started
	skew     time.Duration // of its clock
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
	p.skew = p.w.between(-maxSkew, maxSkew)
	p.core = kernel.NewCore(p.w.schema, build, fmt.Sprintf("%s.%d", p.name, p.lives), p.deciders...)
	p.outbox, p.answers = nil, nil
	p.view = kernel.NewView(p.w.schema)
	p.view, _ = p.view.Fold(p.news(len(p.w.records))...)
	p.core.Start(p.view)
}

// crash kills the process. What it had sent may still land, or never.
func (p *process) crash() {
	p.w.result.Crashes++
	for _, o := range p.outbox {
		if !p.w.Calm && p.w.rng.IntN(2) == 0 {
			p.w.late = append(p.w.late, o.Record)
		} else {
			p.w.replays.drop(o.Record)
		}
	}
	p.boot()
}

// news are at most n events that the process has not read.
func (p *process) news(n int) []kernel.Record {
	rs, err := p.w.log.After(p.view.Seq())
	if err != nil {
		panic(err) // nobody purges this log
	}
	return rs[:min(n, len(rs))]
}

// read folds at most n events.
func (p *process) read(n int) bool {
	rs := p.news(n)
	if len(rs) == 0 {
		return false
	}
	v, es := p.view.Fold(rs...)
	p.view = v
	p.core.Apply(v, es...)
	return true
}

func (p *process) clock() time.Time { return p.w.now.Add(p.skew) }

// decide asks the Core.
func (p *process) decide() bool {
	ps := p.core.Ready(p.clock())
	p.outbox = append(p.outbox, ps...)
	return len(ps) > 0
}

// send has one write arrive at the log, in any order.
func (p *process) send() bool {
	if len(p.outbox) == 0 {
		return false
	}
	i := p.w.rng.IntN(len(p.outbox))
	o := p.outbox[i]
	p.outbox = slices.Delete(p.outbox, i, i+1)
	seq, err := p.w.append(o.Record)
	if p.w.chance(20) && (err == nil || errors.Is(err, events.ErrConflict)) {
		p.w.result.Lost++
		seq, err = 0, errNoAnswer
	}
	p.answers = append(p.answers, processAnswer{o, seq, err})
	return true
}

// hear has one answer arrive.
func (p *process) hear() bool {
	if len(p.answers) == 0 {
		return false
	}
	i := p.w.rng.IntN(len(p.answers))
	a := p.answers[i]
	p.answers = slices.Delete(p.answers, i, i+1)
	p.core.Done(a.Proposal, a.seq, a.err, p.clock())
	return true
}

// step does one thing, or dies.
func (p *process) step() {
	switch n := p.w.rng.IntN(100); {
	case n == 0:
		p.crash()
	case n < 30:
		p.send()
	case n < 60:
		p.hear()
	case n < 70:
		p.read(1 + p.w.rng.IntN(3))
	case n < 80:
		p.read(len(p.w.records))
	default:
		p.decide()
	}
}

// round does all that there is to do without faults.
func (p *process) round() bool {
	busy := p.read(len(p.w.records))
	busy = p.decide() || busy
	for p.send() || p.hear() {
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
	return next.Add(-p.skew)
}
