package logtest

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events"
)

// Talk holds two users of a log to events.Talker: each hears the other, and
// itself, nothing of other topics, and nothing after its context ended.
func Talk(ctx context.Context, t *testing.T, a, b events.Talker) {
	t.Helper()
	for _, who := range []struct{ tells, hears events.Talker }{{a, b}, {b, a}, {a, a}} {
		ctx, cancel := context.WithCancel(ctx)
		heard := make(chan string)
		var g errgroup.Group
		g.Go(func() error {
			for words, err := range who.hears.Listen(ctx, "one") {
				if err != nil {
					return err
				}
				select {
				case heard <- string(words):
				case <-ctx.Done():
				}
			}
			return nil
		})
		again := time.NewTicker(50 * time.Millisecond) // what is told before somebody listens is lost
		for got := ""; got == ""; {
			for topic, words := range map[string]string{"one": "hello", "two": "not for you"} {
				if err := who.tells.Tell(topic, []byte(words)); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case got = <-heard:
				if got != "hello" {
					t.Errorf("heard %q", got)
				}
			case <-again.C:
			case <-ctx.Done():
				t.Fatal("nothing was heard")
			}
		}
		again.Stop()
		cancel()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	}
}
