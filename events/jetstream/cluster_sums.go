package jetstream

import (
	"context"
	"fmt"
	"strings"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events"
)

// SumBucket is the key-value bucket in which servers compare what they folded.
const SumBucket = "SUM"

const (
	// sumTTL is how long a sum stays to be compared with: longer than a server
	// that was cut off may take to come to the same Seq.
	sumTTL = time.Hour
	// maxBucket bounds a bucket, in bytes.
	maxBucket = 8 << 20
)

// Sum is what one server says of its state.
type Sum struct {
	Server string     // a word: without dots or spaces
	Seq    events.Seq // the state is that of the log up to here
	Value  string     // the same for equal states
}

// Post tells all servers a sum.
func (l *Log) Post(ctx context.Context, s Sum) error {
	ctx, cancel := l.question(ctx)
	defer cancel()
	kv, err := l.api.KeyValue(ctx, SumBucket)
	if err == nil {
		_, err = kv.PutString(ctx, fmt.Sprintf("%d.%s", s.Seq, s.Server), s.Value)
	}
	if err != nil {
		return fmt.Errorf("post the sum at %d: %w", s.Seq, err)
	}
	return nil
}

// Sums returns what all servers have posted for a Seq until now.
func (l *Log) Sums(ctx context.Context, seq events.Seq) ([]Sum, error) {
	ctx, cancel := l.question(ctx)
	defer cancel()
	kv, err := l.api.KeyValue(ctx, SumBucket)
	if err != nil {
		return nil, fmt.Errorf("sums at %d: %w", seq, err)
	}
	w, err := kv.Watch(ctx, fmt.Sprintf("%d.*", seq), js.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("sums at %d: %w", seq, err)
	}
	defer w.Stop()
	var sums []Sum
	for {
		select {
		case e := <-w.Updates():
			if e == nil { // that was all
				return sums, nil
			}
			_, name, _ := strings.Cut(e.Key(), ".")
			sums = append(sums, Sum{Server: name, Seq: seq, Value: string(e.Value())})
		case <-ctx.Done():
			return nil, fmt.Errorf("sums at %d: %w", seq, ctx.Err())
		}
	}
}
