package history_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/kernel"
)

// BenchmarkReplay replays a recording in which every third event is from outside
// and the two others are a decision's, of a decider that costs nothing: what
// reading, folding, comparing and looking after the View cost.
func BenchmarkReplay(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		s := &story{last: map[kernel.Key]kernel.Seq{}}
		v, d := kernel.NewView(plain{}), pair("")
		for i := 0; len(s.log) < n; i++ {
			name := fmt.Sprint("o", i%500)
			s.outside(name, fmt.Sprint(i))
			v, _ = v.Fold(s.log[len(s.log)-1])
			records, _ := kernel.Decide(plain{}, &d, v, key(name), noon.Add(time.Duration(i)))
			for _, r := range records {
				r.ID = fmt.Sprint("x-", len(s.log))
				s.add(r)
			}
			v, _ = v.Fold(s.log[len(s.log)-len(records):]...)
		}
		var file bytes.Buffer
		out, err := history.NewRecorder(&file, history.Heading{To: kernel.Seq(len(s.log))})
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range s.log {
			if err := out.Add(r); err != nil {
				b.Fatal(err)
			}
		}
		if err := out.Close(); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				rec, err := history.OpenRecording(bytes.NewReader(file.Bytes()))
				if err != nil {
					b.Fatal(err)
				}
				r, err := (&history.Replayer{Schema: plain{}, Deciders: []kernel.Decider{pair("")}}).Replay(rec.Past())
				if err != nil || r.Failed() {
					b.Fatal(err, r.First)
				}
			}
			b.ReportMetric(float64(len(s.log))*float64(b.N)/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64(file.Len())/float64(len(s.log)), "B/event")
		})
	}
}
