package jetstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// proxy stands between a client and the server, and loses what either says.
type proxy struct {
	target                   string
	listener                 net.Listener
	deafServer, deafClient   atomic.Bool // what is sent to them is lost
	lostToServer, lostToUser chan struct{}

	mu    sync.Mutex // protects the following field
	conns []net.Conn
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{
		target: strings.TrimPrefix(target, "nats://"), listener: ln,
		lostToServer: make(chan struct{}, 1), lostToUser: make(chan struct{}, 1),
	}
	go p.run()
	t.Cleanup(func() { _ = ln.Close(); p.cut() })
	return p
}

func (p *proxy) run() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, server)
		p.mu.Unlock()
		go forward(server, client, &p.deafServer, p.lostToServer)
		go forward(client, server, &p.deafClient, p.lostToUser)
	}
}

// forward copies from one to the other, or loses it and says so.
func forward(to, from net.Conn, deaf *atomic.Bool, lost chan<- struct{}) {
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if deaf.Load() {
			select {
			case lost <- struct{}{}:
			default:
			}
			continue
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// cut ends all connections, and what comes is heard again.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
	p.deafServer.Store(false)
	p.deafClient.Store(false)
}

// dial opens the log at a server by TCP.
func dial(t *testing.T, s *Server, url string, o Options) *Log {
	t.Helper()
	file := filepath.Join(t.TempDir(), "credentials")
	if err := s.WriteCredentials(file); err != nil {
		t.Fatal(err)
	}
	o.Budget = s.Budget()
	return dialFile(t, url, file, o)
}

func dialFile(t *testing.T, url, file string, o Options) *Log {
	t.Helper()
	nc, err := Connect(logtest.Context(t), url, file)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Open(logtest.Context(t), nc, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// appendLater appends in the background and gives the outcome.
func appendLater(ctx context.Context, l *Log, r events.Record) <-chan outcome {
	ch := make(chan outcome, 1)
	go func() {
		seq, err := l.Append(ctx, r)
		ch <- outcome{seq, err}
	}()
	return ch
}

type outcome struct {
	seq events.Seq
	err error
}

// TestLostAnswers loses the answer to a write, or the write, with and without
// another writer coming in between, and by a cut connection or by silence.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		deafServer bool // the write is lost, else its answer
		other      bool // somebody else writes the object in between
		want       error
	}{
		"Answer":              {false, false, nil},
		"AnswerThenOverwrite": {false, true, nil},
		"Write":               {true, false, nil},
		"WriteThenOther":      {true, true, events.ErrConflict},
	} {
		for _, cut := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/cut=%t", name, cut), func(t *testing.T) {
				t.Parallel()
				loseOne(t, c.deafServer, c.other, cut, c.want)
			})
		}
	}
}

func loseOne(t *testing.T, deafServer, other, cut bool, want error) {
	ctx := logtest.Context(t)
	s := startServer(t, ServerConfig{Listen: "127.0.0.1:0"})
	direct := openIn(t, s)
	p := newProxy(t, s.URL())
	o := Options{}
	if !cut {
		o.AckWait = 100 * time.Millisecond
	}
	faulty := dial(t, s, "nats://"+p.listener.Addr().String(), o)
	at, err := faulty.Append(ctx, logtest.Record("a", 0))
	if err != nil {
		t.Fatal(err)
	}
	lost := p.lostToUser
	if deafServer {
		p.deafServer.Store(true)
		lost = p.lostToServer
	} else {
		p.deafClient.Store(true)
	}
	r := logtest.Record("a", at)
	later := appendLater(ctx, faulty, r)
	<-lost
	top := at
	if !deafServer {
		top++ // its write was stored
	}
	if other {
		if _, err = direct.Append(ctx, logtest.Record("a", top)); err != nil {
			t.Fatal(err)
		}
	}
	if cut {
		p.cut()
	} else {
		p.deafServer.Store(false)
		p.deafClient.Store(false)
	}
	got := <-later
	if !errors.Is(got.err, want) || want == nil && got.seq != at+1 {
		t.Fatalf("got %d, %v, want %d, %v", got.seq, got.err, at+1, want)
	}
	all := readAll(ctx, t, direct)
	count := 0
	for _, e := range all {
		if e.ID == r.ID {
			count++
		}
	}
	if wanted := map[bool]int{true: 1, false: 0}[want == nil]; count != wanted {
		t.Fatalf("it is %d times in the log", count)
	}
	logtest.CheckOrder(t, all, 0)
}

func readAll(ctx context.Context, t *testing.T, l *Log) []events.Record {
	t.Helper()
	last, err := l.Last(ctx)
	if err != nil {
		t.Fatal(err)
	}
	all, err := logtest.Read(ctx, l, 0, last)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestCutConnections cuts all connections again and again under 16 writers and
// a follower: nothing is lost, doubled or out of order.
func TestCutConnections(t *testing.T) {
	t.Parallel()
	s := startServer(t, ServerConfig{Listen: "127.0.0.1:0"})
	p := newProxy(t, s.URL())
	l := dial(t, s, "nats://"+p.listener.Addr().String(), Options{AckWait: 500 * time.Millisecond})
	underLoad(t, l, func(i int) {
		p.deafClient.Store(i%2 == 0)
		p.deafServer.Store(i%3 == 0)
		p.cut()
	})
}

// TestServerRestarts stops and starts the server under the same load.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := ServerConfig{Dir: dir, Listen: "127.0.0.1:0", Token: "secret"}
	s, err := StartServer(c)
	if err != nil {
		t.Fatal(err)
	}
	c.Listen = strings.TrimPrefix(s.URL(), "nats://")
	t.Cleanup(func() { _ = s.Close() })
	l := dial(t, s, s.URL(), Options{})
	underLoad(t, l, func(i int) {
		if i%5 != 0 {
			return
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if s, err = StartServer(c); err != nil {
			t.Fatal(err)
		}
	})
}

// underLoad has 16 writers change an object each and a follower read, and
// calls fault every time that another 20 events have come.
func underLoad(t *testing.T, l *Log, fault func(i int)) {
	const writers, writes = 16, 25
	ctx := logtest.Context(t)
	var told sync.Map
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			at := events.Seq(0)
			for range writes {
				r := logtest.Record(fmt.Sprintf("o%d", w), at)
				var err error
				if at, err = l.Append(ctx, r); err != nil {
					t.Error(err)
					return
				}
				told.Store(r.ID, at)
			}
		})
	}
	var got []events.Record
	for r, err := range l.Follow(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r)
		if len(got)%20 == 0 {
			fault(len(got) / 20)
		}
		if len(got) == writers*writes {
			break
		}
	}
	wg.Wait()
	logtest.CheckOrder(t, got, 0)
	for _, r := range got {
		if seq, _ := told.Load(r.ID); seq != r.Seq {
			t.Fatalf("event %d: its writer was told %v", r.Seq, seq)
		}
	}
	if last, err := l.Last(ctx); err != nil || last != writers*writes {
		t.Fatalf("the log ends at %d, %v", last, err)
	}
}

// TestLostStore starts the server again on an empty folder: followers and
// writers that remember more must not go on as if nothing were.
func TestLostStore(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	c := ServerConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", Token: "secret"}
	s, err := StartServer(c)
	if err != nil {
		t.Fatal(err)
	}
	c.Listen = strings.TrimPrefix(s.URL(), "nats://")
	l := dial(t, s, s.URL(), Options{})
	at, err := l.Append(ctx, logtest.Record("a", 0))
	if err != nil {
		t.Fatal(err)
	}
	restarted := false
	var last error
	for _, err := range l.Follow(ctx, at-1) {
		if last = err; err != nil {
			break
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		c.Dir = t.TempDir()
		s = startServer(t, c)
		openIn(t, s)
		restarted = true
	}
	if !restarted || !errors.Is(last, events.ErrGone) {
		t.Fatalf("a follower whose log is another one got %v", last)
	}
	if seq, err := l.Append(ctx, logtest.Record("a", at)); !errors.Is(err, events.ErrConflict) {
		t.Fatalf("a writer got %d, %v", seq, err)
	}
}

// TestFull fills the log up.
func TestFull(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	dir := t.TempDir()
	s, err := StartServer(ServerConfig{Dir: dir, Budget: minBudget})
	if err != nil {
		t.Fatal(err)
	}
	l := openIn(t, s)
	large := func(i int) events.Record {
		r := logtest.Record(fmt.Sprintf("o%d", i), 0)
		r.Body = []byte(strings.Repeat("x", 1<<20))
		return r
	}
	written := 0
	for ; err == nil; written++ {
		_, err = l.Append(ctx, large(written))
	}
	written--
	if !errors.Is(err, events.ErrFull) || written < 8 || written > 16 {
		t.Fatalf("after %d MiB: %v", written, err)
	}
	if got := readAll(ctx, t, l); len(got) != written {
		t.Fatalf("%d of %d are there", len(got), written)
	}
	l.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	l = openIn(t, startServer(t, ServerConfig{Dir: dir, Budget: 2 * minBudget}))
	if _, err := l.Append(ctx, large(written)); err != nil {
		t.Fatalf("with more room: %v", err)
	}
}

func TestConsumerDeleted(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	l := openIn(t, startServer(t, ServerConfig{}))
	at := events.Seq(0)
	for range 3 {
		var err error
		if at, err = l.Append(ctx, logtest.Record("a", at)); err != nil {
			t.Fatal(err)
		}
	}
	seen := events.Seq(0)
	for r, err := range l.Follow(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if seen++; r.Seq != seen {
			t.Fatalf("got %d, want %d", r.Seq, seen)
		}
		if seen == 6 {
			break
		}
		if r.Seq != at {
			continue
		}
		for name := range l.stream.ConsumerNames(ctx).Name() {
			if err := l.stream.DeleteConsumer(ctx, name); err != nil {
				t.Fatal(err)
			}
		}
		if at, err = l.Append(ctx, logtest.Record("a", at)); err != nil {
			t.Fatal(err)
		}
	}
	// The follower left no consumer behind.
	for name := range l.stream.ConsumerNames(ctx).Name() {
		t.Errorf("consumer %s is still there", name)
	}
}

func TestRefusesOtherStreams(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	for name, spoil := range map[string]func(*js.StreamConfig){
		"age":         func(c *js.StreamConfig) { c.MaxAge = time.Hour },
		"discard":     func(c *js.StreamConfig) { c.Discard = js.DiscardOld },
		"compression": func(c *js.StreamConfig) { c.Compression = js.S2Compression },
		"delete":      func(c *js.StreamConfig) { c.DenyDelete = false },
		"memory":      func(c *js.StreamConfig) { c.Storage = js.MemoryStorage },
		"subjects":    func(c *js.StreamConfig) { c.Subjects = []string{"ev.core.>"} },
		"republish":   func(c *js.StreamConfig) { c.RePublish = &js.RePublish{Source: ">", Destination: "x.>"} },
	} {
		s := startServer(t, ServerConfig{Budget: minBudget})
		nc, err := s.Connect()
		if err != nil {
			t.Fatal(err)
		}
		api, err := js.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		c := config(minBudget)
		spoil(&c)
		if _, err := api.CreateStream(ctx, c); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := Open(ctx, nc, Options{Budget: minBudget}); err == nil {
			t.Errorf("%s: the stream was taken", name)
		}
		nc.Close()
	}
}

func TestServerKeepsOthersOut(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	dir := filepath.Join(t.TempDir(), "log")
	s := startServer(t, ServerConfig{Dir: dir, Listen: "127.0.0.1:0"})
	if _, err := StartServer(ServerConfig{Dir: dir}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second server on the same folder: %v", err)
	}
	if _, err := Connect(ctx, s.URL(), ""); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("without credentials: %v", err)
	}
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Connect(ctx, s.URL(), file); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("with wrong credentials: %v", err)
	}
	if err := s.WriteCredentials(file); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{file: 0o600, dir: 0o700 | os.ModeDir} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s has the mode %v, %v", path, info.Mode(), err)
		}
	}
	for _, address := range []string{"0.0.0.0:4222", "192.0.2.1:0", "example.com:1", ":4222", "127.0.0.1"} {
		if s, err := StartServer(ServerConfig{Dir: t.TempDir(), Listen: address}); err == nil {
			t.Errorf("it listens on %s", address)
			_ = s.Close()
		}
	}
	if silent := startServer(t, ServerConfig{}); silent.URL() != "" {
		t.Errorf("a server that should listen on nothing is at %s", silent.URL())
	}
}

func TestLastIsShared(t *testing.T) {
	t.Parallel()
	asked := make(chan chan events.Seq)
	x := newLastIndex(func(context.Context) (events.Seq, error) {
		a := make(chan events.Seq)
		asked <- a
		return <-a, nil
	})
	get := func() <-chan events.Seq {
		out := make(chan events.Seq, 1)
		go func() {
			s, err := x.get(t.Context())
			if err != nil {
				t.Error(err)
			}
			out <- s
		}()
		return out
	}
	first := get()
	q1 := <-asked
	later := []<-chan events.Seq{get(), get(), get()}
	q1 <- 1 // an answer to a question from before they came is not theirs
	if got := <-first; got != 1 {
		t.Errorf("the first got %d", got)
	}
	seq := events.Seq(1)
	for i := 0; i < len(later); {
		select {
		case q := <-asked:
			seq++
			q <- seq
		case got := <-later[i]:
			if got < 2 {
				t.Errorf("got %d, which was asked for before", got)
			}
			i++
		}
	}
}

// TestBudgetChanges opens a log with less room than it was made with, and then
// with more: what is free on a disk changes from start to start.
func TestBudgetChanges(t *testing.T) {
	dir := t.TempDir()
	for i, budget := range []int64{8 << 30, 64 << 20, 4 << 30} {
		s, err := StartServer(ServerConfig{Dir: dir, Budget: budget})
		if err != nil {
			t.Fatal(err)
		}
		nc, err := s.Connect()
		if err != nil {
			t.Fatal(err)
		}
		l, err := Open(logtest.Context(t), nc, Options{Budget: s.Budget()})
		if err != nil {
			t.Fatalf("with a budget of %d MiB, start %d: %v", budget>>20, i+1, err)
		}
		if _, err := l.Append(logtest.Context(t), logtest.Record(fmt.Sprint("o", i), 0)); err != nil {
			t.Errorf("start %d: %v", i+1, err)
		}
		l.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestConflictIsDurable has two writers create one object on a disk that does
// not sync yet: the loser must not hear of the winner before its event is
// durable, for it would look for it and not find it.
func TestConflictIsDurable(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	var slow atomic.Bool
	syncs, goOn := make(chan struct{}, 100), make(chan struct{})
	s := startServer(t, ServerConfig{sync: func(f *os.File, folder bool) error {
		if slow.Load() {
			syncs <- struct{}{}
			<-goOn
		}
		return syncDisk(f, folder)
	}})
	l := openIn(t, s)
	slow.Store(true)
	winner := appendLater(ctx, l, logtest.Record("a", 0))
	<-syncs // the winner's event is stored
	loser := appendLater(ctx, l, logtest.Record("a", 0))
	select {
	case got := <-loser:
		close(goOn)
		t.Fatalf("the loser was told %v", got.err)
	case <-time.After(100 * time.Millisecond): // it has heard from the server long since
	}
	slow.Store(false)
	close(goOn)
	if got := <-loser; !errors.Is(got.err, events.ErrConflict) {
		t.Errorf("the loser was told %d, %v", got.seq, got.err)
	}
	if got := <-winner; got.err != nil {
		t.Error(got.err)
	}
}

// TestLastKeepsItsTime has one ask for the log's end who has time, and gets no
// answer: another, who has not, must not wait for longer than it wants.
func TestLastKeepsItsTime(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 2)
	x := newLastIndex(func(ctx context.Context) (events.Seq, error) {
		asked <- struct{}{}
		<-ctx.Done() // the server does not answer
		return 0, ctx.Err()
	})
	patient, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := x.get(patient); !errors.Is(err, context.Canceled) {
			t.Errorf("the patient one got %v", err)
		}
	})
	<-asked
	hurried, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	late := time.AfterFunc(5*time.Second, func() {
		t.Error("who had 20 ms waits for 5 s")
		stop()
	})
	if _, err := x.get(hurried); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the hurried one got %v", err)
	}
	late.Stop()
	stop()
	wg.Wait()
	// Nothing is left of the one that gave up: the next one asks.
	again, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := x.get(again); !errors.Is(err, context.DeadlineExceeded) || len(asked) == 0 {
		t.Errorf("the next one got %v, and %d asked", err, len(asked))
	}
}
