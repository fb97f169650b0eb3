package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events"
)

// Last is events.Log's. While there is no connection it waits for one. All who
// ask while a question is under way share the next one: each gets an answer
// that was asked for after it came.
//
// Where the server is this process' own and has no clients outside, nobody is
// asked: the last durable event is known here.
func (l *Log) Last(ctx context.Context) (events.Seq, error) {
	if l.commits != nil && ctx.Err() == nil && !l.nc.IsClosed() {
		return events.Seq(l.commits.durable.Load()), nil
	}
	if err := l.refuse(); err != nil {
		return 0, fmt.Errorf("last: %w", err)
	}
	tries, cancel := l.patience(ctx)
	defer cancel()
	s, err := l.last.get(tries)
	if err != nil {
		return 0, fmt.Errorf("last: %w", l.unavailable(ctx, tries, err))
	}
	return s, nil
}

// readLast asks until the server can answer.
func (l *Log) readLast(ctx context.Context) (events.Seq, error) {
	for {
		s, err := l.end(ctx)
		if err == nil && l.several && uint64(s) < l.known.Load() {
			err = errStale
		}
		if err == nil {
			raise(&l.known, uint64(s))
			return s, nil
		}
		if ctx.Err() != nil || l.nc.IsClosed() || errors.Is(err, js.ErrStreamNotFound) {
			return s, err
		}
		if werr := wait(ctx, retryPause); werr != nil {
			return 0, errors.Join(werr, err)
		}
	}
}

// readState asks the server for the stream's last Seq, and notes its first. Of
// several servers it may be one that no longer leads: Log.end knows.
func (l *Log) readState(ctx context.Context) (events.Seq, error) {
	info, err := l.readInfo(ctx)
	if err != nil {
		return 0, err
	}
	return events.Seq(info.State.LastSeq), nil
}

// readInfo is readState's, with the name of who answered.
func (l *Log) readInfo(ctx context.Context) (*js.StreamInfo, error) {
	ctx, cancel := l.question(ctx)
	defer cancel()
	info, err := l.stream.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("state of stream %s: %w", StreamName, err)
	}
	raise(&l.first, info.State.FirstSeq)
	return info, nil
}

// commit returns when an event that the server has is durable: before anybody
// else is told of it.
func (l *Log) commit(ctx context.Context, seq events.Seq) error {
	if l.commits == nil {
		return nil
	}
	return l.commits.wait(ctx, uint64(seq))
}

// raise makes the value at least as large as n.
func raise(value *atomic.Uint64, n uint64) {
	for {
		has := value.Load()
		if has >= n || value.CompareAndSwap(has, n) {
			return
		}
	}
}

// lastIndex answers many callers by few questions. There is no goroutine: one
// of those who wait asks for all.
type lastIndex struct {
	read func(context.Context) (events.Seq, error)
	turn chan struct{} // holds a token of who asks

	mu   sync.Mutex // protects the following field
	next *lastAnswer
}

func newLastIndex(read func(context.Context) (events.Seq, error)) *lastIndex {
	return &lastIndex{read: read, turn: make(chan struct{}, 1)}
}

// lastAnswer is what a question that has not yet been sent will give.
type lastAnswer struct {
	done chan struct{} // closed when it is there
	seq  events.Seq
	err  error
}

func (x *lastIndex) get(ctx context.Context) (events.Seq, error) {
	x.mu.Lock()
	a := x.next
	mine := a == nil
	if mine {
		a = &lastAnswer{done: make(chan struct{})}
		x.next = a
	}
	x.mu.Unlock()
	if mine {
		x.ask(ctx, a)
	}
	select {
	case <-a.done:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if a.err != nil && !mine {
		// It may have been the end of the other's ctx.
		return x.read(ctx)
	}
	return a.seq, a.err
}

// ask waits for its turn and reads, for all that have come until then. If it
// has no time left for that, they ask for themselves.
func (x *lastIndex) ask(ctx context.Context, a *lastAnswer) {
	var err error
	select {
	case x.turn <- struct{}{}:
		defer func() { <-x.turn }()
	case <-ctx.Done():
		err = ctx.Err()
	}
	x.mu.Lock()
	x.next = nil
	x.mu.Unlock()
	if a.err = err; err == nil {
		a.seq, a.err = x.read(ctx)
	}
	close(a.done)
}
