package faults

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// kind is what a frame of the NATS protocol is to the log.
type kind int

const (
	other    kind = iota // the protocol's own: never touched
	write                // a publish to the log
	ack                  // the server's answer to one
	question             // a publish to the server's API
	saying               // a publish to a key-value bucket: what a writer knows
	delivery             // any other message to the client: answers of the API, events for followers
	kindCount
)

func (k kind) String() string {
	return [...]string{"other", "write", "ack", "question", "saying", "delivery"}[k]
}

// frame is one message of the protocol, with its payload.
type frame struct {
	kind  kind
	bytes []byte
}

// fault is what happens to a frame.
type fault int

const (
	pass fault = iota
	drop
	double
	late       // it comes after others of its connection
	stray      // its connection is cut, and it comes over a later one
	cutBefore  // the connection ends, and the frame is lost
	cutAfter   // the frame arrives, and then the connection ends
	cutWithin  // half of it arrives
	faultKinds // how many there are
)

// plan says what happens to the next frame of a kind. It is called under the
// relay's lock, and so may keep what it likes.
type plan func(k kind) fault

// relay stands between clients and a NATS server, understands what they say,
// and does to it what its plan says.
type relay struct {
	target string
	net.Listener
	lateness time.Duration

	mu      sync.Mutex // protects the following fields
	plan    plan
	conns   map[*link]bool
	strays  [][]byte        // writes whose connection was cut under them
	replies map[string]bool // the first parts of the subjects where answers to writes go to
	did     [kindCount][faultKinds]int
	end     bool
	group   sync.WaitGroup
}

// link is one connection through the relay. Frames of one direction are
// written by many goroutines if some are late.
type link struct {
	relay          *relay
	client, server net.Conn
	toServer       sync.Mutex // held while a frame is written
	toClient       sync.Mutex
}

// newRelay begins to relay to a server, until the test ends. Without a plan
// everything passes.
func newRelay(t *testing.T, url string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{target: strings.TrimPrefix(url, "nats://"), Listener: l, lateness: 20 * time.Millisecond,
		conns: map[*link]bool{}, replies: map[string]bool{}}
	r.group.Go(r.accept)
	t.Cleanup(r.stop)
	return r
}

func (r *relay) stop() {
	r.mu.Lock()
	r.end = true
	r.mu.Unlock()
	_ = r.Close()
	r.cut()
	r.group.Wait()
}

// follow sets the plan.
func (r *relay) follow(p plan) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.plan = p
}

// url is where clients find the relay.
func (r *relay) url() string { return "nats://" + r.Addr().String() }

// cut ends all connections.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for l := range r.conns {
		l.cut()
	}
}

func (l *link) cut() {
	_ = l.client.Close()
	_ = l.server.Close()
}

func (r *relay) accept() {
	for {
		client, err := r.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", r.target)
		if err != nil { // it is being restarted
			_ = client.Close()
			continue
		}
		l := &link{relay: r, client: client, server: server}
		r.mu.Lock()
		if r.conns[l] = true; r.end {
			l.cut()
		}
		r.group.Go(func() { l.pump(l.server, l.client, &l.toServer) })
		r.group.Go(func() { l.pump(l.client, l.server, &l.toClient) })
		r.mu.Unlock()
	}
}

// pump reads frames from one side and does with each what is planned.
func (l *link) pump(to, from net.Conn, turn *sync.Mutex) {
	defer func() {
		l.cut()
		l.relay.mu.Lock()
		delete(l.relay.conns, l)
		l.relay.mu.Unlock()
	}()
	in := bufio.NewReaderSize(from, 64<<10)
	for {
		f, err := l.read(in)
		if err != nil {
			return
		}
		what, strays := l.relay.judge(f)
		for _, s := range strays {
			_ = send(l.server, &l.toServer, s)
		}
		if !l.do(what, f, to, turn) {
			return
		}
	}
}

// judge asks the plan, and hands out the writes that were left behind when a
// later one of somebody passes.
func (r *relay) judge(f frame) (what fault, strays [][]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.kind == write {
		strays, r.strays = r.strays, nil
	}
	if r.plan != nil && f.kind != other {
		what = r.plan(f.kind)
	}
	if what == stray {
		r.strays = append(r.strays, f.bytes)
	}
	r.did[f.kind][what]++
	return what, strays
}

// do does it, and tells whether the connection goes on.
func (l *link) do(what fault, f frame, to net.Conn, turn *sync.Mutex) bool {
	switch what {
	case drop:
		return true
	case double:
		first := send(to, turn, f.bytes)
		return errors.Join(first, send(to, turn, f.bytes)) == nil
	case late:
		l.relay.group.Go(func() {
			time.Sleep(l.relay.lateness) // it is the fault
			_ = send(to, turn, f.bytes)
		})
		return true
	case cutBefore, stray:
		return false
	case cutAfter:
		_ = send(to, turn, f.bytes)
		return false
	case cutWithin:
		_ = send(to, turn, f.bytes[:len(f.bytes)/2])
		return false
	}
	return send(to, turn, f.bytes) == nil
}

func send(to net.Conn, turn *sync.Mutex, b []byte) error {
	turn.Lock()
	defer turn.Unlock()
	_, err := to.Write(b)
	return err
}

// read reads one frame: a line, and for those that have one a payload.
func (l *link) read(in *bufio.Reader) (frame, error) {
	line, err := in.ReadBytes('\n')
	if err != nil {
		return frame{}, err
	}
	f := frame{bytes: line}
	words := bytes.Fields(line)
	if len(words) < 3 {
		return f, nil
	}
	subject := string(words[1])
	switch verb := string(words[0]); verb {
	case "PUB", "HPUB":
		reply := ""
		if sizes := len(verb) - len("PUB") + 1; len(words) == 3+sizes {
			reply = string(words[2])
		}
		f.kind = l.published(subject, reply)
	case "MSG", "HMSG":
		f.kind = l.delivered(subject)
	default:
		return f, nil
	}
	size, err := strconv.Atoi(string(words[len(words)-1]))
	if err != nil {
		return frame{}, err
	}
	payload := make([]byte, size+len("\r\n"))
	if _, err := io.ReadFull(in, payload); err != nil {
		return frame{}, err
	}
	f.bytes = append(line, payload...)
	return f, nil
}

// published says what a client's message is, and notes where the answer to a
// write will go.
func (l *link) published(subject, reply string) kind {
	switch {
	case strings.HasPrefix(subject, "ev."):
		l.relay.mu.Lock()
		defer l.relay.mu.Unlock()
		l.relay.replies[stem(reply)] = true // the answer may come over a later connection
		return write
	case strings.HasPrefix(subject, "$JS.API."):
		return question
	case strings.HasPrefix(subject, "$KV."):
		return saying
	}
	return other
}

func (l *link) delivered(subject string) kind {
	l.relay.mu.Lock()
	defer l.relay.mu.Unlock()
	if l.relay.replies[stem(subject)] {
		return ack
	}
	return delivery
}

// stem is a subject without its last token.
func stem(subject string) string { return subject[:strings.LastIndexByte(subject, '.')+1] }

// chances gives each kind of frame its faults, in hundredths of a percent.
type chances [kindCount][faultKinds]int

// dice plans by chance.
func dice(seed uint64, c chances) plan {
	rnd := rand.New(rand.NewPCG(seed, 1))
	return func(k kind) fault {
		n := rnd.IntN(10_000)
		for f, chance := range c[k] {
			if n -= chance; n < 0 {
				return fault(f)
			}
		}
		return pass
	}
}

// script plans one fault after the other for the frames of given kinds; then
// all passes. left tells how many never came to pass.
func script(steps ...step) (p plan, left func() int) {
	var mu sync.Mutex // protects steps
	p = func(k kind) fault {
		mu.Lock()
		defer mu.Unlock()
		if len(steps) == 0 || steps[0].kind != k {
			return pass
		}
		f := steps[0].fault
		steps = steps[1:]
		return f
	}
	return p, func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(steps)
	}
}

type step struct {
	kind  kind
	fault fault
}
