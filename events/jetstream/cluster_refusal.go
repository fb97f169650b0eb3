package jetstream

import (
	"context"
	"errors"
	"fmt"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events"
)

// A write goes to whoever of several servers leads. One that led, was cut off
// from the others and has just come back believes for up to a second that it
// still does: then it gets the write too, as does the one that leads, and what
// answers first is a refusal, by one that need not ask anybody for consent and
// compares the write with an old end of the log. So a refusal is the truth only
// if what was seen of the log bears it out.

// believed is how many refusals in a row are the truth though nothing that was
// seen bears them out, as that the log is full. In between a majority consents
// to something, which tells a server that no longer leads.
const believed = 3

// refused takes a refusal of the only copy that was sent.
func (w *writing) refused(ctx context.Context, refusal error) (seq events.Seq, again bool, err error) {
	if w.refusals++; !w.several || w.refusals >= believed {
		return 0, false, refusal
	}
	if err := w.confirm(ctx); err != nil {
		w.sent = true // somebody else may have stored it
		return 0, true, errors.Join(refusal, err)
	}
	return 0, true, refusal
}

// contested takes a conflict with an event that nobody finds. It is one if the
// write can never be stored, for what it expects is no event of its object;
// else who refused lacks that event, and another server may have stored it.
func (w *writing) contested(ctx context.Context, expect events.Seq, conflict error) (seq events.Seq, again bool, err error) {
	if expect == 0 { // there is an object, from before the horizon
		return w.refused(ctx, conflict)
	}
	if uint64(expect) > w.known.Load() {
		last, err := w.end(ctx)
		if err != nil {
			w.sent = true
			return 0, true, err
		}
		if last < expect { // it was made up: no such event was ever shown here
			return 0, false, conflict
		}
	}
	w.sent = true
	m, err := w.event(ctx, expect)
	switch {
	case errors.Is(err, js.ErrMsgNotFound):
		return 0, true, fmt.Errorf("%w: it lacks event %d", errStale, expect)
	case err != nil:
		return 0, true, err
	case m.Subject != w.m.Subject:
		return 0, false, conflict
	}
	return 0, true, fmt.Errorf("%w: another one has event %d", errStale, expect)
}

// event returns the message at a Seq, of whichever object.
func (l *Log) event(ctx context.Context, at events.Seq) (*js.RawStreamMsg, error) {
	ctx, cancel := l.question(ctx)
	defer cancel()
	m, err := l.stream.GetMsg(ctx, uint64(at))
	if err != nil {
		return nil, fmt.Errorf("message %d: %w", at, err)
	}
	return m, nil
}
