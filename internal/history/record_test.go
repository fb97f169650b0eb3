package history_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/memory"
	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/kernel"
)

// busy is a story with a decision, a lost race, a delete and a decision after it.
func busy(t *testing.T) *story {
	s := newStory(t)
	s.outside("a", "1")
	s.decide("x", "a", noon, 0, 1)
	s.outside("gone", "1")
	s.add(kernel.Record{Key: key("gone"), Delete: true, Body: []byte(`{}`), Envelope: events.Envelope{ID: "u-d", Source: "user:u"}})
	s.outside("a", "2")
	s.decide("x", "a", noon.Add(time.Second), 0, 1)
	return s
}

// appended puts a story into a log that keeps a past.
func (s *story) appended() *memory.Log {
	s.t.Helper()
	log := memory.New()
	for _, r := range s.log {
		if _, err := log.Append(s.t.Context(), r); err != nil {
			s.t.Fatal(err)
		}
	}
	return log
}

// recording writes a past to a file and opens it.
func recording(t *testing.T, past history.Past, to kernel.Seq) *history.Recording {
	t.Helper()
	var b bytes.Buffer
	out, err := history.NewRecorder(&b, history.Heading{Cluster: "c", Build: "b", From: past.From, To: to})
	if err != nil {
		t.Fatal(err)
	}
	for r, err := range past.Records {
		if err == nil {
			err = out.Add(r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := history.OpenRecording(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A part of a log replays as the whole does, from wherever it begins, out of a
// file, and when the log's own beginning is gone.
func TestEveryPartReplays(t *testing.T) {
	s := busy(t)
	last := kernel.Seq(len(s.log))
	r := &history.Replayer{Schema: plain{}, Deciders: []kernel.Decider{pair("")}}
	for from := range last + 1 {
		for to := max(from, 1); to <= last; to++ {
			log := s.appended()
			past, err := history.Span(t.Context(), log, from, to)
			if err != nil {
				t.Fatalf("%d to %d: %v", from, to, err)
			}
			report, err := r.Replay(recording(t, past, to).Past())
			if err != nil || report.Failed() {
				t.Fatalf("%d to %d: %v\n%s", from, to, err, report.First)
			}
			decided := func(seen kernel.Seq) int { // how many of its two events are in the part, 0 if it cannot be made again
				if seen < from {
					return 0
				}
				return max(0, min(int(to)-int(seen), 2))
			}
			earlier := 0
			for _, rec := range s.log[from:to] {
				if rec.Decision != nil && rec.Seen < from {
					earlier++
				}
			}
			if want := decided(1) + decided(6); report.Changes != want || report.Earlier != earlier || report.Events != int(to-from) {
				t.Errorf("%d to %d: %d changes, want %d; %d earlier, want %d; %d events", from, to, report.Changes, want, report.Earlier, earlier, report.Events)
			}
		}
	}
}

func TestAPurgedLogIsRecorded(t *testing.T) {
	s := busy(t)
	s.add(events.HorizonRecord(6, 0, 0, "controllers", noon)) // gone's tombstone is forgotten
	s.outside("a", "3")
	s.decide("x", "a", noon.Add(time.Minute), 0, 1)
	log := memory.New()
	for _, r := range s.log {
		if _, err := log.Append(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if r.Seq == 7 {
			log.SaveNow()
		}
	}
	log.Purge(7)
	log.Drop(7)
	if _, err := history.Span(t.Context(), log, 5, 0); !errors.Is(err, events.ErrGone) {
		t.Errorf("before the window: %v", err)
	}
	past, err := history.Span(t.Context(), log, 9, 0)
	if err != nil {
		t.Fatal(err)
	}
	for r := range past.Records {
		if r.Seq <= 9 && r.Key == key("gone") {
			t.Error("a tombstone below the horizon is recorded")
		}
	}
	rec := recording(t, past, kernel.Seq(len(s.log)))
	report, err := (&history.Replayer{Schema: plain{}, Deciders: []kernel.Decider{pair("")}}).Replay(rec.Past())
	if err != nil || report.Failed() || report.Decisions != 1 || report.Changes != 2 {
		t.Errorf("%v: %+v", err, report)
	}
}

// A recording is compressed against all that stood before, not only lately.
func TestRecordingsAreSmall(t *testing.T) {
	s := newStory(t)
	noise := strings.Repeat("0123456789abcdef", 64)
	for i := range 2000 {
		s.outside(fmt.Sprint("big", i%100), fmt.Sprint(noise, i))
	}
	var b bytes.Buffer
	out, err := history.NewRecorder(&b, history.Heading{To: 2000})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range s.log {
		if err := out.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	if per := b.Len() / 2000; per > 100 {
		t.Errorf("%d bytes per event", per)
	}
}

func TestReplayTellsWhy(t *testing.T) {
	s := newStory(t)
	s.outside("a", "1")
	v, _ := kernel.NewView(plain{}).Fold(s.log...)
	s.outside("a-right", "mine") // between decision and append
	d := pair("")
	wanted, _ := kernel.Decide(plain{}, &d, v, key("a"), noon)
	left := wanted[0]
	left.ID = "x-1"
	s.add(left)
	s.outside("b", "1")
	s.decide("x", "b", noon.Add(time.Second), 0) // and x ends
	r := s.replay(pair(""))
	var why []string
	for w, n := range r.Why {
		why = append(why, fmt.Sprint(n, " ", w))
	}
	slices.Sort(why)
	want := []string{"1 another event took its place", "1 its writer wrote nothing afterwards: it ended, or the recording does"}
	if r.Failed() || r.Explained != 2 || !slices.Equal(why, want) {
		t.Errorf("%+v: %q", r, why)
	}
}

// A decider of another build may be gone, or panic on the old world.
func TestReplayWithAnotherBuild(t *testing.T) {
	s := busy(t)
	broken := pair("")
	broken.Decide = func(*kernel.View, kernel.Key, time.Time) kernel.Decision { panic("cannot do that") }
	gone := pair("")
	gone.Name = "other"
	for want, ds := range map[string][]kernel.Decider{"it panicked: cannot do that": {broken}, "this build has no such decider": {gone, pair("")}} {
		if len(ds) == 2 {
			ds[1].Name = "another"
		}
		r := s.replay(ds...)
		if r.Unexplained != 4 || !strings.Contains(r.First, want) || len(r.Differences) != 4 {
			t.Errorf("%d unexplained of %d, want %q in\n%s", r.Unexplained, r.Changes, want, r.First)
		}
	}
}

// An object of the View that a decider writes to is found even when nothing
// that it decides differs, and when the object is soon replaced.
func TestReplayFindsAModifiedView(t *testing.T) {
	s := busy(t)
	sly := pair("")
	sly.Decide = func(v *kernel.View, k kernel.Key, now time.Time) kernel.Decision {
		d := pair("").Decide(v, k, now)
		if now.After(noon) {
			if o, ok := v.Get(key("a-left")); ok {
				o.(*corev1.ConfigMap).Data["sly"] = "yes"
			}
		}
		return d
	}
	r := s.replay(sly)
	if r.Unexplained != 0 || r.Modified != 1 || !r.Failed() || len(r.Differences) != 1 {
		t.Fatalf("%+v", r)
	}
	if d := r.Differences[0]; d.Seen != 6 || d.Object != "configmaps/d/a-left" || !strings.Contains(r.First, `+ data.sly: "yes"`) || !strings.Contains(r.First, "pair on configmaps/d/a, seen 6") {
		t.Errorf("the first:\n%s", r.First)
	}
}

// The digest is of what is decided, not of how it is read.
func TestDigest(t *testing.T) {
	s := busy(t)
	one, two, other := s.replay(pair("")), s.replay(pair("")), s.replay(pair("!"))
	if one.Digest != two.Digest || one.Digest == other.Digest {
		t.Errorf("%s %s %s", one.Digest, two.Digest, other.Digest)
	}
}

// A reading that fails is an error, not a short report.
func TestReplayOfWhatCannotBeRead(t *testing.T) {
	s := busy(t)
	ctx, cancel := context.WithCancel(t.Context())
	past, err := history.Span(ctx, s.appended(), 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := (&history.Replayer{Schema: plain{}, Deciders: []kernel.Decider{pair("")}}).Replay(past); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
