package jetstream

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/rutterhq/rutter/events"
)

func TestLastIsShared(t *testing.T) {
	t.Parallel()
	asked := make(chan chan events.Seq)
	x := newLastIndex(func(context.Context) (events.Seq, error) {
		a := make(chan events.Seq)
		asked <- a
		return <-a, nil
	})
	get := func() <-chan events.Seq {
		out := make(chan events.Seq, 1)
		go func() {
			s, err := x.get(t.Context())
			if err != nil {
				t.Error(err)
			}
			out <- s
		}()
		return out
	}
	first := get()
	q1 := <-asked
	later := []<-chan events.Seq{get(), get(), get()}
	q1 <- 1 // an answer to a question from before they came is not theirs
	if got := <-first; got != 1 {
		t.Errorf("the first got %d", got)
	}
	seq := events.Seq(1)
	for i := 0; i < len(later); {
		select {
		case q := <-asked:
			seq++
			q <- seq
		case got := <-later[i]:
			if got < 2 {
				t.Errorf("got %d, which was asked for before", got)
			}
			i++
		}
	}
}

// TestLastKeepsItsTime has one ask for the log's end who has time, and gets no
// answer: another, who has not, must not wait for longer than it wants.
func TestLastKeepsItsTime(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 2)
	x := newLastIndex(func(ctx context.Context) (events.Seq, error) {
		asked <- struct{}{}
		<-ctx.Done() // the server does not answer
		return 0, ctx.Err()
	})
	patient, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := x.get(patient); !errors.Is(err, context.Canceled) {
			t.Errorf("the patient one got %v", err)
		}
	})
	<-asked
	hurried, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	late := time.AfterFunc(5*time.Second, func() {
		t.Error("who had 20 ms waits for 5 s")
		stop()
	})
	if _, err := x.get(hurried); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the hurried one got %v", err)
	}
	late.Stop()
	stop()
	wg.Wait()
	// Nothing is left of the one that gave up: the next one asks.
	again, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := x.get(again); !errors.Is(err, context.DeadlineExceeded) || len(asked) == 0 {
		t.Errorf("the next one got %v, and %d asked", err, len(asked))
	}
}
