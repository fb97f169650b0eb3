package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// tellEvery is how often an apiserver tells the others which nodes it hears:
	// often enough that five messages may be lost before that matters.
	tellEvery = 500 * time.Millisecond
	// lonelyAfter is how long nobody may have said anything until an apiserver
	// asks itself whether it is cut off, and askLog how long
	// it waits for the log's answer to that. Both together and a node's way to another
	// apiserver take less than silentAfter + moveWithin.
	lonelyAfter = 2 * time.Second
	askLog      = time.Second
	// aloneAfter is how long nobody must have said anything until that is a reason
	// to call a node silent. Who is cut off knows it lonelyAfter + tellEvery + askLog
	// after the last words at the latest; whoever is back a moment before that hears
	// the next ones within tellEvery, or the ones after, if those are lost.
	aloneAfter = lonelyAfter + tellEvery + askLog + 2*tellEvery + lookEvery
	// keepSigns is how long a sign is kept, though it speaks for nobody after a few
	// seconds: who was judged by it must not be judged by an older one for some time.
	keepSigns = time.Minute
	// topicNodes is what apiservers tell one another about: words.
	topicNodes = "nodes"
)

// words are what one apiserver knows of the nodes, from them or from other
// apiservers: two that cannot reach one another hear of it from a third.
type words struct {
	From string `json:"from"`
	// Signs are what each apiserver, by which it is the key, had of each node.
	Signs map[string]map[string]word `json:"signs"`
}

// word is about one node.
type word struct {
	Age  int64 `json:"age"`            // of its last sign, in ms
	Open bool  `json:"open,omitempty"` // its stream was open then
}

// converse speaks with the other apiservers, if there may be any, until ctx ends.
func (p *presence) converse(ctx context.Context) error {
	if p.s.cfg.Talker == nil {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.tell(ctx) })
	g.Go(func() error { return p.listen(ctx) })
	g.Go(func() error { return p.mind(ctx) })
	return g.Wait()
}

// words is what this apiserver knows now. Clocks of two machines differ, so
// ages are told, and no times.
func (p *presence) words(now time.Time) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	for node := range p.open {
		p.note(node, p.self, sign{now, true})
	}
	w := words{From: p.self, Signs: map[string]map[string]word{}}
	for node, signs := range p.signs {
		for apiserver, s := range signs {
			switch {
			case now.Sub(s.at) > keepSigns:
				delete(signs, apiserver)
			case s.silent(now): // it says no more than none
			default:
				if w.Signs[apiserver] == nil {
					w.Signs[apiserver] = map[string]word{}
				}
				w.Signs[apiserver][node] = word{max(0, now.Sub(s.at).Milliseconds()), s.open}
			}
		}
	}
	b, err := json.Marshal(w)
	if err != nil {
		panic(err) // strings and numbers
	}
	return b
}

// told takes what an apiserver said.
func (p *presence) told(b []byte, now time.Time) error {
	var w words
	if err := json.Unmarshal(b, &w); err != nil {
		return fmt.Errorf("another apiserver's words: %w", err)
	}
	if w.From == p.self {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.peer = now
	for apiserver, nodes := range w.Signs {
		for node, one := range nodes {
			if apiserver != p.self {
				p.note(node, apiserver, sign{now.Add(-time.Duration(max(0, one.Age)) * time.Millisecond), one.Open})
			}
		}
	}
	return nil
}

// tell tells the other apiservers until ctx ends.
func (p *presence) tell(ctx context.Context) error {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		// If it fails there is no connection, and it comes again soon.
		_ = p.s.cfg.Talker.Tell(topicNodes, p.words(p.s.out.Steady()))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// listen hears the other apiservers until ctx ends.
func (p *presence) listen(ctx context.Context) error {
	for b, err := range p.s.cfg.Talker.Listen(ctx, topicNodes) {
		if err == nil {
			err = p.told(b, p.s.out.Steady())
		}
		if err != nil && ctx.Err() == nil {
			p.s.cfg.Logger.Warn().Err(err).Msg("other apiservers are not understood")
		}
	}
	return nil
}

// mind finds out whether this apiserver is cut off, until ctx ends: none of
// the others is heard, nor does the log answer. Either alone is no reason: the
// others may have been stopped, or the log's servers be choosing a leader.
func (p *presence) mind(ctx context.Context) error {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		now := p.s.out.Steady()
		if !p.lonely(now) {
			p.cut(false)
			continue
		}
		ask, cancel := context.WithTimeout(ctx, askLog)
		_, err := p.s.cfg.Log.Last(ask)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		p.conclude(now, err)
	}
}

func (p *presence) lonely(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lonelyAt(now)
}

// conclude is what follows from the log's answer to who asked at a time.
func (p *presence) conclude(asked time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.answered = asked
	}
	p.noteCut(err != nil)
}

// lonelyAt is lonely for who holds the lock. Who has just begun, and was cut off
// before it heard of the others, does not know that there are any.
func (p *presence) lonelyAt(now time.Time) bool {
	return p.s.cfg.Talker != nil && now.Sub(p.peer) > lonelyAfter
}

// cut notes what who drives this apiserver knows.
func (p *presence) cut(is bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.noteCut(is)
}

// noteCut notes whether this apiserver is cut off. One that is has no stream of
// a node: what the node says does not reach the log from here, and perhaps does
// from elsewhere. Once it is not any more, nothing is held against anybody
// that was not heard meanwhile. The lock must be held.
func (p *presence) noteCut(is bool) {
	switch {
	case is == p.isCut:
		return
	case is:
		close(p.away)
		p.s.cfg.Logger.Warn().Msg("cut off from the log and the other apiservers; nodes are sent to them")
	default:
		p.away = make(chan struct{})
		clear(p.since)
		p.s.cfg.Logger.Info().Msg("the log answers again; nodes are let in")
	}
	p.isCut = is
}

// cutOff is closed once this apiserver is cut off.
func (p *presence) cutOff() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.away
}
