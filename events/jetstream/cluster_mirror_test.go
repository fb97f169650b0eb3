package jetstream

import (
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// TestHistoryFollowsAgain stops the server that leads the log while another one
// leads history: which does not wait until it notices that nothing comes any
// more, but has the third lead history, and that has what is written then.
func TestHistoryFollowsAgain(t *testing.T) {
	t.Parallel()
	ctx, c := logtest.Context(t), newTrio(t)
	c.startAll()
	var logs [3]*Log
	for i := range logs {
		logs[i] = c.open(i)
	}
	a := age(t, logs[0])
	log, hist := c.leader(StreamName), c.leader(HistName)
	for log == hist {
		if err := c.servers[hist].server.JetStreamStepdownStream(server.DEFAULT_GLOBAL_ACCOUNT, HistName); err != nil {
			t.Fatal(err)
		}
		log, hist = c.leader(StreamName), c.leader(HistName)
	}
	last := events.Seq(0)
	write := func(at int) {
		t.Helper()
		for before := last; last == before; {
			r := logtest.Record("again", last)
			r.Seen = max(last, a.seen)
			if seq, err := logs[at].Append(ctx, r); err == nil {
				last = seq
			} else if ctx.Err() != nil {
				t.Fatal(err)
			}
		}
	}
	write(hist)
	c.waitCopy(hist, HistName, uint64(last))
	c.stop(log)
	write(hist)
	third := 3 - log - hist
	c.waitCopy(third, HistName, uint64(last))
	if now := c.leader(HistName); now != third {
		t.Errorf("s%d leads history as before, though nothing came to it", now+1)
	}
}

// TestMirrorStands looks at histories, once a second.
func TestMirrorStands(t *testing.T) {
	t.Parallel()
	type look struct {
		leads     bool
		log, hist uint64
	}
	follows, lacks, behind := look{true, 9, 9}, look{true, 9, 7}, look{true, 9, 8}
	other := look{false, 9, 7}
	for name, c := range map[string]struct {
		looks []look
		want  []int // in which looks it stands
	}{
		"it follows":          {looks: []look{follows, follows, follows, follows, follows, follows}},
		"it comes nearer":     {looks: []look{lacks, lacks, lacks, behind, behind, behind, follows}},
		"nothing comes":       {looks: []look{follows, lacks, lacks, lacks, lacks, lacks}, want: []int{4}},
		"it has all in time":  {looks: []look{lacks, lacks, lacks, follows, lacks, lacks, lacks}},
		"another one leads":   {looks: []look{other, other, other, other, other, other}},
		"it began to lead":    {looks: []look{other, other, other, other, lacks, lacks, lacks, lacks}, want: []int{7}},
		"it gave up just now": {looks: []look{lacks, lacks, lacks, lacks, lacks, lacks, lacks, lacks, lacks}, want: []int{3, 8}},
	} {
		var m mirror
		var got []int
		begun := time.Now()
		for i, l := range c.looks {
			if m.stands(begun.Add(time.Duration(i)*time.Second), l.leads, l.log, l.hist) {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: in %v it stands, want %v", name, got, c.want)
		}
	}
}
