package memory

import (
	"context"
	"iter"
	"slices"
	"sync"

	"github.com/rutterhq/rutter/events"
)

// untold is how many words wait for a listener who does not keep up.
const untold = 64

var _ events.Talker = (*Log)(nil)

// talk are those who listen.
type talk struct {
	mu     sync.Mutex // protects the following field
	topics map[string][]chan []byte
}

// Tell is events.Talker's.
func (l *Log) Tell(topic string, words []byte) error {
	l.talk.mu.Lock()
	defer l.talk.mu.Unlock()
	for _, c := range l.talk.topics[topic] {
		select {
		case c <- slices.Clone(words):
		default: // it does not keep up
		}
	}
	return nil
}

// Listen is events.Talker's.
func (l *Log) Listen(ctx context.Context, topic string) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		mine := make(chan []byte, untold)
		l.talk.mu.Lock()
		if l.talk.topics == nil {
			l.talk.topics = map[string][]chan []byte{}
		}
		l.talk.topics[topic] = append(l.talk.topics[topic], mine)
		l.talk.mu.Unlock()
		defer func() {
			l.talk.mu.Lock()
			defer l.talk.mu.Unlock()
			l.talk.topics[topic] = slices.DeleteFunc(l.talk.topics[topic], func(c chan []byte) bool { return c == mine })
		}()
		for {
			select {
			case words := <-mine:
				if !yield(words, nil) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}
