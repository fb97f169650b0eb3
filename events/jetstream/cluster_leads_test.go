package jetstream

import (
	"errors"
	"fmt"
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
	group, _ := keptBy(l.stream.CachedInfo())
	for i, s := range c.servers {
		if v := s.view(group); v.leader != fmt.Sprintf("s%d", first+1) || v.self != fmt.Sprintf("s%d", i+1) || v.term == 0 {
			t.Errorf("s%d leads, and it is seen so: %+v", first+1, v)
		}
	}
	c.stop(first)
	if next := c.leader(StreamName); next == first {
		t.Errorf("s%d leads, which was stopped", next+1)
	}
	c.leader(MetaName)
}

// TestLed believes an answer as the leader's only if no other server can have
// led when it was given.
func TestLed(t *testing.T) {
	t.Parallel()
	follows := view{group: "g", term: 3, self: "s1", leader: "s2", sent: 10, agreed: 9}
	leads := view{group: "g", term: 3, self: "s1", leader: "s1", sent: 10, agreed: 9}
	with := func(v view, change func(*view)) view {
		change(&v)
		return v
	}
	for name, c := range map[string]struct {
		before, after view
		answered      string
		want          bool
	}{
		"who it follows":                        {follows, follows, "s2", true},
		"who follows it":                        {follows, follows, "s3", false},
		"itself, which follows":                 {follows, follows, "s1", false},
		"who it no longer follows":              {follows, with(follows, func(v *view) { v.leader, v.term = "", 4 }), "s2", false},
		"who it follows since":                  {with(follows, func(v *view) { v.leader = "" }), follows, "s2", false},
		"who it follows again":                  {follows, with(follows, func(v *view) { v.term = 5 }), "s2", false},
		"nobody, while nobody leads":            {with(follows, func(v *view) { v.leader = "" }), with(follows, func(v *view) { v.leader = "" }), "", false},
		"of another group":                      {with(follows, func(v *view) { v.group = "h" }), follows, "s2", false},
		"itself, without consent":               {leads, leads, "s1", false},
		"itself, with consent to what was sent": {leads, with(leads, func(v *view) { v.sent, v.agreed = 11, 10 }), "s1", false},
		"itself, with consent since":            {leads, with(leads, func(v *view) { v.sent, v.agreed = 12, 11 }), "s1", true},
	} {
		if err := led(c.before, c.after, c.answered); (err == nil) != c.want || err != nil && !errors.Is(err, errStale) {
			t.Errorf("it answered %s: %v", name, err)
		}
	}
}
