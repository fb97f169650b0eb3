package jetstream

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/nats-io/nats.go"

	"github.com/rutterhq/rutter/events"
)

// talkRoot begins the subjects of what is told and not kept.
const talkRoot = "talk."

var _ events.Talker = (*Log)(nil)

// Tell is events.Talker's. What it says goes from server to server, without a
// leader: it is heard while the log has none.
func (l *Log) Tell(topic string, words []byte) error {
	if err := l.nc.Publish(talkRoot+topic, words); err != nil {
		return fmt.Errorf("tell of %s: %w", topic, err)
	}
	return nil
}

// Listen is events.Talker's. It outlives losses of the connection.
func (l *Log) Listen(ctx context.Context, topic string) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		sub, err := l.nc.SubscribeSync(talkRoot + topic)
		if err != nil {
			yield(nil, fmt.Errorf("listen to %s: %w", topic, err))
			return
		}
		defer func() { _ = sub.Unsubscribe() }() // fails when the connection is closed
		for {
			m, err := sub.NextMsgWithContext(ctx)
			switch {
			case ctx.Err() != nil:
				return
			case errors.Is(err, nats.ErrSlowConsumer): // some words were missed
			case err != nil:
				yield(nil, fmt.Errorf("listen to %s: %w", topic, err))
				return
			case !yield(m.Data, nil):
				return
			}
		}
	}
}
