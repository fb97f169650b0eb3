package apiserver

import (
	"context"
	"time"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
)

// indexTimeout bounds one look at the log's end.
const indexTimeout = 10 * time.Second

// readIndex makes reads linearizable: it asks the log for its end and waits
// until the View has it. One question in flight serves all who asked for it
// before it began; those who come later share the next.
type readIndex struct {
	log    events.Log
	mirror *kernel.Mirror
	lead   chan struct{} // a token: whoever holds it asks the log
	next   chan *indexRound
}

// indexRound is one question to the log, and its answer.
type indexRound struct {
	done chan struct{}
	seq  kernel.Seq
	err  error
}

func newReadIndex(log events.Log, mirror *kernel.Mirror) readIndex {
	x := readIndex{log: log, mirror: mirror, lead: make(chan struct{}, 1), next: make(chan *indexRound, 1)}
	x.next <- &indexRound{done: make(chan struct{})}
	return x
}

// view returns a View that has every event that was durable when it was called.
func (x *readIndex) view(ctx context.Context) (*kernel.View, error) {
	round := <-x.next
	x.next <- round
	select {
	case <-round.done:
	case x.lead <- struct{}{}:
		x.ask(ctx, round)
		<-x.lead
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case <-round.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if round.err != nil {
		return nil, round.err
	}
	return x.mirror.At(ctx, round.seq)
}

// ask answers the round unless the leader before did: then it was asked for
// before that question began, or it would be the next round.
func (x *readIndex) ask(ctx context.Context, round *indexRound) {
	select {
	case <-round.done:
		return
	default:
	}
	<-x.next // nobody may join any more
	x.next <- &indexRound{done: make(chan struct{})}
	// The others must not fail because the one who asks for them has left.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), indexTimeout)
	defer cancel()
	round.seq, round.err = x.log.Last(ctx)
	close(round.done)
}
