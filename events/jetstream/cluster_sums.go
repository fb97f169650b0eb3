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

// storedKey ends the keys of what servers store. It is a value of its own, so
// that a server of an older build compares what it knows of.
const storedKey = ".stored"

// Sum is what one server says of its state and of its copy of the log.
type Sum struct {
	Server string     // a word: without dots or spaces
	Seq    events.Seq // both are of the log up to here
	Value  string     // the same for equal states
	After  events.Seq // Stored is of what follows
	Stored string     // the same for equal copies; "": nothing is said of it
}

// Post tells all servers a sum.
func (l *Log) Post(ctx context.Context, s Sum) error {
	ctx, cancel := l.question(ctx)
	defer cancel()
	kv, err := l.api.KeyValue(ctx, SumBucket)
	key := fmt.Sprintf("%d.%s", s.Seq, s.Server)
	if err == nil && s.Stored != "" { // first, for who has a Value looks no further
		_, err = kv.PutString(ctx, key+storedKey, fmt.Sprintf("%d %s", s.After, s.Stored))
	}
	if err == nil {
		_, err = kv.PutString(ctx, key, s.Value)
	}
	if err != nil {
		return fmt.Errorf("post the sum at %d: %w", s.Seq, err)
	}
	return nil
}

// Sums returns what servers have posted for a Seq, once so many have, or when
// ctx ends.
func (l *Log) Sums(ctx context.Context, seq events.Seq, enough int) ([]Sum, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer l.whenLost(cancel)()
	kv, err := l.api.KeyValue(ctx, SumBucket)
	if err != nil {
		return nil, fmt.Errorf("sums at %d: %w", seq, err)
	}
	w, err := kv.Watch(ctx, fmt.Sprintf("%d.>", seq), js.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("sums at %d: %w", seq, err)
	}
	defer w.Stop()
	by, has := map[string]*Sum{}, false
	for {
		var all []Sum
		for _, s := range by {
			if s.Value != "" {
				all = append(all, *s)
			}
		}
		if has && len(all) >= enough {
			return all, nil
		}
		if ctx.Err() != nil {
			if has {
				return all, nil
			}
			return nil, fmt.Errorf("sums at %d: %w", seq, ctx.Err())
		}
		select {
		case e, ok := <-w.Updates():
			if !ok {
				return nil, fmt.Errorf("sums at %d: the server sends no more", seq)
			}
			if e == nil { // that was all until now
				has = true
				continue
			}
			_, name, _ := strings.Cut(e.Key(), ".")
			name, isStored := strings.CutSuffix(name, storedKey)
			if by[name] == nil {
				by[name] = &Sum{Server: name, Seq: seq}
			}
			if !isStored {
				by[name].Value = string(e.Value())
			} else if _, err := fmt.Sscanf(string(e.Value()), "%d", &by[name].After); err == nil {
				_, by[name].Stored, _ = strings.Cut(string(e.Value()), " ")
			}
		case <-ctx.Done():
		}
	}
}
