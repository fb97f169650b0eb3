package jetstream

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"sync"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events"
)

// HistName is the stream that holds the log's past: a mirror of EV, so with
// the same Seqs, compressed, and bounded by age and bytes instead of purged.
const HistName = "HIST"

// defaultAge is for how long the past is kept unless somebody says otherwise.
const defaultAge = 7 * 24 * time.Hour

// past is the part of a Log that is about what is no longer in EV.
type past struct {
	api   js.JetStream
	owner bool   // it makes what is not there
	build string // of the program, for manifests

	mu    sync.Mutex // protects the following fields
	hist  js.Stream
	snaps js.ObjectStore
	usage cachedUsage

	horizon *horizon
	seen    *seen // nil if all who write share horizon

	hearing sync.Mutex      // protects the following field
	heard   map[string]said // what other writers said last, as who purges knows it
}

// histConfig is the past's stream as it must be.
func histConfig(keep events.Keep, bytes int64, replicas int) js.StreamConfig {
	compression := js.S2Compression // nothing is compared and set here
	if replicas > 1 {
		// After a kill, or a lost disk, of one of several servers the others
		// too met blocks that they could not unpack any more ("s2: unsupported
		// input"), and then store nothing at all.
		compression = js.NoCompression
	}
	return js.StreamConfig{
		Name:        HistName,
		Description: "Rutter's history: the log, for longer than the log itself keeps it",
		Mirror:      &js.StreamSource{Name: StreamName},
		Retention:   js.LimitsPolicy,
		Storage:     js.FileStorage,
		Discard:     js.DiscardOld,
		MaxMsgs:     -1,
		MaxBytes:    bytes,
		MaxAge:      keep.Age,
		Compression: compression,
		Replicas:    replicas,
		// So that a server that is left alone can be asked for what it has.
		AllowDirect: replicas > 1,
		DenyDelete:  true,
		Metadata:    keepMetadata(keep),
	}
}

// openPast finds the streams of the past; the log's owner makes them.
func (l *Log) openPast(ctx context.Context, api js.JetStream, o Options) error {
	l.past.api, l.past.owner, l.past.build = api, o.Budget > 0, o.Build
	l.past.horizon, l.past.seen = new(horizon), newSeen(l.nc.Opts.User)
	if l.server != nil && l.server.alone() {
		l.past.horizon, l.past.seen = &l.server.horizon, nil
	}
	if !l.past.owner {
		return nil
	}
	if _, err := l.history(ctx); err != nil {
		return err
	}
	if _, err := l.snaps(ctx); err != nil {
		return err
	}
	if l.past.seen != nil {
		if _, err := l.bucket(ctx); err != nil {
			return err
		}
	}
	budget, err := l.shareBudget(ctx, o.Budget)
	if err != nil {
		return err
	}
	return l.tuneBudget(ctx, budget)
}

// history returns the stream of the past.
func (l *Log) history(ctx context.Context) (js.Stream, error) {
	l.past.mu.Lock()
	defer l.past.mu.Unlock()
	if l.past.hist != nil {
		return l.past.hist, nil
	}
	s, err := l.past.api.Stream(ctx, HistName)
	if errors.Is(err, js.ErrStreamNotFound) && l.past.owner {
		c := l.stream.CachedInfo().Config
		s, err = l.past.api.CreateStream(ctx, histConfig(events.Keep{Age: defaultAge}, c.MaxBytes/2, c.Replicas))
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", HistName, err)
	}
	if c := s.CachedInfo().Config; c.Mirror == nil || c.Mirror.Name != StreamName || c.Mirror.FilterSubject != "" {
		return nil, fmt.Errorf("stream %s: it is not a mirror of %s", HistName, StreamName)
	}
	l.past.hist = s
	return s, nil
}

// extent is what there is of the past.
type extent struct {
	log, hist js.StreamState
	oldest    events.Seq // the first event that can be read
	saved     []saved
}

// usable returns the states from which others can be built, oldest first.
func (e extent) usable() []saved {
	for i, s := range e.saved {
		if s.Seq+1 >= e.oldest {
			return e.saved[i:]
		}
	}
	return nil
}

// begin returns the first event of the window.
func (e extent) begin() events.Seq {
	switch u := e.usable(); {
	case e.oldest <= 1:
		return 1
	case len(u) > 0:
		return u[0].Seq + 1
	}
	return events.Seq(e.log.LastSeq) + 1
}

// extent asks what there is of the past.
func (l *Log) extent(ctx context.Context) (extent, error) {
	var e extent
	hist, err := l.history(ctx)
	if err != nil {
		return e, err
	}
	if e.saved, err = l.listSaved(ctx); err != nil {
		return e, err
	}
	ask, cancel := l.question(ctx)
	defer cancel()
	// HIST first: what it lacks is still in EV then, or was when it was asked.
	info, err := hist.Info(ask)
	if err != nil {
		return e, fmt.Errorf("state of stream %s: %w", HistName, err)
	}
	e.hist = info.State
	if info, err = l.stream.Info(ask); err != nil {
		return e, fmt.Errorf("state of stream %s: %w", StreamName, err)
	}
	e.log = info.State
	raise(&l.first, e.log.FirstSeq)
	e.oldest = events.Seq(max(1, e.log.FirstSeq))
	if h := e.hist; h.Msgs > 0 && h.LastSeq+1 >= e.log.FirstSeq {
		e.oldest = min(e.oldest, events.Seq(h.FirstSeq))
	}
	return e, nil
}

// Window is events.History's.
func (l *Log) Window(ctx context.Context) (events.Window, error) {
	w, err := l.window(ctx)
	for before := w.First; errors.Is(err, js.ErrMsgNotFound); before = w.First {
		// History's limits move its beginning, and have done so meanwhile.
		if w, err = l.window(ctx); w.First == before {
			break
		}
	}
	if err != nil {
		return w, fmt.Errorf("the window of history: %w", l.unavailable(ctx, ctx, err))
	}
	return w, nil
}

func (l *Log) window(ctx context.Context) (events.Window, error) {
	e, alone, err := l.loneExtent(ctx)
	switch {
	case alone && err == nil:
		return l.loneWindow(ctx, e)
	case !alone:
		e, err = l.extent(ctx)
	}
	if err != nil {
		return events.Window{}, err
	}
	last, err := l.Last(ctx)
	if err != nil {
		return events.Window{}, err
	}
	w := events.Window{First: e.begin(), Last: last, Bytes: l.diskBytes(HistName, e.hist.Bytes)}
	if w.First > w.Last {
		return w, nil
	}
	stream := l.stream
	if uint64(w.First) < e.log.FirstSeq {
		stream = l.past.hist
	}
	ask, cancel := l.question(ctx)
	defer cancel()
	m, err := stream.GetMsg(ask, uint64(w.First))
	if err != nil {
		return w, fmt.Errorf("its first event: %w", err)
	}
	w.Since = m.Time.UTC()
	return w, nil
}

// Read is events.History's. It reads from the log what the log still holds.
func (l *Log) Read(ctx context.Context, after, to events.Seq) iter.Seq2[events.Record, error] {
	return l.read(ctx, "", after, to)
}

// ReadKey is events.KeyReader's.
func (l *Log) ReadKey(ctx context.Context, k events.Key, after, to events.Seq) iter.Seq2[events.Record, error] {
	return l.read(ctx, k.Subject(), after, to)
}

// read yields the events of a subject, or of all.
func (l *Log) read(ctx context.Context, subject string, after, to events.Seq) iter.Seq2[events.Record, error] {
	return func(yield func(events.Record, error) bool) {
		if _, _, alone := l.lone(); alone {
			if err := l.readLone(ctx, subject, after, to, yield); err != nil {
				yield(events.Record{}, fmt.Errorf("read events %d to %d: %w", after+1, to, err))
			}
			return
		}
		err := l.readable(ctx, after, to)
		for at, ok := after, true; err == nil && ok && at < to; {
			at, ok, err = l.readSome(ctx, subject, at, to, yield)
		}
		if err != nil {
			yield(events.Record{}, fmt.Errorf("read events %d to %d: %w", after+1, to, l.unavailable(ctx, ctx, err)))
		}
	}
}

// readable is ErrGone if not all of the events are there.
func (l *Log) readable(ctx context.Context, after, to events.Seq) error {
	last, err := l.Last(ctx)
	if err != nil {
		return err
	}
	e, err := l.extent(ctx)
	if err != nil {
		return err
	}
	if to > last || after+1 < e.oldest {
		return fmt.Errorf("history holds %d to %d: %w", e.oldest, last, events.ErrGone)
	}
	return nil
}

// readSome reads from EV or, what it no longer holds, from HIST, as far as
// that goes. more is false if nobody wants more.
func (l *Log) readSome(ctx context.Context, subject string, after, to events.Seq, yield func(events.Record, error) bool) (at events.Seq, more bool, err error) {
	if _, err := l.readState(ctx); err != nil {
		return after, false, err
	}
	stream := l.stream
	if first := events.Seq(l.first.Load()); after+1 < first {
		stream, to = l.past.hist, min(to, first-1)
	}
	r := ranger{log: l, stream: stream, subject: subject, at: after, to: to, yield: yield}
	err = r.run(ctx)
	if errors.Is(err, errPurged) && r.at+1 < events.Seq(l.first.Load()) && stream == l.stream {
		err = nil // now HIST has it
	}
	return r.at, !r.stopped, err
}

// errPurged says that a stream does not hold what comes next.
var errPurged = fmt.Errorf("events are missing: %w", events.ErrGone)

// ranger reads a range of one stream.
type ranger struct {
	log     *Log
	stream  js.Stream
	subject string // only this one's; empty: all
	at, to  events.Seq
	yield   func(events.Record, error) bool
	stopped bool
}

// run yields what is after at up to to.
func (r *ranger) run(ctx context.Context) error {
	c, pending, err := r.consumer(ctx)
	if err != nil {
		return err
	}
	defer r.log.forgetConsumer(ctx, r.stream, c)
	ms, err := c.Messages(ahead)
	if err != nil {
		return fmt.Errorf("consumer: %w", err)
	}
	defer ms.Stop()
	defer context.AfterFunc(ctx, ms.Stop)()
	defer r.log.whenLost(ms.Stop)()
	for r.at < r.to {
		if pending == 0 { // of the subject there is nothing more
			r.at = r.to
			return nil
		}
		m, err := ms.Next(js.NextMaxWait(quiet))
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return fmt.Errorf("next event after %d: %w", r.at, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("%w: %w", errUnreadable, err)
		}
		if r.subject != "" {
			if pending = meta.NumPending; events.Seq(meta.Sequence.Stream) > r.to {
				pending = 0
				continue
			}
		} else if next := events.Seq(meta.Sequence.Stream); next != r.at+1 {
			if _, err := r.log.readState(ctx); err != nil {
				return err
			}
			return fmt.Errorf("event %d follows %d: %w", next, r.at, errPurged)
		}
		rec, err := record(m)
		if err != nil {
			return err
		}
		if r.stopped = !r.yield(rec, nil); r.stopped {
			return nil
		}
		r.at = rec.Seq
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// consumer makes one, and tells how many events of a subject it will give; of
// all subjects together that does not matter.
func (r *ranger) consumer(ctx context.Context) (c js.Consumer, pending uint64, err error) {
	ctx, cancel := r.log.question(ctx)
	defer cancel()
	o := js.OrderedConsumerConfig{
		DeliverPolicy: js.DeliverByStartSequencePolicy, OptStartSeq: uint64(r.at) + 1, InactiveThreshold: inactive,
	}
	if r.subject != "" {
		o.FilterSubjects = []string{r.subject}
	}
	if c, err = r.stream.OrderedConsumer(ctx, o); err != nil {
		return nil, 0, fmt.Errorf("consumer: %w", err)
	}
	info, err := c.Info(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("consumer: %w", err)
	}
	if r.subject == "" {
		return c, 1, nil
	}
	return c, info.NumPending, nil
}

// SeqAt is events.History's. The times are the server's, at which it stored
// the events; they only grow.
func (l *Log) SeqAt(ctx context.Context, t time.Time) (events.Seq, error) {
	seq, err := l.seqAt(ctx, t)
	if err != nil {
		return 0, fmt.Errorf("the event at %s: %w", t.UTC().Format(time.RFC3339), l.unavailable(ctx, ctx, err))
	}
	return seq, nil
}

func (l *Log) seqAt(ctx context.Context, t time.Time) (events.Seq, error) {
	e, alone, err := l.loneExtent(ctx)
	switch {
	case alone && err == nil:
		return l.loneSeqAt(ctx, e, t)
	case !alone:
		e, err = l.extent(ctx)
	}
	if err != nil {
		return 0, err
	}
	for {
		if !e.log.LastTime.After(t) {
			return l.Last(ctx)
		}
		stream := l.stream
		if e.needsHist(t) {
			stream = l.past.hist
		}
		next, failed := l.firstAfter(ctx, stream, t)
		// The limits of history may have moved its beginning past what was found.
		before := e
		if e, err = l.extent(ctx); err != nil {
			return 0, err
		}
		if e.needsHist(t) != before.needsHist(t) {
			continue
		}
		if failed != nil {
			return 0, failed
		}
		return e.beforeFirst(next)
	}
}

// needsHist tells whether only HIST can have the first event after t. It may
// have forgotten what was not purged from EV.
func (e extent) needsHist(t time.Time) bool {
	return e.hist.Msgs > 0 && e.hist.FirstSeq < e.log.FirstSeq && e.hist.LastTime.After(t) && e.log.FirstTime.After(t)
}

// beforeFirst returns the event before the first one that was stored after a
// time, if the past holds it.
func (e extent) beforeFirst(next events.Seq) (events.Seq, error) {
	if next < e.begin() || next == e.begin() && next > 1 {
		return 0, fmt.Errorf("history begins at event %d: %w", e.begin(), events.ErrGone)
	}
	return next - 1, nil
}

// firstAfter returns the first event of a stream that was stored after t. There
// is one.
func (l *Log) firstAfter(ctx context.Context, stream js.Stream, t time.Time) (events.Seq, error) {
	ctx, cancel := l.question(ctx)
	defer cancel()
	start := t.Add(1)
	c, err := stream.OrderedConsumer(ctx, js.OrderedConsumerConfig{
		DeliverPolicy: js.DeliverByStartTimePolicy, OptStartTime: &start, InactiveThreshold: inactive,
	})
	if err != nil {
		return 0, fmt.Errorf("consumer: %w", err)
	}
	m, err := c.Next(js.FetchMaxWait(apiTimeout))
	l.forgetConsumer(ctx, stream, c)
	if err != nil {
		return 0, fmt.Errorf("the first event after a time: %w", err)
	}
	meta, err := m.Metadata()
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return events.Seq(meta.Sequence.Stream), nil
}

// begin yields, to who follows a log whose beginning was purged, the newest
// state that was kept and verifies, a bookmark, and what happened until there
// is more in EV. Nothing is yielded of a state that does not verify.
func (f *follower) begin(ctx context.Context) error {
	l := f.log
	if _, err := l.readState(ctx); err != nil || l.first.Load() <= 1 {
		return err
	}
	last, err := l.Last(ctx)
	if err != nil {
		return err
	}
	at, state, err := l.Snapshot(ctx, last)
	if err != nil {
		return err
	}
	for r, err := range state {
		if err != nil {
			return fmt.Errorf("the state at %d: %w", at, errors.Join(err, errUnreadable))
		}
		if f.stopped = !f.yield(r, nil); f.stopped {
			return nil
		}
	}
	if at > 0 {
		if f.stopped = !f.yield(events.Record{Seq: at}, nil); f.stopped {
			return nil
		}
	}
	f.at = at
	if f.at+1 >= events.Seq(l.first.Load()) {
		return nil
	}
	for r, err := range l.Read(ctx, at, events.Seq(l.first.Load())-1) {
		if err != nil {
			return err
		}
		if f.stopped = !f.yield(r, nil); f.stopped {
			return nil
		}
		f.at = r.Seq
	}
	return nil
}

// keepMetadata is where a stream's configuration says what is kept.
func keepMetadata(k events.Keep) map[string]string {
	return map[string]string{metaKeepBytes: fmt.Sprint(k.Bytes)}
}

// withKeep returns a configuration's metadata with what is kept replaced.
func withKeep(m map[string]string, k events.Keep) map[string]string {
	out := maps.Clone(m)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, keepMetadata(k))
	return out
}

// syncStore makes durable what the server has written besides the log's events.
func (l *Log) syncStore() error {
	if l.server == nil {
		return nil // a server elsewhere syncs what it acknowledges
	}
	return l.server.SyncStore()
}
