package jetstream

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/rutterhq/rutter/events"
)

// A server that is left alone cannot tell what the end of the log is, for the
// others may have gone on, and answers no question that only a leader does. But
// it has all that it ever had: the past as far as its own copy of HIST goes.

// loneBatch is how many events one question asks for.
const loneBatch = 500

// lone returns what this server's own copy of the past holds, if it is one of
// several and they have no leader: ok is false otherwise.
func (l *Log) lone() (first, last events.Seq, ok bool) {
	if !l.several || l.server == nil {
		return 0, 0, false
	}
	s := l.server.server
	groups := s.Raftz(&server.RaftzOptions{GroupFilter: "_meta_"})
	if groups == nil {
		return 0, 0, false
	}
	for _, account := range *groups {
		for _, g := range account {
			if g.Leader != "" {
				return 0, 0, false
			}
		}
	}
	info, err := s.Jsz(&server.JSzOptions{Accounts: true, Streams: true})
	if err != nil {
		return 0, 0, false
	}
	for _, account := range info.AccountDetails {
		for _, stream := range account.Streams {
			if stream.Name == HistName {
				return events.Seq(max(1, stream.State.FirstSeq)), events.Seq(stream.State.LastSeq), true
			}
		}
	}
	return 0, 0, false
}

// readLone yields events of this server's own copy of the past.
func (l *Log) readLone(ctx context.Context, subject string, after, to events.Seq, yield func(events.Record, error) bool) error {
	first, last, ok := l.lone()
	if !ok || after+1 < first || to > last {
		return fmt.Errorf("this server is alone, and holds %d to %d: %w", first, last, events.ErrGone)
	}
	for at := after; at < to; {
		part, err := l.direct(ctx, at+1, min(loneBatch, int(to-at)))
		if err != nil {
			return err
		}
		if len(part) == 0 {
			return fmt.Errorf("event %d: %w", at+1, events.ErrGone)
		}
		for _, r := range part {
			if r.Seq != at+1 {
				return fmt.Errorf("event %d follows %d: %w", r.Seq, at, events.ErrGone)
			}
			at = r.Seq
			if (subject == "" || r.Key.Subject() == subject) && !yield(r, nil) {
				return nil
			}
		}
	}
	return nil
}

// direct asks this server itself for the n events from a Seq on.
func (l *Log) direct(ctx context.Context, from events.Seq, n int) ([]events.Record, error) {
	ctx, cancel := l.question(ctx)
	defer cancel()
	ask, err := json.Marshal(map[string]any{"seq": from, "batch": n})
	if err != nil {
		return nil, err
	}
	reply := l.nc.NewInbox()
	sub, err := l.nc.SubscribeSync(reply)
	if err != nil {
		return nil, fmt.Errorf("events from %d on: %w", from, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection may be gone: then so is it
	if err := l.nc.PublishRequest("$JS.API.DIRECT.GET."+HistName, reply, ask); err != nil {
		return nil, fmt.Errorf("events from %d on: %w", from, err)
	}
	var part []events.Record
	for len(part) < n {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil, fmt.Errorf("events from %d on: %w", from, err)
		}
		if m.Header.Get("Status") != "" { // 204: that was all; 404: none
			break
		}
		r, err := directRecord(m)
		if err != nil {
			return nil, fmt.Errorf("events from %d on: %w", from, err)
		}
		part = append(part, r)
	}
	return part, nil
}

// directRecord reads a message that was got directly: where it stands is in its
// headers.
func directRecord(m *nats.Msg) (events.Record, error) {
	seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return events.Record{}, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	r, err := events.FromHeaders(m.Header)
	if err == nil {
		r.Key, err = events.KeyOfSubject(m.Header.Get("Nats-Subject"))
	}
	if err != nil {
		return r, fmt.Errorf("event %d: %w: %w", seq, errUnreadable, err)
	}
	r.Seq, r.Body = events.Seq(seq), bytes.Clone(m.Data)
	return r, nil
}

// loneWindow is the window of a server that is left alone.
func (l *Log) loneWindow(ctx context.Context) (w events.Window, ok bool) {
	first, last, ok := l.lone()
	if !ok || last < first {
		return w, false
	}
	part, err := l.direct(ctx, first, 1)
	if err != nil || len(part) == 0 {
		return w, false
	}
	return events.Window{First: first, Last: last, Since: part[0].Time.UTC().Truncate(time.Millisecond)}, true
}
