package sim

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/memory"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/services/apiserver"
)

const (
	// lookEvery is how often an apiserver looks which nodes are heard.
	lookEvery = 250 * time.Millisecond
	// noticeAfter is how long an apiserver takes to notice that who held a
	// connection is gone without a word: two pings.
	noticeAfter = 4 * time.Second
	// serviceRange is so small that writers meet.
	serviceRange = "10.43.0.0/27"
)

var errKilled = errors.New("the apiserver was killed")

// server is one process of an apiserver: the real writing code, of which each
// request in flight is a coroutine that stops wherever it would have to wait.
type server struct {
	w       *World
	name    string
	lives   int
	off     time.Duration
	view    *kernel.View
	writer  *apiserver.Writer
	calls   []*call
	current *call
	turns   map[kernel.Key]*call
	streams []*stream
	ids     int
	looked  time.Time
	looking bool
	link    link
}

func newServer(w *World, name string) *server {
	s := &server{w: w, name: name}
	s.boot()
	return s
}

func (s *server) clock() time.Time { return s.w.now.Add(s.off) }

func (s *server) boot() {
	s.lives++
	s.off = s.w.between(-maxSkew, maxSkew, "skew", s.name, s.lives)
	s.calls, s.streams, s.turns = nil, nil, map[kernel.Key]*call{}
	s.looked, s.looking, s.link = s.w.now, false, link{}
	s.view = s.w.fold(s.name)
	cfg := apiserver.Default()
	cfg.Log, cfg.Schema, cfg.Logger = &serverLog{Log: s.w.log, s: s}, s.w.schema, zerolog.Nop()
	if !s.w.Calm {
		cfg.Talker = s.w.log // there are others; World.talk speaks for them
	}
	if err := cfg.ServiceRange.UnmarshalText([]byte(serviceRange)); err != nil {
		panic(err) // it is a constant
	}
	s.writer = apiserver.NewWriter(cfg, apiserver.Surroundings{
		View: func() *kernel.View { return s.view },
		Fresh: func(context.Context) (*kernel.View, error) {
			return s.await(&wait{seq: s.w.end()})
		},
		At: func(_ context.Context, seq kernel.Seq, until time.Time) (*kernel.View, error) {
			return s.await(&wait{seq: seq, until: until})
		},
		Turn: func(_ context.Context, k kernel.Key) (func(), error) {
			c := s.current
			if _, err := s.await(&wait{turn: k}); err != nil {
				return nil, err
			}
			return func() {
				if s.turns[k] == c {
					delete(s.turns, k)
				}
			}, nil
		},
		Now:    s.clock,
		Steady: func() time.Time { return s.w.now },
		ID: func() string {
			s.ids++
			return uuid.NewSHA1(uuid.NameSpaceOID, fmt.Appendf(nil, "%s.%d.%d", s.name, s.lives, s.ids)).String()
		},
		Draw: func(n uint64) uint64 {
			s.ids++
			return s.w.hash("pick", s.name, s.lives, s.ids) % n
		},
	})
}

// call is one request in flight.
type call struct {
	s      *server
	next   func() (*wait, bool)
	stop   func()
	yield  func(*wait) bool
	waits  *wait
	err    error // of the body, once it is over
	over   bool
	dead   bool
	answer func(error)
}

// wait is what a request waits for: that its Record was appended, that the
// View has a Seq, or its turn.
type wait struct {
	record *events.Record
	sent   bool
	got    kernel.Seq // of record
	err    error

	seq   kernel.Seq
	until time.Time
	turn  kernel.Key
}

// serverLog is the log as a request sees it.
type serverLog struct {
	*memory.Log
	s *server
}

// Append implements events.Log.
func (l *serverLog) Append(_ context.Context, r events.Record) (events.Seq, error) {
	l.s.w.told.presence.calls(l.s, r)
	w := &wait{record: &r}
	if _, err := l.s.await(w); err != nil {
		return 0, err
	}
	return w.got, w.err
}

// await stops the request that is running until what it waits for is there.
func (s *server) await(w *wait) (*kernel.View, error) {
	c := s.current
	if c.dead || !c.yield(w) {
		return nil, errKilled
	}
	return s.view, nil
}

// call begins a request. answer is told how it ended, or errNoAnswer.
func (s *server) call(body func(context.Context) error, answer func(error)) *call {
	c := &call{s: s, answer: answer}
	c.next, c.stop = iter.Pull(func(yield func(*wait) bool) {
		c.yield = yield
		c.err = body(context.Background())
	})
	s.calls = append(s.calls, c)
	c.resume()
	return c
}

func (c *call) resume() {
	before := c.s.current
	c.s.current = c
	w, more := c.next()
	c.s.current = before
	c.waits, c.over = w, !more
}

// step takes the request one step further, if it can go.
func (c *call) step() bool {
	switch w := c.waits; {
	case c.over:
		c.end(c.err)
	case w.record != nil && !w.sent:
		w.got, w.err = c.s.w.append(*w.record)
		w.sent = true
	case w.record != nil:
		c.resume()
	case w.turn != (kernel.Key{}):
		if c.s.turns[w.turn] != nil {
			return false
		}
		c.s.turns[w.turn] = c
		c.resume()
	case c.s.view.Seq() >= w.seq, !w.until.IsZero() && !c.s.clock().Before(w.until):
		c.resume()
	default:
		return false
	}
	return true
}

// end gives the client its answer.
func (c *call) end(err error) {
	c.s.calls = slices.DeleteFunc(c.s.calls, func(o *call) bool { return o == c })
	c.answer(err)
}

// kill ends a request in the midst of what it does.
func (c *call) kill(d *dice) {
	if c.over {
		return
	}
	if w := c.waits; w.record != nil && !w.sent {
		c.s.w.die(*w.record, d)
	}
	c.dead = true
	before := c.s.current
	c.s.current = c
	c.stop()
	c.s.current = before
}

// serve takes one of the requests a step further.
func (s *server) serve(d *dice) bool {
	if d.once(8) {
		s.look()
	}
	if s.link.cut() {
		return false
	}
	at := d.below(len(s.calls))
	for i := range s.calls {
		if s.calls[(at+i)%len(s.calls)].step() {
			return true
		}
	}
	return false
}

// lose loses the answer to a request that is over, or that of the log to one
// which waits for it.
func (s *server) lose(d *dice) {
	var could []*call
	for _, c := range s.calls {
		if c.over || c.waits.sent && c.waits.err == nil {
			could = append(could, c)
		}
	}
	if len(could) == 0 {
		return
	}
	c := could[d.below(len(could))]
	if c.over {
		s.w.count("lost answer to a client")
		c.end(errNoAnswer)
		return
	}
	s.w.count("lost answer to an apiserver")
	c.waits.got, c.waits.err = 0, errNoAnswer
}

// crash kills the apiserver with all that it does.
func (s *server) crash(d *dice) {
	s.w.count("crash of an apiserver")
	calls, streams := s.calls, s.streams
	for _, c := range calls {
		c.kill(d)
	}
	s.boot()
	for _, one := range streams {
		one.broken = true
	}
	for _, c := range calls {
		c.answer(errNoAnswer)
	}
	s.w.watchPresence()
}

// begin begins a stream, once the View has what the door waits for.
func (s *server) begin(one *stream) {
	if one.begun = s.view.Seq() >= one.from; one.begun {
		one.of.Begin(s.view)
	}
}

// read folds at most n events, and tells the nodes of them.
func (s *server) read(n int) bool {
	if s.link.cut() {
		return false
	}
	rs, err := s.w.after(s.view.Seq(), n)
	if err != nil {
		s.w.count("reading anew after a purge")
		s.view = s.w.fold(s.name)
		for _, one := range s.streams {
			one.broken = true // the node begins again, says the door
		}
		return true
	}
	if len(rs) == 0 {
		return false
	}
	v, es := s.view.Fold(rs...)
	s.view = v
	s.w.told.views.read(s.name, v)
	for _, one := range s.streams {
		switch {
		case one.broken:
		case one.begun:
			one.of.Step(v, es)
		default:
			s.begin(one)
		}
	}
	return true
}

// look sees which nodes are heard.
func (s *server) look() {
	s.w.talk()
	now := s.w.now
	s.streams = slices.DeleteFunc(s.streams, func(one *stream) bool {
		gone := one.broken && !s.w.now.Before(one.noticed)
		if gone {
			one.of.End()
		}
		return gone
	})
	if s.looking || now.Sub(s.looked) < lookEvery {
		return
	}
	since := now.Sub(s.looked)
	s.looked, s.looking = now, true
	c := s.call(func(ctx context.Context) error {
		s.writer.Look(ctx, since)
		return nil
	}, func(error) { s.looking = false })
	if c.over { // nothing had to be written
		c.end(nil)
	}
}

// round does all that there is to do without faults.
func (s *server) round() bool {
	busy := s.read(everything)
	s.look()
	for s.serve(nil) {
		busy = true
	}
	return busy
}

// stream is a node's open stream at the door.
type stream struct {
	node    string
	opened  time.Time
	shown   kernel.Seq // to its machine before
	from    kernel.Seq // of a View with which it may begin
	begun   bool
	of      *apiserver.NodeStream
	inbox   []line
	broken  bool
	noticed time.Time // when the apiserver knows, if nobody tells it
}

type line struct {
	kernel.Record
	prev kernel.Seq
}

// open begins a node's stream.
func (s *server) open(node string, shown kernel.Seq) *stream {
	one := &stream{node: node, opened: s.w.now, shown: shown, from: s.w.end()}
	one.of = s.writer.NodeStream(node, func(r kernel.Record, prev kernel.Seq) error {
		one.inbox = append(one.inbox, line{r, prev})
		return nil
	})
	s.begin(one)
	s.streams = append(s.streams, one)
	s.w.watchPresence()
	return one
}
