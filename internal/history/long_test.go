package history_test

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/kernel"
)

// long makes TestLongRecording's recording longer: 1,000,000 shows what memory
// grows with.
var long = flag.Int("long", 6_000, "events of TestLongRecording")

// TestLongRecording replays a recording that is never in memory as a whole:
// neither when it is written nor when it is read.
func TestLongRecording(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/long.rec")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	events := kernel.Seq(*long / 3 * 3)
	out, err := history.NewRecorder(file, history.Heading{To: events})
	if err != nil {
		t.Fatal(err)
	}
	s := &story{t: t, last: map[kernel.Key]kernel.Seq{}}
	v, d := kernel.NewView(plain{}), pair("")
	add := func(r kernel.Record) {
		r.Seq, r.Expect = v.Seq()+1, s.last[r.Key]
		s.last[r.Key] = r.Seq
		if err := out.Add(r); err != nil {
			t.Fatal(err)
		}
		v, _ = v.Fold(r)
	}
	for v.Seq() < events {
		name := fmt.Sprint("o", v.Seq()%1500)
		s.log = s.log[:0]
		s.outside(name, fmt.Sprint(v.Seq()))
		add(s.log[0])
		records, _ := kernel.Decide(plain{}, &d, v, key(name), noon.Add(time.Duration(v.Seq())))
		for _, r := range records {
			r.ID = fmt.Sprint("x-", v.Seq())
			add(r)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	rec, err := history.OpenRecording(file)
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	r, err := (&history.Replayer{Schema: plain{}, Deciders: []kernel.Decider{pair("")}}).Replay(rec.Past())
	if err != nil || r.Failed() || r.Events != int(events) || r.Changes != int(events)/3*2 {
		t.Fatalf("%v: %+v", err, r)
	}
	status, _ := os.ReadFile("/proc/self/status") // for people: not everywhere
	t.Logf("%d events, %d decisions in %s\n%s", r.Events, r.Decisions, time.Since(begun).Round(time.Millisecond), status)
}
