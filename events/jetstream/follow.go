package jetstream

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events"
)

const (
	// quiet is after how long without an event a follower asks whether there
	// really is none.
	quiet = 10 * time.Second
	// quietOfThree is that on several servers, any of which may run the follower's
	// consumer: if that one goes, nothing but silence tells. Each time in a row
	// that there was something after all it waits twice as long, up to quiet:
	// then it is not the consumer that is slow.
	quietOfThree = 2 * time.Second
	// retryPause is how long a reader waits before it asks a server again that
	// could not answer.
	retryPause = 50 * time.Millisecond
	// inactive is after how long the server forgets a consumer that nobody
	// reads from.
	inactive = time.Minute
)

// Follow is events.Log's. It outlives connections and servers: it goes on
// after the last event that it yielded. When ctx ends it yields ctx's error.
func (l *Log) Follow(ctx context.Context, after events.Seq) iter.Seq2[events.Record, error] {
	return func(yield func(events.Record, error) bool) {
		f := follower{log: l, at: after, yield: yield}
		for {
			err := f.run(ctx)
			switch {
			case f.stopped:
				return
			case ctx.Err() != nil:
				err = ctx.Err()
			case errors.Is(err, js.ErrStreamNotFound):
				err = fmt.Errorf("%w: %w", events.ErrGone, err)
			case l.nc.IsClosed():
				err = nats.ErrConnectionClosed
			case !errors.Is(err, events.ErrGone) && !errors.Is(err, errUnreadable):
				if wait(ctx, retryPause) == nil {
					continue
				}
				err = ctx.Err()
			}
			yield(events.Record{}, fmt.Errorf("follow after %d: %w", f.at, err))
			return
		}
	}
}

// errUnreadable says that a message is not an event. It will not get better.
var errUnreadable = errors.New("what the log holds is not an event")

// ahead is how much a reader asks for before it has taken what it has: no more
// bytes at once than a quarter of what the server lets wait for one connection before
// it cuts that off (64 MiB), which is many times the largest event.
var ahead = js.PullMaxMessagesWithBytesLimit(500, 16<<20)

var errDisconnected = errors.New("the connection was lost")

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// follower is one Follow.
type follower struct {
	log     *Log
	at      events.Seq // the last that was yielded
	yield   func(events.Record, error) bool
	stopped bool // yield wants no more
	vain    int  // consumers in a row that brought nothing
}

// patience is how long the next event may take until the follower asks.
func (f *follower) patience() time.Duration {
	if !f.log.several {
		return quiet
	}
	return min(quiet, quietOfThree<<min(f.vain, 8))
}

// run follows by one consumer over one connection until either fails or is no
// longer wanted. It ends with the connection, although a consumer would not:
// what is behind the next one may be another log.
func (f *follower) run(ctx context.Context) error {
	down := f.log.disconnected()
	if f.at == 0 {
		if err := f.begin(ctx); err != nil || f.stopped {
			return err
		}
	}
	if err := f.check(ctx); err != nil {
		return err
	}
	c, err := f.consumer(ctx)
	if err != nil {
		return fmt.Errorf("consumer: %w", err)
	}
	defer f.log.forgetConsumer(ctx, f.log.stream, c)
	ms, err := c.Messages(ahead)
	if err != nil {
		return fmt.Errorf("consumer: %w", err)
	}
	defer ms.Stop()
	defer context.AfterFunc(ctx, ms.Stop)()
	defer f.log.whenLost(ms.Stop)()
	if isClosed(down) {
		return errDisconnected
	}
	for {
		m, err := ms.Next(js.NextMaxWait(f.patience()))
		if errors.Is(err, nats.ErrTimeout) {
			// The watchdog: a log that has more than we were given, or less.
			last, err := f.log.readState(ctx)
			if err != nil {
				return err
			}
			f.log.passed(ctx, events.Record{})
			if last != f.at {
				f.vain++
				return fmt.Errorf("the log is at %d, and nothing came", last)
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("next: %w", err)
		}
		if isClosed(down) {
			return errDisconnected
		}
		r, err := record(m)
		if err != nil {
			return err
		}
		if r.Seq <= f.at {
			continue
		}
		if r.Seq != f.at+1 {
			return fmt.Errorf("event %d follows %d: %w", r.Seq, f.at, events.ErrGone)
		}
		if err := f.log.commit(ctx, r.Seq); err != nil {
			return err
		}
		raise(&f.log.known, uint64(r.Seq))
		f.log.passed(ctx, r)
		if f.stopped = !f.yield(r, nil); f.stopped {
			return nil
		}
		f.at, f.vain = r.Seq, 0
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// check tells whether the log holds what comes after the follower's position.
// A consumer would silently begin elsewhere.
func (f *follower) check(ctx context.Context) error {
	last, err := f.log.readState(ctx)
	if err != nil {
		return err
	}
	if f.log.several && f.at > last {
		// Who answered may have been cut off from the others, or lead so
		// recently that it has not read all that they have.
		if last, err = f.log.end(ctx); err != nil {
			return err
		}
	}
	if first := events.Seq(f.log.first.Load()); f.at+1 < first || f.at > last {
		return fmt.Errorf("the log holds %d to %d: %w", first, last, events.ErrGone)
	}
	return nil
}

func (f *follower) consumer(ctx context.Context) (js.Consumer, error) {
	ctx, cancel := f.log.question(ctx)
	defer cancel()
	return f.log.stream.OrderedConsumer(ctx, js.OrderedConsumerConfig{
		DeliverPolicy: js.DeliverByStartSequencePolicy, OptStartSeq: uint64(f.at) + 1, InactiveThreshold: inactive,
	})
}

// forgetConsumer removes a consumer from the server, which would else do it
// later.
func (l *Log) forgetConsumer(ctx context.Context, stream js.Stream, c js.Consumer) {
	if !l.nc.IsConnected() {
		return
	}
	info := c.CachedInfo()
	if info == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	// It may be gone, or the connection lost: then the server forgets it.
	_ = stream.DeleteConsumer(ctx, info.Name)
}

// record reads a message.
func record(m js.Msg) (events.Record, error) {
	meta, err := m.Metadata()
	if err != nil {
		return events.Record{}, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	r, err := events.FromHeaders(m.Headers())
	if err != nil {
		return r, fmt.Errorf("event %d: %w: %w", meta.Sequence.Stream, errUnreadable, err)
	}
	if r.Key, err = events.KeyOfSubject(m.Subject()); err != nil {
		return r, fmt.Errorf("event %d: %w: %w", meta.Sequence.Stream, errUnreadable, err)
	}
	r.Seq = events.Seq(meta.Sequence.Stream)
	// A copy, because the message's bytes hold its headers too, and records
	// are kept for long.
	r.Body = slices.Clip(slices.Clone(m.Data()))
	return r, nil
}
