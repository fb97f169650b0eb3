package jetstream

import (
	"testing"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// TestOneLeads asks three servers for their own copies, and again without the
// one that led: one of them leads each stream, and then another one does.
func TestOneLeads(t *testing.T) {
	t.Parallel()
	ctx, c := logtest.Context(t), newTrio(t)
	c.startAll()
	l := c.open(0)
	last := events.Seq(0)
	for err := error(events.ErrUnavailable); err != nil; {
		if last, err = l.Append(ctx, logtest.Record("a", 0)); err != nil && ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	leader := func(stream string) int {
		for {
			var all []int
			for i, s := range c.servers {
				if s == nil {
					continue
				}
				for _, own := range s.OwnCopies() {
					if own.Stream == stream && own.Leads {
						all = append(all, i)
					}
				}
			}
			if len(all) == 1 {
				return all[0]
			}
			if err := wait(ctx, retryPause); err != nil {
				t.Fatalf("%v lead %s", all, stream)
			}
		}
	}
	for i := range c.servers {
		c.waitCopy(i, StreamName, uint64(last))
		for _, own := range c.servers[i].OwnCopies() {
			if own.Stream == StreamName && own.Last != uint64(last) {
				t.Errorf("s%d says that it has %d of %d", i+1, own.Last, last)
			}
		}
	}
	leader(MetaName)
	first := leader(StreamName)
	c.stop(first)
	if next := leader(StreamName); next == first {
		t.Errorf("s%d leads, which was stopped", next+1)
	}
	leader(MetaName)
}
