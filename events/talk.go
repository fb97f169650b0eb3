package events

import (
	"context"
	"iter"
)

// Talker is a log whose users can tell one another what is true only now, and
// what nobody will ask for later: it is not in the log, and on no disk.
type Talker interface {
	// Tell passes words on a topic, a word without dots, to all who listen. It
	// waits for nobody: who cannot be reached now, or does not keep up, misses
	// them. No majority of servers is needed.
	Tell(topic string, words []byte) error

	// Listen yields what is told about a topic from now on, by this process too,
	// until ctx ends; an error only when nothing more will ever come.
	Listen(ctx context.Context, topic string) iter.Seq2[[]byte, error]
}
