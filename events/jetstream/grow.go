package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"
)

// A log that one server began alone cannot be gone on with by three in its own
// files: NATS would delete streams that the three have not agreed on. It is
// brought to them as a backup is, stream by stream, with the same Seqs:
//
//	alone:  EV HIST SNAP KEYS ──► three:  KEYS SNAP EV* HIST, compared, then EV
//
// EV* is a log that nobody opens, for it says that it is not complete. What
// ends before that is gone is begun anew.

// Names in EV's metadata.
const (
	metaFrom       = "rutter-grown-from" // when the log that it was brought from was made
	metaIncomplete = "rutter-incomplete" // "true" until all has come
)

const (
	// growChunk is the size in bytes of the pieces in which a stream is brought.
	growChunk = 512 << 10
	// growWait bounds the wait for one piece: a server may be reading a block.
	growWait = time.Minute
	// growAttempts is how often it is tried: one of the three may be restarted.
	growAttempts = 5
	// settleWait bounds how long the copies of one stream may take to be equal.
	settleWait = time.Hour
)

// errOther says that the three have a log of their own.
var errOther = errors.New("the three servers have a log already, and it is not this one")

// incomplete tells whether a log is still being brought.
func incomplete(c js.StreamConfig) bool { return c.Metadata[metaIncomplete] != "" }

// Grow brings the log of a server that was alone, its history, its kept states
// and its keys to three servers, of which to is one, and returns once all three
// have and have synced all of it. Nobody may write to it meanwhile. It can be
// called again whatever became of the last call: the old store is only read.
func Grow(ctx context.Context, from, to *Server) error {
	if err := grow(ctx, from, to); err != nil {
		return fmt.Errorf("bring the log to three servers: %w", err)
	}
	return nil
}

func grow(ctx context.Context, from, to *Server) error {
	m, err := newMover(ctx, from, to)
	if err != nil {
		return err
	}
	defer m.close()
	for n := 1; ; n++ {
		err := m.moveAll(ctx, to)
		if err == nil || ctx.Err() != nil || errors.Is(err, errOther) || n == growAttempts {
			return err
		}
		if err := wait(ctx, retryPause); err != nil {
			return err
		}
	}
}

// moveAll brings everything, from the beginning.
func (m *mover) moveAll(ctx context.Context, to *Server) error {
	done, err := m.clear(ctx)
	if done || err != nil {
		return err
	}
	for _, name := range []string{keysStream, snapStream, StreamName, HistName} {
		if err := m.move(ctx, name); err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
	}
	if err := to.SyncStore(); err != nil {
		return err
	}
	return again(ctx, m.complete)
}

// mover brings streams from one server to others.
type mover struct {
	src, dst *nats.Conn
	old, new js.JetStream
	from     string // names the log
}

// newMover connects to both sides.
func newMover(ctx context.Context, from, to *Server) (*mover, error) {
	src, err := from.Connect()
	if err != nil {
		return nil, err
	}
	dst, err := to.Connect()
	if err != nil {
		src.Close()
		return nil, err
	}
	m := &mover{src: src, dst: dst}
	m.old, err = js.New(src, js.WithDefaultTimeout(apiTimeout))
	if err == nil {
		m.new, err = js.New(dst, js.WithDefaultTimeout(apiTimeout))
	}
	var old js.Stream
	if err == nil {
		old, err = m.old.Stream(ctx, StreamName)
	}
	if err != nil {
		m.close()
		return nil, fmt.Errorf("stream %s: %w", StreamName, err)
	}
	m.from = old.CachedInfo().Created.UTC().Format(time.RFC3339Nano)
	return m, nil
}

func (m *mover) close() {
	m.src.Close()
	m.dst.Close()
}

// clear removes what an earlier attempt has left. done says that it had
// succeeded.
func (m *mover) clear(ctx context.Context) (done bool, err error) {
	err = again(ctx, func(ctx context.Context) error {
		s, err := m.new.Stream(ctx, StreamName)
		if errors.Is(err, js.ErrStreamNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		c := s.CachedInfo().Config
		if c.Metadata[metaFrom] != m.from {
			return errOther
		}
		done = !incomplete(c)
		return nil
	})
	if done || err != nil {
		return done, err
	}
	for _, name := range []string{HistName, snapStream, keysStream, StreamName} {
		err := again(ctx, func(ctx context.Context) error {
			if err := m.new.DeleteStream(ctx, name); !errors.Is(err, js.ErrStreamNotFound) {
				return err
			}
			return nil
		})
		if err != nil {
			return false, fmt.Errorf("remove stream %s of an attempt before: %w", name, err)
		}
	}
	return false, nil
}

// move brings one stream, and waits until three servers have all of it. One
// that the old server does not have is left out.
func (m *mover) move(ctx context.Context, name string) error {
	info, err := m.old.Stream(ctx, name)
	if errors.Is(err, js.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	want := info.CachedInfo().State
	if err := again(ctx, func(ask context.Context) error { return m.copy(ctx, ask, name) }); err != nil {
		return err
	}
	for end := time.Now().Add(settleWait); ; {
		var got *js.StreamInfo
		err := again(ctx, func(ctx context.Context) error {
			s, err := m.new.Stream(ctx, name)
			if err == nil {
				got = s.CachedInfo()
			}
			return err
		})
		if err != nil {
			return err
		}
		s := got.State
		if max(1, s.FirstSeq) != max(1, want.FirstSeq) || s.LastSeq < want.LastSeq || name != HistName && s.Msgs != want.Msgs {
			return fmt.Errorf("%d messages from %d to %d came, of %d from %d to %d",
				s.Msgs, s.FirstSeq, s.LastSeq, want.Msgs, want.FirstSeq, want.LastSeq)
		}
		if current(got) {
			return nil
		}
		if time.Now().After(end) {
			return errors.New("not all of three servers have all of it")
		}
		if err := wait(ctx, retryPause); err != nil {
			return err
		}
	}
}

// current tells whether three servers have all of a stream.
func current(i *js.StreamInfo) bool {
	if i.Cluster == nil || len(i.Cluster.Replicas) != Servers-1 {
		return false
	}
	for _, r := range i.Cluster.Replicas {
		if !r.Current || r.Offline || r.Lag > 0 {
			return false
		}
	}
	return true
}

// copy has one side write a backup of the stream, and the other read it. ask
// bounds the questions with which that begins.
func (m *mover) copy(ctx, ask context.Context, name string) error {
	deliver := m.src.NewInbox()
	pieces, err := m.src.SubscribeSync(deliver)
	if err != nil {
		return err
	}
	defer func() { _ = pieces.Unsubscribe() }() // the connection may be gone
	var backup struct {
		Config map[string]json.RawMessage `json:"config"`
		State  json.RawMessage            `json:"state"`
	}
	if err := request(ask, m.src, "$JS.API.STREAM.SNAPSHOT."+name, map[string]any{
		"deliver_subject": deliver, "no_consumers": true, "chunk_size": growChunk}, &backup); err != nil {
		return err
	}
	if err := m.configure(name, backup.Config); err != nil {
		return err
	}
	var to struct {
		Subject string `json:"deliver_subject"`
	}
	if err := request(ask, m.dst, "$JS.API.STREAM.RESTORE."+name, backup, &to); err != nil {
		return err
	}
	for {
		piece, err := next(ctx, pieces)
		if err != nil {
			return err
		}
		if d := piece.Header.Get("Description"); d != "" && piece.Header.Get("Status") != "204" {
			return fmt.Errorf("read it: %s", d)
		}
		if err := m.put(ctx, to.Subject, piece.Data); err != nil || len(piece.Data) == 0 {
			return err
		}
		if piece.Reply == "" {
			continue
		}
		if err := piece.Respond(nil); err != nil {
			return err
		}
	}
}

func next(ctx context.Context, s *nats.Subscription) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, growWait)
	defer cancel()
	return s.NextMsgWithContext(ctx)
}

// put gives a piece to the server that takes them; an empty one is the end.
func (m *mover) put(ctx context.Context, subject string, piece []byte) error {
	ctx, cancel := context.WithTimeout(ctx, growWait)
	defer cancel()
	for {
		answer, err := m.dst.RequestWithContext(ctx, subject, piece)
		if errors.Is(err, nats.ErrNoResponders) && wait(ctx, retryPause) == nil {
			continue // another server takes them, and this one has not heard of it yet
		}
		if err != nil || len(answer.Data) == 0 {
			return err
		}
		return refusedBy(answer.Data)
	}
}

// configure makes a stream of one server one of three's.
func (m *mover) configure(name string, c map[string]json.RawMessage) error {
	set := map[string]any{"num_replicas": Servers}
	switch name {
	case HistName: // as histConfig
		set["compression"], set["allow_direct"] = "none", true
	case StreamName:
		meta := map[string]string{}
		if raw := c["metadata"]; raw != nil {
			if err := json.Unmarshal(raw, &meta); err != nil {
				return err
			}
		}
		meta[metaFrom], meta[metaIncomplete] = m.from, strconv.FormatBool(true)
		set["metadata"] = meta
	}
	for key, v := range set {
		raw, err := json.Marshal(v)
		if err != nil {
			return err
		}
		c[key] = raw
	}
	return nil
}

// complete has the log opened by whoever waits for it.
func (m *mover) complete(ctx context.Context) error {
	s, err := m.new.Stream(ctx, StreamName)
	if err != nil {
		return err
	}
	c := s.CachedInfo().Config
	delete(c.Metadata, metaIncomplete)
	_, err = m.new.UpdateStream(ctx, c)
	return err
}

// request asks JetStream's API.
func request(ctx context.Context, nc *nats.Conn, subject string, ask, answer any) error {
	b, err := json.Marshal(ask)
	if err != nil {
		return err
	}
	m, err := nc.RequestWithContext(ctx, subject, b)
	if err != nil {
		return err
	}
	if err := refusedBy(m.Data); err != nil {
		return err
	}
	return json.Unmarshal(m.Data, answer)
}

// refusedBy is the error in an answer of JetStream's API.
func refusedBy(answer []byte) error {
	var a struct {
		Error *js.APIError `json:"error"`
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return err
	}
	if a.Error != nil {
		return a.Error
	}
	return nil
}
