package jetstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events"
)

// StreamName is the log's stream.
const StreamName = "EV"

const (
	// maxMessage bounds a stored message in bytes: body and headers.
	maxMessage = 2 << 20
	// window bounds how many Appends are on their way at once. More add
	// latency and no throughput.
	window = 256
	// apiTimeout bounds one question to the server.
	apiTimeout = 5 * time.Second
)

// Options are what the owner of a log may choose.
type Options struct {
	// Budget is the stream's limit in bytes; writes beyond it are refused with
	// ErrFull. 0: what the stream has; a stream that is made then needs one.
	Budget int64
	// Replicas is how many servers keep the stream, 1 or 3. 0: as many as do
	// already, and one for a stream that is made.
	Replicas int
	// Await has Open wait until there is a stream: another server makes it.
	Await bool
	// GiveUp is how long Append tries to reach enough servers before it gives
	// ErrUnavailable. 0: until its context ends.
	GiveUp time.Duration
	// AckWait is how long Append waits for an answer before it asks what
	// became of its write. 0: 5 s.
	AckWait time.Duration
	// Build is the program's; states that are kept say it.
	Build string
}

// Log is the log on a stream. It is safe for concurrent use, and all services
// of a process share one.
type Log struct {
	nc      *nats.Conn
	api     js.JetStream
	stream  js.Stream
	several bool // more than one server keeps the stream
	giveUp  time.Duration
	doubt   atomic.Bool // the last call that needed a majority did not get it
	acks    *acks
	ackWait time.Duration
	slots   chan struct{} // one for every Append on its way
	first   atomic.Uint64 // a Seq that is not above the stream's first one
	known   atomic.Uint64 // the newest Seq that this process was told of
	last    *lastIndex
	server  *Server    // that this process runs and nc leads to, or nil
	commits *committer // the server's, if nobody outside this process writes; else nil
	past    past
	filling filling

	mu      sync.Mutex        // protects the following fields
	down    chan struct{}     // closed when the connection is lost; then made anew
	waiting map[uint64]func() // what stops those who wait for something over it
	serial  uint64            // keys of waiting
}

var _ events.Log = (*Log)(nil)

// Open returns the log behind the connection. It makes the stream if there is
// none, and refuses one that is not as it must be. The Log sets nc's handlers
// and owns it from here on.
func Open(ctx context.Context, nc *nats.Conn, o Options) (*Log, error) {
	api, err := js.New(nc, js.WithDefaultTimeout(apiTimeout))
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	var stream js.Stream
	err = again(ctx, func(ctx context.Context) error {
		stream, err = ensureStream(ctx, api, o)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	l := &Log{
		nc: nc, api: api, stream: stream, several: stream.CachedInfo().Config.Replicas > 1, giveUp: o.GiveUp, ackWait: o.AckWait, slots: make(chan struct{}, window), down: make(chan struct{}),
		waiting: map[uint64]func(){},
	}
	if l.ackWait <= 0 {
		l.ackWait = apiTimeout
	}
	l.last = newLastIndex(l.readLast)
	if s, ok := nc.Opts.InProcessServer.(*Server); ok {
		if l.server = s; s.alone() {
			l.commits = s.commits
		}
	}
	if l.acks, err = newAcks(nc); err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	if o.Budget > 0 {
		if err := again(ctx, l.makeBuckets); err != nil {
			return nil, fmt.Errorf("open the log: %w", err)
		}
	}
	if err := again(ctx, func(ctx context.Context) error { return l.openPast(ctx, api, o) }); err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	if err := l.syncStore(); err != nil { // streams may be new, or changed
		return nil, fmt.Errorf("open the log: %w", err)
	}
	nc.SetDisconnectErrHandler(func(*nats.Conn, error) { l.lostConnection() })
	nc.SetClosedHandler(func(*nats.Conn) { l.lostConnection() })
	last, err := l.readLast(ctx)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	if err := l.commit(ctx, last); err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	return l, nil
}

// Close ends the connection. Appends and Follows that are under way end with
// an error.
func (l *Log) Close() { l.nc.Close() }

// lostConnection wakes all who wait for what will not come.
func (l *Log) lostConnection() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.down)
	l.down = make(chan struct{})
	for _, stop := range l.waiting {
		stop()
	}
}

// whenLost has stop called when the connection is lost, until done.
func (l *Log) whenLost(stop func()) (done func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.serial++
	serial := l.serial
	l.waiting[serial] = stop
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.waiting, serial)
	}
}

// question returns a context for one question to the server: it ends with the
// connection, over which no answer would come any more.
func (l *Log) question(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	done := l.whenLost(cancel)
	return ctx, func() { done(); cancel() }
}

// disconnected is closed when the connection that there is now is lost.
func (l *Log) disconnected() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.down
}

// connected waits while there is no connection, until there is one or none
// will come any more. It tells whether it had to.
func (l *Log) connected() (waited bool) {
	changed := l.nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer l.nc.RemoveStatusListener(changed)
	if l.nc.IsConnected() || l.nc.IsClosed() {
		return false
	}
	<-changed
	return true
}

// config is the stream as it must be.
func config(budget int64) js.StreamConfig {
	return js.StreamConfig{
		Name:        StreamName,
		Description: "Rutter's log: every change of every object, in one order",
		Subjects:    []string{events.SubjectRoot + ".>"},
		Retention:   js.LimitsPolicy,
		Storage:     js.FileStorage,
		Discard:     js.DiscardNew, // full means full: nothing acknowledged is ever dropped
		MaxMsgs:     -1,
		MaxBytes:    budget,
		MaxMsgSize:  maxMessage,
		// A compressed block would be unpacked for nearly every compare-and-set.
		Compression: js.NoCompression,
		Replicas:    1,
		DenyDelete:  true, // no gaps
	}
}

// ensureStream returns the stream, made if need be.
func ensureStream(ctx context.Context, api js.JetStream, o Options) (js.Stream, error) {
	budget := o.Budget
	s, err := api.Stream(ctx, StreamName)
	if errors.Is(err, js.ErrStreamNotFound) {
		if o.Await {
			return nil, errAwaited
		}
		if budget <= 0 {
			return nil, errors.New("there is no log, and none can be made without a budget of bytes")
		}
		c := config(budget)
		c.Replicas = max(1, o.Replicas)
		if s, err = api.CreateStream(ctx, c); err != nil {
			return nil, fmt.Errorf("stream %s: %w", StreamName, err)
		}
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", StreamName, err)
	}
	has := s.CachedInfo().Config
	if incomplete(has) {
		return nil, errAwaited
	}
	if err := validate(has); err != nil {
		return nil, fmt.Errorf("stream %s: %w", StreamName, err)
	}
	if o.Replicas > 0 && has.Replicas != o.Replicas {
		has.Replicas = o.Replicas
		if s, err = api.UpdateStream(ctx, has); err != nil {
			return nil, fmt.Errorf("stream %s: set its replicas: %w", StreamName, err)
		}
	}
	return s, nil // its budget is set once history's size is known
}

// validate tells what makes a stream unfit for the log. Anything that drops,
// rewrites or hides messages does.
func validate(c js.StreamConfig) error {
	for _, must := range []struct {
		what string
		ok   bool
	}{
		{"subjects", slices.Equal(c.Subjects, []string{events.SubjectRoot + ".>"})},
		{"retention by limits", c.Retention == js.LimitsPolicy},
		{"file storage", c.Storage == js.FileStorage},
		{"discard new", c.Discard == js.DiscardNew && !c.DiscardNewPerSubject},
		{"no limit of messages", c.MaxMsgs <= 0 && c.MaxMsgsPerSubject <= 0},
		{"no age limit", c.MaxAge == 0 && !c.AllowMsgTTL && c.SubjectDeleteMarkerTTL == 0},
		{"message size", c.MaxMsgSize == -1 || c.MaxMsgSize >= maxMessage},
		{"no compression", c.Compression == js.NoCompression},
		{"no rollup, no deletes of messages", !c.AllowRollup && c.DenyDelete},
		{"acknowledgements", !c.NoAck},
		{"no mirror or source, no transform, no republish",
			c.Mirror == nil && len(c.Sources) == 0 && c.SubjectTransform == nil && c.RePublish == nil},
		{"not sealed", !c.Sealed},
		{"one or three replicas", c.Replicas == 1 || c.Replicas == 3},
	} {
		if !must.ok {
			return fmt.Errorf("it is not as the log needs it: %s", must.what)
		}
	}
	return nil
}
