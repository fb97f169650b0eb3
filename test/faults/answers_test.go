package faults

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rutterhq/rutter/events/logtest"
)

// TestAnswers does one or a few things to one write and its answers, and says
// what the writer must be told then.
func TestAnswers(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir())
	h := newHistory()
	t.Run("all", func(t *testing.T) {
		for name, c := range answers {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c.run(t, s, h, name)
			})
		}
	})
	h.check(t, whole(logtest.Context(t), t, s.open(t, s.URL())))
}

func (c answer) run(t *testing.T, s *server, h *history, name string) {
	ctx := logtest.Context(t)
	r := newRelay(t, s.URL())
	l := s.open(t, r.url())
	at, err := h.append(ctx, 0, l, logtest.Record(name, 0))
	if err != nil {
		t.Fatal(err)
	}
	plan, left := script(c.steps...)
	r.follow(plan)
	if c.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.limit)
		defer cancel()
	}
	if _, err := h.append(ctx, 0, l, logtest.Record(name, at)); !errors.Is(err, c.want) {
		t.Errorf("the writer was told %v, want %v", err, c.want)
	}
	if n := left(); n > 0 {
		t.Errorf("%d of %d faults never happened", n, len(c.steps))
	}
}

// answer is what happens to one write, and what its writer must be told.
type answer struct {
	steps []step
	limit time.Duration // of the call; 0: as long as it takes
	want  error
}

var answers = map[string]answer{
	"AnswerLost":               {steps: []step{{ack, drop}}},
	"AnswerLate":               {steps: []step{{ack, late}}},
	"AnswerTwice":              {steps: []step{{ack, double}}},
	"CutBeforeTheAnswer":       {steps: []step{{ack, cutBefore}}},
	"CutWithinTheAnswer":       {steps: []step{{ack, cutWithin}}},
	"CutAfterTheAnswer":        {steps: []step{{ack, cutAfter}}},
	"WriteLost":                {steps: []step{{write, drop}}},
	"WritesLost":               {steps: []step{{write, drop}, {write, drop}}},
	"CutBeforeTheWrite":        {steps: []step{{write, cutBefore}}},
	"CutWithinTheWrite":        {steps: []step{{write, cutWithin}}},
	"CutAfterTheWrite":         {steps: []step{{write, cutAfter}}},
	"WriteLateOverAnother":     {steps: []step{{write, stray}}},
	"WriteTwice":               {steps: []step{{write, double}}},
	"WriteTwiceAnswerLost":     {steps: []step{{write, double}, {ack, drop}}},
	"WriteTwiceAnswersSwapped": {steps: []step{{write, double}, {ack, late}}},
	"WriteTwiceBothLost":       {steps: []step{{write, double}, {ack, drop}, {ack, drop}}},
	"QuestionLost":             {steps: []step{{ack, drop}, {question, drop}}},
	"GivenUp":                  {steps: []step{{ack, drop}}, limit: ackWait / 2, want: context.DeadlineExceeded},
	"GivenUpUnwritten":         {steps: []step{{write, drop}}, limit: ackWait / 2, want: context.DeadlineExceeded},
}
