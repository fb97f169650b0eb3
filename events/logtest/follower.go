package logtest

import (
	"context"
	"sync"

	"github.com/rutterhq/rutter/events"
)

// follower records what it is shown, as it comes.
type follower struct {
	mu      sync.Mutex // protects the following fields
	records []events.Record
	err     error
	more    *sync.Cond
	end     context.CancelFunc
	group   sync.WaitGroup
}

// follow follows a log from its first event on, until it is closed.
func follow(ctx context.Context, l events.Log) *follower {
	ctx, cancel := context.WithCancel(ctx)
	f := &follower{end: cancel}
	f.more = sync.NewCond(&f.mu)
	f.group.Go(func() {
		for r, err := range l.Follow(ctx, 0) {
			f.mu.Lock()
			if f.err = err; err == nil {
				f.records = append(f.records, r)
			}
			f.more.Broadcast()
			f.mu.Unlock()
		}
	})
	return f
}

func (f *follower) close() {
	f.end()
	f.group.Wait()
}

// wait returns what was shown once that goes as far as seq, or nothing more comes.
func (f *follower) wait(seq events.Seq) []events.Record {
	f.mu.Lock()
	defer f.mu.Unlock()
	for events.Seq(len(f.records)) < seq && f.err == nil {
		f.more.Wait()
	}
	return f.records
}
