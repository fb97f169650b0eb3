package apiserver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rutterhq/rutter/kernel"
)

const (
	// replaysAtOnce bounds from how many positions old history is read for
	// watches at a time.
	replaysAtOnce = 4
	// replayEvents and replayBytes (of bodies) bound what is read at once.
	replayEvents = 4096
	replayBytes  = 1 << 20
	// replayAhead bounds, in bytes of bodies, what one replay holds for those of
	// its watches that are slower than the fastest, and for those that may still
	// join it. Who is further behind reads on alone.
	replayAhead = 8 << 20
	// replayStalled is how long a replay may go without anybody taking more of
	// it before others may have its place.
	replayStalled = 10 * time.Second
)

// replays read old history for watches that begin before the Mirror's ring.
// Those that begin at one position share a replay: its View is rebuilt once,
// and every event is read once.
//
//	start ──► part ──► part ──► part ──► … ──► the ring
//	  ▲ joins   ▲ a slow watch    ▲ the fastest reads on when it needs more
type replays struct {
	past *past
	// reached tells whether the Mirror's ring has all that follows a Seq.
	reached func(context.Context, kernel.Seq) bool

	mu      sync.Mutex // protects the following
	running []*replay
	left    chan struct{} // closed and replaced whenever one is over
}

// replay is one reading of history.
type replay struct {
	start kernel.Seq
	// turn is a token: who has it may change parts, and read on.
	turn  chan struct{}
	total int // bytes of all parts; changed with the turn

	// The following are protected by replays.mu.
	first   *part // at start; nil before it was rebuilt, and once it was let go
	members []*member
	moved   time.Time // when somebody took a part last
	closed  bool      // nobody can join any more
	over    bool      // it has lost its place
}

// part is a View and the events that led to it.
type part struct {
	step  kernel.Step
	total int   // bytes up to here
	next  *part // nil if it was not read yet
	cut   bool  // what follows was let go
}

// member is one watch of a replay.
type member struct {
	of     *replays
	replay *replay
	part   *part // the last one that it took; changed only by who has the turn
}

// errBehind tells a watch that its replay has gone on without it.
var errBehind = errors.New("the replay has gone on")

// join makes a watch a member of the replay that begins at start, if one must
// be: nil if the ring has what it needs. It returns when the View at start is
// there. With too many replays it gives 429, before the window 410.
func (rs *replays) join(ctx context.Context, start kernel.Seq) (*member, error) {
	if rs.reached(ctx, start) {
		return nil, nil
	}
	late := time.After(historyWait)
	for {
		m, left := rs.enter(start)
		if m != nil {
			err := m.begin(ctx)
			if err == nil {
				return m, nil
			}
			if m.leave(); errors.Is(err, errBehind) {
				continue // it was closed since this one has entered
			}
			return nil, err
		}
		select {
		case <-left:
		case <-late:
			return nil, errBusy()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// enter finds a replay to join or begins one. If there is no room it returns
// what is closed when there may be.
func (rs *replays) enter(start kernel.Seq) (*member, <-chan struct{}) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	var r *replay
	for _, have := range rs.running {
		if have.start == start && !have.closed {
			r = have
		}
	}
	if r == nil {
		if len(rs.running) >= replaysAtOnce && !rs.evict() {
			return nil, rs.left
		}
		r = &replay{start: start, turn: make(chan struct{}, 1)}
		rs.running = append(rs.running, r)
	}
	r.moved = time.Now()
	m := &member{of: rs, replay: r}
	r.members = append(r.members, m)
	return m, nil
}

// evict takes the place of a replay whose watches do not read. rs.mu is held.
func (rs *replays) evict() bool {
	for _, r := range rs.running {
		if time.Since(r.moved) > replayStalled {
			rs.end(r)
			return true
		}
	}
	return false
}

// end takes a replay's place away. rs.mu is held.
func (rs *replays) end(r *replay) {
	if r.over {
		return
	}
	r.over, r.closed, r.first = true, true, nil
	rs.running = without(rs.running, r)
	close(rs.left)
	rs.left = make(chan struct{})
}

// without returns a copy of a list that lacks x.
func without[T comparable](list []T, x T) []T {
	out := make([]T, 0, len(list))
	for _, each := range list {
		if each != x {
			out = append(out, each)
		}
	}
	return out
}

// leave ends a membership; again is harmless. The last who leaves ends the replay.
func (m *member) leave() {
	m.of.mu.Lock()
	defer m.of.mu.Unlock()
	r := m.replay
	m.part = nil // the watch goes on for long
	if r.members = without(r.members, m); len(r.members) == 0 {
		m.of.end(r)
	}
}

// begin waits for the View at the replay's start.
func (m *member) begin(ctx context.Context) error {
	r := m.replay
	if err := m.take(ctx); err != nil {
		return err
	}
	defer func() { <-r.turn }()
	m.of.mu.Lock()
	first, closed := r.first, r.closed
	m.of.mu.Unlock()
	if closed {
		return errBehind
	}
	if first == nil {
		v, err := m.of.past.at(ctx, r.start)
		if err != nil {
			return err
		}
		first = &part{step: kernel.Step{View: v}}
	}
	m.part = first
	m.of.mu.Lock()
	defer m.of.mu.Unlock()
	if !r.closed {
		r.first = first
	}
	return nil
}

// take waits for the turn.
func (m *member) take(ctx context.Context) error {
	select {
	case m.replay.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// steps yields what follows until the ring has the rest. errBehind says that
// the watch must join again, at where it is.
func (m *member) steps(ctx context.Context, yield func(kernel.Step) bool) error {
	defer m.leave()
	for {
		if m.of.reached(ctx, m.part.step.View.Seq()) {
			return nil
		}
		if err := m.more(ctx); err != nil {
			return err
		}
		if !yield(m.part.step) {
			return nil
		}
	}
}

// more takes the next part, and reads it if this is the first who needs it.
func (m *member) more(ctx context.Context) error {
	r := m.replay
	if err := m.take(ctx); err != nil {
		return err
	}
	defer func() { <-r.turn }()
	m.of.mu.Lock()
	over := r.over
	r.moved = time.Now()
	m.of.mu.Unlock()
	if over || m.part.cut {
		return errBehind
	}
	if m.part.next == nil {
		next, err := m.of.read(ctx, m.part)
		if err != nil {
			return err
		}
		m.part.next, r.total = next, next.total
		m.of.trim(r)
	}
	m.part = m.part.next
	return nil
}

// read reads the part that follows.
func (rs *replays) read(ctx context.Context, after *part) (*part, error) {
	v := after.step.View
	next := &part{total: after.total}
	var batch []kernel.Record
	to := min(v.Seq()+replayEvents, rs.past.mirror.View().Seq())
	for r, err := range rs.past.history.Read(ctx, v.Seq(), to) {
		if err != nil {
			return nil, rs.past.explain(ctx, v.Seq(), err)
		}
		batch = append(batch, r)
		if next.total += len(r.Body); next.total-after.total >= replayBytes {
			break
		}
	}
	if len(batch) == 0 {
		return nil, fmt.Errorf("history has nothing after event %d", v.Seq())
	}
	next.step.View, next.step.Events = v.Fold(batch...)
	return next, nil
}

func newReplays(p *past, reached func(context.Context, kernel.Seq) bool) *replays {
	return &replays{past: p, reached: reached, left: make(chan struct{})}
}

// count tells how many there are.
func (rs *replays) count() int {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return len(rs.running)
}

// trim lets go what is too far behind the newest part: the beginning, so that
// nobody can join any more, and what members have not taken. The turn is held.
func (rs *replays) trim(r *replay) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if r.total > replayAhead {
		r.first, r.closed = nil, true
	}
	for _, m := range r.members {
		if m.part != nil && r.total-m.part.total > replayAhead {
			m.part.next, m.part.cut = nil, true
		}
	}
}
