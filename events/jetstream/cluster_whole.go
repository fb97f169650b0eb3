package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events"
)

// filling is what this server's own copies must have to be whole.
type filling struct {
	mu    sync.Mutex        // protects the following fields
	want  map[string]uint64 // the last message of each stream, when it was first asked
	whole bool
}

var _ events.Copier = (*Log)(nil)

// Whole is events.Copier's. Once it was, a server is whole until it ends: what
// is written later it consents to.
func (l *Log) Whole(ctx context.Context) error {
	if !l.several || l.server == nil {
		return nil
	}
	l.filling.mu.Lock()
	defer l.filling.mu.Unlock()
	if l.filling.whole {
		return nil
	}
	if l.filling.want == nil {
		want, err := l.ends(ctx)
		if err != nil {
			return fmt.Errorf("what there is: %w", l.unavailable(ctx, ctx, err))
		}
		l.filling.want = want
	}
	for _, name := range copied {
		want := l.filling.want[name]
		if own, _ := l.server.copyOf(name); own.LastSeq < want {
			return fmt.Errorf("this server's copy of %s has %d of %d messages", name, own.LastSeq, want)
		}
	}
	l.filling.whole = true
	return nil
}

// copied are the streams of which each of several servers has a copy, in the
// order in which they are told of.
var copied = []string{StreamName, HistName, snapStream, keysStream}

// ends returns the last message of each stream. History's is to be the log's: a
// server that is left alone reads that.
func (l *Log) ends(ctx context.Context) (map[string]uint64, error) {
	last, err := l.Last(ctx)
	if err != nil {
		return nil, err
	}
	want := map[string]uint64{StreamName: uint64(last), HistName: uint64(last)}
	ask, cancel := l.question(ctx)
	defer cancel()
	for _, name := range []string{snapStream, keysStream} {
		s, err := l.api.Stream(ask, name)
		if errors.Is(err, js.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("state of stream %s: %w", name, err)
		}
		want[name] = s.CachedInfo().State.LastSeq
	}
	return want, nil
}
