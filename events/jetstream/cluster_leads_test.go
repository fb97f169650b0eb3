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
	for i := range c.servers {
		c.waitCopy(i, StreamName, uint64(last))
		for _, own := range c.servers[i].OwnCopies() {
			if own.Stream == StreamName && own.Last != uint64(last) {
				t.Errorf("s%d says that it has %d of %d", i+1, own.Last, last)
			}
		}
	}
	c.leader(MetaName)
	first := c.leader(StreamName)
	c.stop(first)
	if next := c.leader(StreamName); next == first {
		t.Errorf("s%d leads, which was stopped", next+1)
	}
	c.leader(MetaName)
}
