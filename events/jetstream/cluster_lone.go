package jetstream

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events"
)

// A server that is left alone cannot tell what the end of the log is, for the
// others may have gone on, and answers no question that only a leader does. But
// it has all that it ever had: the past as far as its own copies of HIST and of
// the kept states go.

const (
	// loneBatch is how many events one question asks for.
	loneBatch = 500
	// loneChunks is how many parts of a kept state one question asks for.
	loneChunks = 8
	// What the object store of states calls its messages.
	snapMetas  = "$O." + SnapName + ".M."
	snapChunks = "$O." + SnapName + ".C."
)

// lone returns what this server's own copy of the past holds, if it is one of
// several and they have no leader: ok is false otherwise.
func (l *Log) lone() (first, last events.Seq, ok bool) {
	if !l.several || l.server == nil {
		return 0, 0, false
	}
	groups := l.server.server.Raftz(&server.RaftzOptions{GroupFilter: "_meta_"})
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
	state, ok := l.server.copyOf(HistName)
	return events.Seq(max(1, state.FirstSeq)), events.Seq(state.LastSeq), ok
}

// copyOf tells what this server itself has of a stream, without asking others.
func (s *Server) copyOf(stream string) (state server.StreamState, ok bool) {
	info, err := s.server.Jsz(&server.JSzOptions{Accounts: true, Streams: true})
	if err != nil {
		return state, false
	}
	for _, account := range info.AccountDetails {
		for _, d := range account.Streams {
			if d.Name == stream {
				return d.State, true
			}
		}
	}
	return state, false
}

// readLone yields events of this server's own copy of the past.
func (l *Log) readLone(ctx context.Context, subject string, after, to events.Seq, yield func(events.Record, error) bool) error {
	first, last, ok := l.lone()
	if !ok || after+1 < first || to > last {
		return fmt.Errorf("this server is alone, and holds %d to %d: %w", first, last, events.ErrGone)
	}
	for at := after; at < to; {
		part, err := l.loneEvents(ctx, directAsk{Seq: uint64(at) + 1, Batch: min(loneBatch, int(to-at))})
		if err != nil {
			return fmt.Errorf("events from %d on: %w", at+1, err)
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

// directAsk is what a server can be asked for of its own copy of a stream.
type directAsk struct {
	Seq       uint64     `json:"seq,omitempty"`          // from there on
	Batch     int        `json:"batch,omitempty"`        // how many at most
	StartTime *time.Time `json:"start_time,omitempty"`   // or from then on
	Subject   string     `json:"next_by_subj,omitempty"` // only of that one
	Lasts     []string   `json:"multi_last,omitempty"`   // the last message of each of these
}

// direct asks this server itself for messages of a stream. One that led until
// now answers nobody for a moment.
func (l *Log) direct(ctx context.Context, stream string, what directAsk) ([]*nats.Msg, error) {
	ctx, cancel := l.question(ctx)
	defer cancel()
	for {
		part, err := l.directOnce(ctx, stream, what)
		if !errors.Is(err, nats.ErrNoResponders) || wait(ctx, retryPause) != nil {
			return part, err
		}
	}
}

func (l *Log) directOnce(ctx context.Context, stream string, what directAsk) ([]*nats.Msg, error) {
	ask, err := json.Marshal(what)
	if err != nil {
		return nil, err
	}
	reply := l.nc.NewInbox()
	sub, err := l.nc.SubscribeSync(reply)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection may be gone: then so is it
	if err := l.nc.PublishRequest("$JS.API.DIRECT.GET."+stream, reply, ask); err != nil {
		return nil, err
	}
	var part []*nats.Msg
	for what.Batch == 0 || len(part) < what.Batch {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil, err
		}
		switch status := m.Header.Get("Status"); status {
		case "":
			part = append(part, m)
		case "204", "404": // that was all; there is none
			return part, nil
		case "503":
			return nil, fmt.Errorf("stream %s: %w", stream, nats.ErrNoResponders)
		default:
			return nil, fmt.Errorf("stream %s: the server answers %s %s", stream, status, m.Header.Get("Description"))
		}
	}
	return part, nil
}

// loneEvents asks this server itself for events of the past.
func (l *Log) loneEvents(ctx context.Context, what directAsk) ([]events.Record, error) {
	part, err := l.direct(ctx, HistName, what)
	if err != nil {
		return nil, err
	}
	var all []events.Record
	for _, m := range part {
		r, err := directRecord(m)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
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

// loneExtent is what there is of the past on a server that is left alone.
func (l *Log) loneExtent(ctx context.Context) (e extent, ok bool, err error) {
	first, last, ok := l.lone()
	if !ok {
		return e, false, nil
	}
	e.oldest, e.log.LastSeq = first, uint64(last)
	e.saved, err = l.loneSaved(ctx)
	return e, true, err
}

// loneWindow is the window of a server that is left alone.
func (l *Log) loneWindow(ctx context.Context, e extent) (events.Window, error) {
	w := events.Window{First: e.begin(), Last: events.Seq(e.log.LastSeq)}
	if w.First > w.Last {
		return w, nil
	}
	part, err := l.direct(ctx, HistName, directAsk{Seq: uint64(w.First), Batch: 1})
	if err != nil || len(part) == 0 {
		return w, cmp.Or(err, error(events.ErrGone))
	}
	w.Since, err = time.Parse(time.RFC3339Nano, part[0].Header.Get("Nats-Time-Stamp"))
	return w, err
}

// loneSeqAt is SeqAt's answer by a server that is left alone.
func (l *Log) loneSeqAt(ctx context.Context, e extent, t time.Time) (events.Seq, error) {
	after := t.Add(1).UTC()
	part, err := l.direct(ctx, HistName, directAsk{StartTime: &after, Batch: 1})
	if err != nil || len(part) == 0 {
		return events.Seq(e.log.LastSeq), err
	}
	r, err := directRecord(part[0])
	if err != nil {
		return 0, err
	}
	return e.beforeFirst(r.Seq)
}

// loneSaved is listSaved for a server that is left alone.
func (l *Log) loneSaved(ctx context.Context) ([]saved, error) {
	metas, err := l.direct(ctx, snapStream, directAsk{Lasts: []string{snapMetas + ">"}})
	if err != nil {
		return nil, fmt.Errorf("list the states kept: %w", err)
	}
	var all []saved
	for _, m := range metas {
		var info js.ObjectInfo
		if err := json.Unmarshal(m.Data, &info); err != nil || info.Deleted {
			continue // of what cannot be read there is no state
		}
		info.ModTime, _ = time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Time-Stamp"))
		if s, ok := parseManifest(&info); ok {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b saved) int { return cmp.Compare(a.Seq, b.Seq) })
	return all, nil
}

// loneLoad is load for a server that is left alone.
func (l *Log) loneLoad(ctx context.Context, s saved) ([]byte, error) {
	name := snapMetas + base64.URLEncoding.EncodeToString([]byte(objectName(stateObject, s.Seq)))
	metas, err := l.direct(ctx, snapStream, directAsk{Lasts: []string{name}})
	var info js.ObjectInfo
	if err == nil && len(metas) == 1 {
		err = json.Unmarshal(metas[0].Data, &info)
	}
	if err != nil || info.NUID == "" {
		return nil, fmt.Errorf("the state at %d: %w", s.Seq, cmp.Or(err, errUnreadable))
	}
	var data []byte
	for seq, n := uint64(1), uint32(0); n < info.Chunks; {
		part, err := l.direct(ctx, snapStream, directAsk{Seq: seq, Subject: snapChunks + info.NUID, Batch: loneChunks})
		if err == nil && len(part) == 0 {
			err = errUnreadable
		}
		if err != nil {
			return nil, fmt.Errorf("the state at %d: part %d of %d: %w", s.Seq, n+1, info.Chunks, err)
		}
		for _, m := range part {
			data = append(data, m.Data...)
			n++
		}
		last, err := strconv.ParseUint(part[len(part)-1].Header.Get("Nats-Sequence"), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("the state at %d: %w: %w", s.Seq, errUnreadable, err)
		}
		seq = last + 1
	}
	return data, s.verify(data)
}
