package memory_test

import (
	"errors"
	"testing"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
	"github.com/rutterhq/rutter/events/memory"
)

func TestLog(t *testing.T) {
	t.Parallel()
	logtest.Run(t, func(*testing.T) logtest.Subject {
		l := memory.New()
		return logtest.Subject{Log: l, Purge: l.Purge}
	})
}

func TestAfter(t *testing.T) {
	t.Parallel()
	l := memory.New()
	body := []byte(`{}`)
	r := logtest.Record("a", 0)
	r.Body = body
	for i := range 3 {
		r.Expect = events.Seq(i)
		if _, err := l.Append(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	body[0] = 'x' // the log has its own copy
	got, err := l.After(1)
	if err != nil || len(got) != 2 || got[0].Seq != 2 || string(got[0].Body) != `{}` {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := l.After(3); err != nil || len(got) != 0 {
		t.Errorf("at the end: %+v, %v", got, err)
	}
	if _, err := l.After(4); !errors.Is(err, events.ErrGone) {
		t.Errorf("after the end: %v", err)
	}
}
