package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	js "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/rutterhq/rutter/events"
)

// SeenName is the key-value bucket in which every process that writes says
// which horizon it knows. What was purged can no longer be compared with; so
// nothing is purged before all who write know that they must have read it.
const SeenName = "SEEN"

const (
	// seenAge is after how long who purges forgets a writer that says nothing, by
	// its own monotonic clock: the server would forget by its wall clock, all at
	// once when that is set forward.
	seenAge = 2 * time.Minute
	// seenEvery is how often a writer says what it knows.
	seenEvery = 10 * time.Second
	// seenWait bounds how long who reads waits until that is said.
	seenWait = time.Second
	// seenFresh is for how long a writer may rely on what it said.
	seenFresh = seenAge / 4
	// forgetWait bounds how long a purge waits for writers to know of it; then
	// it is left to the next one.
	forgetWait = 5 * time.Second
	// forgetPoll is how often it looks.
	forgetPoll = 50 * time.Millisecond
)

// horizon is what a process knows of the horizon. All Logs on a server that
// has no other clients share one.
type horizon struct {
	mu     sync.Mutex // protects the following fields
	floor  events.Seq // tombstones below are forgotten, events below may be purged
	since  events.Seq // the event that says so
	serial uint64
	flight map[uint64]events.Seq // since, as it was when an append was begun
}

// learn notes an event of the horizon.
func (h *horizon) learn(floor, since events.Seq) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if since > h.since {
		h.floor, h.since = max(h.floor, floor), since
	}
}

func (h *horizon) get() (floor, since events.Seq) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.floor, h.since
}

// begin notes that a write is on its way, which knows what is known now.
func (h *horizon) begin() (done func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.flight == nil {
		h.flight = map[uint64]events.Seq{}
	}
	h.serial++
	serial := h.serial
	h.flight[serial] = h.since
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.flight, serial)
	}
}

// known returns the event of the horizon that all writes on their way know.
func (h *horizon) known() events.Seq {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := h.since
	for _, s := range h.flight {
		known = min(known, s)
	}
	return known
}

// passed notes what a follower has read, before anybody is shown it.
func (l *Log) passed(ctx context.Context, r events.Record) {
	floor, ok := events.HorizonOf(r)
	if ok {
		l.past.horizon.learn(floor, r.Seq)
	}
	if l.past.seen == nil || !l.past.seen.due(ok, l.past.horizon.known()) {
		return
	}
	// Events must not wait for a server that does not answer.
	ctx, cancel := context.WithTimeout(ctx, seenWait)
	defer cancel()
	_ = l.announce(ctx) // who relies on it looks at when it last succeeded
}

// seen is what a process has said that it knows.
type seen struct {
	key string

	mu   sync.Mutex // protects the following fields
	kv   js.KeyValue
	said events.Seq // what it last said
	at   time.Time  // when it last did
	to   time.Time  // when it last tried to, while it read
}

func (s *seen) when() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at
}

// due tells whether it is to be said again: every now and then, and at once if
// more is known than was said, for a purge waits for that. An event must not
// wait with every other one for a server that does not answer: only that of a
// horizon tries again soon.
func (s *seen) due(isHorizon bool, known events.Seq) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	answered := !s.at.Before(s.to)
	if !(known > s.said && (isHorizon || answered)) && (time.Since(s.at) < seenEvery || time.Since(s.to) < seenEvery) {
		return false
	}
	s.to = time.Now()
	return true
}

// bucket returns where writers say what they know, made if need be and wanted.
// The server forgets nothing of it.
func (l *Log) bucket(ctx context.Context) (js.KeyValue, error) {
	s := l.past.seen
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kv != nil {
		return s.kv, nil
	}
	var kv js.KeyValue
	var err error
	if l.past.owner {
		kv, err = l.past.api.CreateOrUpdateKeyValue(ctx, js.KeyValueConfig{
			Bucket: SeenName, Description: "Rutter's writers: which horizon each of them knows",
			Storage: js.FileStorage, Replicas: l.stream.CachedInfo().Config.Replicas,
		})
	} else {
		kv, err = l.past.api.KeyValue(ctx, SeenName)
	}
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", SeenName, err)
	}
	s.kv = kv
	return kv, nil
}

// announce says what all writes of this process know.
func (l *Log) announce(ctx context.Context) error {
	ctx, cancel := l.question(ctx)
	defer cancel()
	kv, err := l.bucket(ctx)
	if err != nil {
		return err
	}
	known, now := l.past.horizon.known(), time.Now()
	if _, err := kv.PutString(ctx, l.past.seen.key, strconv.FormatUint(uint64(known), 10)); err != nil {
		return fmt.Errorf("say what is known: %w", err)
	}
	l.past.seen.mu.Lock()
	defer l.past.seen.mu.Unlock()
	l.past.seen.said, l.past.seen.at = max(l.past.seen.said, known), now
	return nil
}

// wrote says what is known when a write of this process has ended that held
// that up: no event may come any more that would have a follower say it. No
// answer is awaited; if it is lost, a purge comes later.
func (l *Log) wrote() {
	s, known := l.past.seen, l.past.horizon.known()
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kv == nil || known <= s.said {
		return
	}
	if l.nc.Publish("$KV."+SeenName+"."+s.key, strconv.AppendUint(nil, uint64(known), 10)) == nil {
		s.said = known
	}
}

// mayBeBlind returns once this process may write objects whose last event was
// purged: a purge waits for it, and it knows of those that did not.
func (l *Log) mayBeBlind(ctx context.Context) error {
	if l.past.seen == nil || time.Since(l.past.seen.when()) < seenFresh {
		return nil
	}
	if err := l.learnHorizon(ctx); err != nil {
		return err
	}
	if err := l.announce(ctx); err != nil {
		return err
	}
	_, err := l.readState(ctx)
	return err
}

// learnHorizon asks the server for the horizon's last event.
func (l *Log) learnHorizon(ctx context.Context) error {
	ctx, cancel := l.question(ctx)
	defer cancel()
	m, err := l.stream.GetLastMsgForSubject(ctx, events.HorizonKey.Subject())
	if errors.Is(err, js.ErrMsgNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the horizon: %w", err)
	}
	r := events.Record{Key: events.HorizonKey, Body: m.Data}
	if floor, ok := events.HorizonOf(r); ok {
		l.past.horizon.learn(floor, events.Seq(m.Sequence))
	}
	return nil
}

// knowHorizon is learnHorizon for who knows of none.
func (l *Log) knowHorizon(ctx context.Context) error {
	if _, since := l.past.horizon.get(); since > 0 {
		return nil
	}
	return l.learnHorizon(ctx)
}

// forgotten tells whether the writer of r, which expects that there was never
// such an object, rightly does so although event n of it is there: it is a
// tombstone below a horizon that the writer has read.
func (l *Log) forgotten(ctx context.Context, r events.Record, n events.Seq) (bool, error) {
	floor, since := l.past.horizon.get()
	if since == 0 || n >= floor {
		if err := l.learnHorizon(ctx); err != nil {
			return false, err
		}
		floor, since = l.past.horizon.get()
	}
	if r.Expect != 0 || n >= floor || r.Seen < since {
		return false, nil
	}
	m, err := l.message(ctx, uint64(n), r.Key.Subject())
	if errors.Is(err, js.ErrMsgNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	old, err := events.FromHeaders(m.Header)
	return err == nil && m.Sequence == uint64(n) && old.Delete, nil
}

// Forget is events.Archive's.
func (l *Log) Forget(ctx context.Context, h events.Seq) (events.Seq, error) {
	if err := l.forget(ctx, h); err != nil {
		return 0, fmt.Errorf("forget what is before %d: %w", h, err)
	}
	return events.Seq(max(1, l.first.Load())), nil
}

func (l *Log) forget(ctx context.Context, h events.Seq) error {
	saved, err := l.listSaved(ctx)
	if err != nil || len(saved) == 0 {
		return err
	}
	if err := l.learnHorizon(ctx); err != nil {
		return err
	}
	floor, since := l.past.horizon.get()
	h = min(h, floor, saved[len(saved)-1].Seq)
	if _, err := l.readState(ctx); err != nil || uint64(h) <= l.first.Load() {
		return err
	}
	if all, err := l.allKnow(ctx, since); err != nil || !all {
		return err
	}
	mirrored, err := l.mirrored(ctx, h)
	if err != nil {
		return err
	}
	if h = min(h, mirrored); uint64(h) <= l.first.Load() {
		return nil
	}
	if err := l.syncStore(); err != nil { // HIST too
		return err
	}
	if err := l.Purge(ctx, h); err != nil {
		return err
	}
	_, err = l.readState(ctx)
	return err
}

// mirrored waits until history has the event, and returns the last that it has.
func (l *Log) mirrored(ctx context.Context, h events.Seq) (events.Seq, error) {
	hist, err := l.history(ctx)
	if err != nil {
		return 0, err
	}
	for deadline := time.Now().Add(forgetWait); ; {
		ask, cancel := l.question(ctx)
		info, err := hist.Info(ask)
		cancel()
		if err != nil {
			return 0, fmt.Errorf("state of stream %s: %w", HistName, err)
		}
		if last := events.Seq(info.State.LastSeq); last >= h || time.Now().After(deadline) {
			return last, nil
		}
		if err := wait(ctx, forgetPoll); err != nil {
			return 0, err
		}
	}
}

// allKnow waits until everybody who writes knows of the horizon that an event
// told of.
func (l *Log) allKnow(ctx context.Context, since events.Seq) (bool, error) {
	for deadline := time.Now().Add(forgetWait); ; {
		behind := l.past.horizon.known() < since
		if !behind && l.past.seen != nil {
			least, err := l.leastSeen(ctx)
			if err != nil {
				return false, err
			}
			behind = least < since
		}
		if !behind || time.Now().After(deadline) {
			return !behind, nil
		}
		if err := wait(ctx, forgetPoll); err != nil {
			return false, err
		}
	}
}

// leastSeen returns the least of what other processes say that they know.
func (l *Log) leastSeen(ctx context.Context) (events.Seq, error) {
	ctx, cancel := l.question(ctx)
	defer cancel()
	kv, err := l.bucket(ctx)
	if err != nil {
		return 0, err
	}
	keys, err := kv.Keys(ctx)
	if err != nil && !errors.Is(err, js.ErrNoKeysFound) {
		return 0, fmt.Errorf("what writers know: %w", err)
	}
	l.past.hearing.Lock()
	defer l.past.hearing.Unlock()
	least, now := ^events.Seq(0), time.Now()
	heard := map[string]said{}
	defer func() { l.past.heard = heard }()
	for _, key := range keys {
		if key == l.past.seen.key {
			continue
		}
		v, err := kv.Get(ctx, key)
		if errors.Is(err, js.ErrKeyNotFound) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("what writers know: %w", err)
		}
		last := l.past.heard[key]
		if last.revision != v.Revision() {
			last = said{v.Revision(), now}
		}
		heard[key] = last
		if now.Sub(last.since) > seenAge {
			if err := l.unhear(ctx, key, last.revision); err != nil {
				return 0, err
			}
			continue
		}
		n, err := strconv.ParseUint(string(v.Value()), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("what writer %s knows: %w", key, err)
		}
		least = min(least, events.Seq(n))
	}
	return least, nil
}

// said is what a writer said last, as who purges has heard it.
type said struct {
	revision uint64
	since    time.Time // when it was heard first
}

// unhear removes what a writer said, unless it has said more since.
func (l *Log) unhear(ctx context.Context, key string, revision uint64) error {
	s, err := l.past.api.Stream(ctx, "KV_"+SeenName)
	if err == nil {
		err = s.Purge(ctx, js.WithPurgeSubject("$KV."+SeenName+"."+key), js.WithPurgeSequence(revision+1))
	}
	if err != nil {
		return fmt.Errorf("forget writer %s: %w", key, err)
	}
	return nil
}

// newSeen returns a name under which this process says what it knows, as the
// service that it is if it is one.
func newSeen(service string) *seen {
	if service != "" {
		service += "."
	}
	return &seen{key: service + nuid.Next()}
}
