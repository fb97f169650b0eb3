package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/rutterhq/rutter/events"
)

// JetStream's error codes that mean something to a writer.
const (
	codeStorageFull    = 10047
	codeTooLarge       = 10054
	codeStoreFailed    = 10077 // also "maximum bytes exceeded"
	codeHeaderTooLarge = 10097
	codeWrongLast      = 10071
	codeWrongLastBusy  = 10164 // another write of the subject is on its way
)

const headerExpectLast = "Nats-Expected-Last-Subject-Sequence"

// Pauses before a write whose answer was lost is looked for again.
const (
	firstPause = 10 * time.Millisecond
	maxPause   = time.Second
)

var (
	// errLost says that no answer came, so that the outcome is not known.
	errLost = errors.New("no answer came")
	// errUnsent says that there was no connection to send anything over.
	errUnsent = errors.New("not sent")
)

// Append is events.Log's. While there is no connection it waits for one.
func (l *Log) Append(ctx context.Context, r events.Record) (events.Seq, error) {
	if err := r.Check(); err != nil {
		return 0, fmt.Errorf("append: %w", err)
	}
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	case <-ctx.Done():
		return 0, fmt.Errorf("append %s: %w", r.Key, ctx.Err())
	}
	if r.ID == "" {
		r.ID = nuid.Next()
	}
	if err := l.refuse(); err != nil {
		return 0, fmt.Errorf("append %s: %w", r.Key, err)
	}
	tries, cancel := l.patience(ctx)
	defer cancel()
	seq, err := l.append(tries, r)
	if errors.Is(err, events.ErrFull) && r.Key == events.HorizonKey {
		if err = l.makeRoom(tries); err == nil {
			seq, err = l.append(tries, r)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("append %s: %w", r.Key, l.unavailable(ctx, tries, err))
	}
	if err := l.commit(ctx, seq); err != nil {
		return 0, fmt.Errorf("append %s: it is not known whether event %d is durable: %w", r.Key, seq, err)
	}
	raise(&l.known, uint64(seq))
	return seq, nil
}

func (l *Log) append(ctx context.Context, r events.Record) (events.Seq, error) {
	w := writing{Log: l, r: r, m: &nats.Msg{Subject: r.Key.Subject(), Header: r.Headers(), Data: r.Body}}
	done := l.past.horizon.begin()
	defer func() { done(); l.wrote() }()
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		seq, again, err := w.try(ctx)
		switch {
		case !again:
			return seq, err
		case err == nil:
			continue
		case l.nc.IsClosed():
			return 0, givenUp(w.sent || w.refusals > 0, nats.ErrConnectionClosed)
		}
		if werr := wait(ctx, pause); werr != nil {
			return 0, givenUp(w.sent || w.refusals > 0, errors.Join(werr, err))
		}
	}
}

// writing is one Append.
type writing struct {
	*Log
	r    events.Record
	m    *nats.Msg
	sent bool       // an earlier copy may have been stored, or may yet be
	tomb events.Seq // the object's last event, which is a forgotten tombstone
	// refusals is how often it was refused so that it may be written all the same
	refusals int
}

// try sends the write once, and finds out what became of it. again says that
// it is to be tried again: at once, or after a pause if there is an error.
func (w *writing) try(ctx context.Context) (seq events.Seq, again bool, err error) {
	expect, err := w.expectation(ctx, w.r)
	if errors.Is(err, events.ErrGone) {
		return 0, false, givenUp(w.sent, err)
	}
	if err != nil {
		return 0, true, err
	}
	expect = max(expect, w.tomb)
	w.m.Header[headerExpectLast] = []string{strconv.FormatUint(uint64(expect), 10)}
	a, lost := w.publish(ctx, w.m)
	switch {
	case lost == nil && a.Error == nil:
		return events.Seq(a.Seq), false, nil
	case errors.Is(lost, nats.ErrMaxPayload):
		return 0, false, givenUp(w.sent, fmt.Errorf("%w: %w", lost, events.ErrTooLarge))
	case lost == nil && !isConflict(a) && !w.sent:
		return w.refused(ctx, refusal(a))
	case lost != nil && !errors.Is(lost, errUnsent):
		w.sent = true
	}
	if ctx.Err() != nil {
		return 0, false, givenUp(w.sent || lost == nil, ctx.Err())
	}
	// The answer is lost, or a copy was refused, maybe because of another.
	if lost == nil && w.r.Expect == 0 {
		if err := w.knowHorizon(ctx); err != nil {
			return 0, true, err
		}
	}
	seq, err = w.settle(ctx, w.m.Subject, w.r, max(expect, w.r.Expect), w.sent)
	switch {
	case seq != 0 || errors.Is(err, events.ErrConflict):
		return seq, false, err
	case errors.Is(err, events.ErrGone):
		return 0, false, givenUp(w.sent, err)
	case err != nil || lost != nil:
		return 0, true, errors.Join(lost, err)
	case !isConflict(a):
		return 0, false, givenUp(w.sent, refusal(a))
	case a.Error.ErrCode == codeWrongLastBusy:
		return 0, true, errors.New(a.Error.Description)
	}
	w.tomb, err = w.expectElse(ctx, w.r, expect, a)
	if w.several && errors.Is(err, events.ErrConflict) {
		return w.contested(ctx, expect, err)
	}
	return 0, err == nil, err
}

// givenUp is why a write was given up. If a copy of it was sent, the error
// says no more than that: it must not be taken for one of those that say that
// nothing was written.
func givenUp(sent bool, err error) error {
	switch {
	case !sent:
		return fmt.Errorf("it was not written: %w", err)
	case errors.Is(err, events.ErrFull), errors.Is(err, events.ErrTooLarge), errors.Is(err, events.ErrGone), errors.Is(err, events.ErrConflict):
		return fmt.Errorf("it is not known whether it was written: %v", err)
	}
	return fmt.Errorf("it is not known whether it was written: %w", err)
}

// expectation returns what the server must hold as the last Seq of the
// object's subject. Where that event was purged it is 0; who has not read all
// that was purged, or may be at any time, cannot know, and must start again.
func (l *Log) expectation(ctx context.Context, r events.Record) (events.Seq, error) {
	first := events.Seq(l.first.Load())
	floor, _ := l.past.horizon.get()
	if r.Expect >= max(first, floor) || first <= 1 && floor <= 1 {
		return r.Expect, nil
	}
	if r.Expect < first {
		if err := l.mayBeBlind(ctx); err != nil {
			return 0, err
		}
		first = events.Seq(l.first.Load())
		floor, _ = l.past.horizon.get()
	}
	if begin := max(first, floor); r.Seen+1 < begin {
		return 0, fmt.Errorf("seen %d, the log begins at %d: %w", r.Seen, begin, events.ErrGone)
	}
	if r.Expect < first {
		return 0, nil
	}
	return r.Expect, nil
}

// expectElse looks at a conflict. Without an error the write is to be sent
// again: the expected event was purged meanwhile, or the server has event
// tomb, which is a forgotten tombstone.
func (l *Log) expectElse(ctx context.Context, r events.Record, expect events.Seq, a answer) (tomb events.Seq, err error) {
	conflict := fmt.Errorf("expected event %d: %s: %w", r.Expect, a.Error.Description, events.ErrConflict)
	n, err := strconv.ParseUint(a.Error.Description[strings.LastIndexByte(a.Error.Description, ' ')+1:], 10, 64)
	if err != nil || uint64(expect) == n {
		return 0, conflict // another write of the object is on its way
	}
	if n > 0 {
		ok, err := l.forgotten(ctx, r, events.Seq(n))
		if ok && expect == 0 {
			return events.Seq(n), nil
		}
		return 0, errors.Join(conflict, err)
	}
	if _, err := l.readState(ctx); err != nil {
		return 0, errors.Join(conflict, err)
	}
	if uint64(expect) < l.first.Load() {
		return 0, nil
	}
	return 0, conflict
}

// publish sends one message and waits for its answer. With errLost, or when
// ctx ends, it may have been stored or not; with errUnsent it was not.
func (l *Log) publish(ctx context.Context, m *nats.Msg) (answer, error) {
	down := l.disconnected()
	serial, reply, ch := l.acks.expect()
	defer l.acks.forget(serial)
	m.Reply = reply
	if err := l.nc.PublishMsg(m); err != nil {
		return answer{}, fmt.Errorf("%w: %w", errUnsent, err)
	}
	timer := time.NewTimer(l.ackWait)
	defer timer.Stop()
	select {
	case a := <-ch:
		if a.lost {
			return answer{}, errLost
		}
		return a, nil
	case <-down:
	case <-timer.C:
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
	return answer{}, errLost
}

// settle finds out what became of a write: its Seq if it is stored, or
// ErrConflict if it is not and can no longer be, because somebody else wrote
// the object after the event that is expected. (0, nil) says that nobody did:
// then the same message may be sent again, for of all copies the server stores
// one at most.
//
// It looks at the first event of the object after the expected one, for the
// server stores the write there or nowhere. A conflict is looked at too: it may
// be one with a copy of the write itself, whose own answer was lost.
func (l *Log) settle(ctx context.Context, subject string, r events.Record, after events.Seq, sent bool) (events.Seq, error) {
	if floor, since := l.past.horizon.get(); r.Expect == 0 && since > 0 && r.Seen >= since {
		after = max(after, floor-1) // what there was of the object is forgotten
	}
	m, err := l.message(ctx, uint64(after)+1, subject)
	found := !errors.Is(err, js.ErrMsgNotFound)
	if found && err != nil {
		return 0, err
	}
	if found && len(m.Header[events.HeaderID]) == 1 && m.Header[events.HeaderID][0] == events.HeaderValue(r.ID) {
		return events.Seq(m.Sequence), nil
	}
	if sent {
		// A write that was under way for longer than the log keeps what it then
		// purges may have been stored and purged since.
		if _, err := l.readState(ctx); err != nil {
			return 0, err
		}
		if first := events.Seq(l.first.Load()); first > max(r.Seen, r.Expect)+1 {
			return 0, fmt.Errorf("seen %d, the log begins at %d: %w", r.Seen, first, events.ErrGone)
		}
	}
	if found {
		// Who is told of the other event must then find it.
		if err := l.commit(ctx, events.Seq(m.Sequence)); err != nil {
			return 0, err
		}
		return 0, fmt.Errorf("expected event %d, event %d follows it: %w", r.Expect, m.Sequence, events.ErrConflict)
	}
	return 0, nil
}

// message returns the first message of a subject from a Seq on.
func (l *Log) message(ctx context.Context, from uint64, subject string) (*js.RawStreamMsg, error) {
	ctx, cancel := l.question(ctx)
	defer cancel()
	m, err := l.stream.GetMsg(ctx, from, js.WithGetMsgSubject(subject))
	if err != nil {
		return nil, fmt.Errorf("message of %s from %d on: %w", subject, from, err)
	}
	return m, nil
}

func isConflict(a answer) bool {
	return a.Error.ErrCode == codeWrongLast || a.Error.ErrCode == codeWrongLastBusy
}

// refusal is the error of an answer that says that nothing was written.
func refusal(a answer) error {
	e := a.Error
	var what error
	switch {
	case e.ErrCode == codeStorageFull, e.ErrCode == codeStoreFailed && e.Description == "maximum bytes exceeded":
		what = events.ErrFull
	case e.ErrCode == codeTooLarge, e.ErrCode == codeHeaderTooLarge:
		what = events.ErrTooLarge
	default:
		return fmt.Errorf("the server refused it: %s (%d)", e.Description, e.ErrCode)
	}
	return fmt.Errorf("%s (%d): %w", e.Description, e.ErrCode, what)
}
