package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// call is one call to a log by one client, and what it was told.
type call struct {
	client     int
	begun, end int64 // on the monotonic clock, in nanoseconds
	record     events.Record
	seq        events.Seq // of an append: the answer; of a read: what the object's last event was
	err        error
	read       bool
}

// history is what clients did and were told.
type history struct {
	began time.Time

	mu    sync.Mutex // protects the following field
	calls []call
}

func newHistory() *history { return &history{began: time.Now()} }

func (h *history) now() int64 { return int64(time.Since(h.began)) }

func (h *history) add(c call) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, c)
}

// append appends and writes down how it went.
func (h *history) append(ctx context.Context, client int, l events.Log, r events.Record) (events.Seq, error) {
	c := call{client: client, record: r, begun: h.now()}
	c.seq, c.err = l.Append(ctx, r)
	c.end = h.now()
	h.add(c)
	return c.seq, c.err
}

// reader follows a log and knows where each object is.
type reader struct {
	log events.Log

	mu      sync.Mutex // protects the following fields
	got     []events.Record
	last    map[events.Key]events.Record
	changed chan struct{} // closed and replaced with every event
	err     error         // why it ended
}

func newReader(l events.Log) *reader {
	return &reader{log: l, last: map[events.Key]events.Record{}, changed: make(chan struct{})}
}

// run follows until ctx ends.
func (r *reader) run(ctx context.Context) {
	for e, err := range r.log.Follow(ctx, 0) {
		r.mu.Lock()
		if r.err = err; err == nil {
			r.got, r.last[e.Key] = append(r.got, e), e
		}
		close(r.changed)
		r.changed = make(chan struct{})
		r.mu.Unlock()
	}
}

// at waits for a Seq.
func (r *reader) at(ctx context.Context, seq events.Seq) error {
	for {
		r.mu.Lock()
		at, changed, err := events.Seq(len(r.got)), r.changed, r.err
		r.mu.Unlock()
		if at >= seq || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: it has %d of %d", ctx.Err(), at, seq)
		}
	}
}

// object is the last event of an object, as far as was read.
func (r *reader) object(k events.Key) events.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last[k]
}

func (r *reader) all() []events.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// read reads an object as the apiserver does: it asks for the log's end, and
// waits until the reader is there.
func (h *history) read(ctx context.Context, client int, r *reader, k events.Key) (events.Record, error) {
	c := call{client: client, record: events.Record{Key: k}, read: true, begun: h.now()}
	end, err := r.log.Last(ctx)
	if err == nil {
		err = r.at(ctx, end)
	}
	if err != nil {
		return events.Record{}, err
	}
	e := r.object(k)
	c.seq, c.end = e.Seq, h.now()
	h.add(c)
	return e, nil
}

// unknown tells whether an error leaves open what became of a write.
func unknown(err error) bool {
	return err != nil && !errors.Is(err, events.ErrConflict) && !errors.Is(err, events.ErrFull) &&
		!errors.Is(err, events.ErrTooLarge)
}

// check compares what clients were told with what the log holds.
func (h *history) check(t testing.TB, log []events.Record) {
	t.Helper()
	logtest.CheckOrder(t, log, 0)
	where := map[string]events.Seq{}
	last := map[events.Key]events.Seq{}
	for _, e := range log {
		if before, twice := where[e.ID]; twice {
			t.Errorf("%s was written twice, as %d and %d", e.ID, before, e.Seq)
		}
		where[e.ID] = e.Seq
		if e.Expect != last[e.Key] {
			t.Errorf("event %d of %s expected %d, but the one before it is %d", e.Seq, e.Key, e.Expect, last[e.Key])
		}
		last[e.Key] = e.Seq
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	mine := 0
	for i := range h.calls {
		c := &h.calls[i]
		if c.read {
			continue
		}
		is := where[c.record.ID]
		if is != 0 {
			mine++
		}
		switch {
		case c.err == nil && is != c.seq:
			t.Errorf("%s was acknowledged as %d, the log has it at %d", c.record.ID, c.seq, is)
		case c.err != nil && !unknown(c.err) && is != 0:
			t.Errorf("%s was refused (%v), the log has it at %d", c.record.ID, c.err, is)
		}
	}
	if mine != len(log) {
		t.Errorf("the log has %d events, %d of them were written", len(log), mine)
	}
	h.checkRegisters(t, where)
}

// checkRegisters searches for an order of all calls that explains each
// object's answers.
func (h *history) checkRegisters(t testing.TB, where map[string]events.Seq) {
	t.Helper()
	var ops []porcupine.Operation
	for _, c := range h.calls {
		op := porcupine.Operation{ClientId: c.client, Input: c, Output: c.seq, Call: c.begun, Return: c.end}
		switch {
		case c.read || c.err == nil:
		case errors.Is(c.err, events.ErrConflict):
			op.Output = events.Seq(0)
		case where[c.record.ID] == 0:
			continue // it never happened: any order explains it
		default:
			// It happened at some time, maybe long after the call was given up.
			op.Output, op.Return = where[c.record.ID], int64(1)<<62
		}
		ops = append(ops, op)
	}
	if res := porcupine.CheckOperationsTimeout(register, ops, time.Minute); res != porcupine.Ok {
		t.Errorf("%d calls are not linearizable: %s", len(ops), res)
	}
}

// register is one object: a number that is the Seq of its last event, changed
// by who expects the number that it is.
var register = porcupine.Model{
	Partition: func(ops []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[events.Key][]porcupine.Operation{}
		for _, op := range ops {
			k := op.Input.(call).record.Key
			byKey[k] = append(byKey[k], op)
		}
		var out [][]porcupine.Operation
		for _, one := range byKey {
			out = append(out, one)
		}
		return out
	},
	Init: func() any { return events.Seq(0) },
	Step: func(state, input, output any) (bool, any) {
		c, is, got := input.(call), state.(events.Seq), output.(events.Seq)
		switch {
		case c.read:
			return got == is, is
		case got == 0: // a conflict
			return c.record.Expect != is, is
		}
		return c.record.Expect == is && got > is, got
	},
	DescribeOperation: func(input, output any) string {
		c := input.(call)
		if c.read {
			return fmt.Sprintf("read → %d", output)
		}
		return fmt.Sprintf("%s expecting %d → %d, %v", c.record.ID, c.record.Expect, output, c.err)
	},
}
