package apiserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/kernel"
)

const (
	// viewLife is how long a View of the past is held for whoever asks next: a
	// list that is read page by page, a person who looks around.
	viewLife = 5 * time.Minute
	// presentKept bounds the Views that are held because a list with a limit
	// began with them when they were the newest. They share all that has not
	// changed since.
	presentKept = 128
	// rebuiltKept bounds the Views held that were rebuilt from history. One
	// that began with a snapshot has a tree of its own: some 300 bytes an object,
	// and the bodies of those that are different now.
	rebuiltKept = 8
	// rebuildsAtOnce bounds how many Views are rebuilt from history at a time.
	rebuildsAtOnce = 4
	// historyWait is how long a read of history waits for its turn.
	historyWait = time.Second
	// sweepEvery is how often Views that nobody asked for are let go.
	sweepEvery = time.Minute
)

// past gives Views as they were. Those who ask for the same one share it.
type past struct {
	history events.History
	mirror  *kernel.Mirror
	schema  kernel.Schema

	mu       sync.Mutex // protects the following
	held     []heldView // oldest first
	building map[kernel.Seq]*build
	finished chan struct{} // closed and replaced whenever a build is over
}

// heldView is a View that can be had again without reading anything.
type heldView struct {
	view    *kernel.View
	until   time.Time
	rebuilt bool
}

// build is a View on its way. view is set when it succeeded.
type build struct{ view *kernel.View }

func newPast(h events.History, m *kernel.Mirror, s kernel.Schema) *past {
	return &past{history: h, mirror: m, schema: s, building: map[kernel.Seq]*build{}, finished: make(chan struct{})}
}

// errBusy tells a client to come back: as much of history is being read as may be.
func errBusy() error {
	return apierrors.NewTooManyRequests("too many reads of old history at once, please try again later", 1)
}

// at returns the View at a Seq that the log has reached: one that is held, or
// else rebuilt from the nearest state before it. Before the window it gives 410.
func (p *past) at(ctx context.Context, seq kernel.Seq) (*kernel.View, error) {
	var late <-chan time.Time
	for {
		p.mu.Lock()
		if v := p.find(seq); v != nil {
			p.mu.Unlock()
			return v, nil
		}
		b, finished := p.building[seq], p.finished
		mine := b == nil && len(p.building) < rebuildsAtOnce
		if mine {
			b = &build{}
			p.building[seq] = b
		}
		p.mu.Unlock()
		if mine {
			return p.lead(ctx, seq, b)
		}
		if b == nil && late == nil {
			late = time.After(historyWait)
		}
		select {
		case <-finished:
			if b != nil && b.view != nil {
				return b.view, nil
			}
		case <-late:
			return nil, errBusy()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// lead rebuilds a View for all who wait for it. If it fails, because this one's
// client has left for example, the next of them tries.
func (p *past) lead(ctx context.Context, seq kernel.Seq, b *build) (*kernel.View, error) {
	v, err := p.rebuild(ctx, seq)
	if err == nil {
		p.keep(v, true)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	b.view = v
	delete(p.building, seq)
	close(p.finished)
	p.finished = make(chan struct{})
	return v, err
}

// rebuild folds a View from the nearest older one that is held or was kept.
func (p *past) rebuild(ctx context.Context, seq kernel.Seq) (*kernel.View, error) {
	v, err := history.At(ctx, p.history, p.schema, seq, p.before(seq), p.mirror.View())
	if err != nil {
		return nil, p.explain(ctx, seq, err)
	}
	if v.Seq() != seq {
		return nil, fmt.Errorf("history was read to event %d, not to %d", v.Seq(), seq)
	}
	return v, nil
}

// explain says to a client that a Seq lies before the window, and where that
// begins, in the words that Kubernetes' clients look for.
func (p *past) explain(ctx context.Context, seq kernel.Seq, err error) error {
	if !errors.Is(err, events.ErrGone) {
		return err
	}
	w, werr := p.history.Window(ctx)
	if werr != nil {
		return err
	}
	return tooOld(seq, w)
}

// tooOld is 410 for what lies before the window.
func tooOld(seq kernel.Seq, w events.Window) error {
	return apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%s)", seq, beginOf(w)))
}

// tooOldTime is tooOld for a time.
func tooOldTime(t time.Time, w events.Window) error {
	return apierrors.NewResourceExpired(fmt.Sprintf("too old: %s (%s)", t.UTC().Format(time.RFC3339), beginOf(w)))
}

// beginOf says where the window begins.
func beginOf(w events.Window) string {
	s := fmt.Sprintf("history is kept from %d on", max(w.First, 1)-1)
	if !w.Since.IsZero() {
		s += ", since " + w.Since.UTC().Format(time.RFC3339)
	}
	return s
}

// hold keeps the View of a list that is not read to its end. One that was
// rebuilt is held as such already.
func (p *past) hold(v *kernel.View) {
	p.mu.Lock()
	rebuilt := slices.ContainsFunc(p.held, func(h heldView) bool { return h.rebuilt && h.view.Seq() == v.Seq() })
	p.mu.Unlock()
	p.keep(v, rebuilt)
}

// keep holds a View for a while.
func (p *past) keep(v *kernel.View, rebuilt bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweep(time.Now())
	limit, same := presentKept, 0
	if rebuilt {
		limit = rebuiltKept
	}
	p.held = slices.DeleteFunc(p.held, func(h heldView) bool { return h.view.Seq() == v.Seq() })
	for _, h := range p.held {
		if h.rebuilt == rebuilt {
			same++
		}
	}
	if same >= limit {
		oldest := slices.IndexFunc(p.held, func(h heldView) bool { return h.rebuilt == rebuilt })
		p.held = slices.Delete(p.held, oldest, oldest+1)
	}
	p.held = append(p.held, heldView{v, time.Now().Add(viewLife), rebuilt})
}

// sweep lets go what was held long enough. p.mu is held.
func (p *past) sweep(now time.Time) {
	p.held = slices.DeleteFunc(p.held, func(h heldView) bool { return !h.until.After(now) })
}

// find returns the View held at a Seq, or nil. p.mu is held.
func (p *past) find(seq kernel.Seq) *kernel.View {
	for _, h := range p.held {
		if h.view.Seq() == seq {
			return h.view
		}
	}
	return nil
}

// before returns the newest View held that is not newer than at, or nil.
func (p *past) before(at kernel.Seq) *kernel.View {
	p.mu.Lock()
	defer p.mu.Unlock()
	var best *kernel.View
	for _, h := range p.held {
		if h.view.Seq() <= at && (best == nil || h.view.Seq() > best.Seq()) {
			best = h.view
		}
	}
	return best
}

// run lets go Views that nobody asks for, until ctx ends.
func (p *past) run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			p.mu.Lock()
			p.sweep(now)
			p.mu.Unlock()
		case <-ctx.Done():
			return nil
		}
	}
}

// viewAt returns the View as it was at seq. A server that is left alone follows
// the log no more, and may have the end of it only in its copy of the past.
func (s *Server) viewAt(ctx context.Context, seq kernel.Seq) (*kernel.View, error) {
	v, err := s.viewAfter(ctx, seq)
	if apierrors.IsTimeout(err) {
		if w, werr := s.past.history.Window(ctx); werr == nil && w.Last >= seq {
			return s.past.at(ctx, seq)
		}
	}
	if err != nil || v.Seq() == seq {
		return v, err
	}
	return s.past.at(ctx, seq)
}
