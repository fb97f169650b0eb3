package jetstream

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/rutterhq/rutter/events"
)

// maxLine bounds a line of NATS' protocol in bytes; the server's own bound for
// most of them is 4 KiB.
const maxLine = 16 << 10

// guard stands between services and the server, and reads what they say. The
// server's permissions see the subject of a message and nothing else: by a
// reply subject, a header or a consumer's target a service could have the
// server itself write where it may not.
type guard struct {
	server   *Server
	listener net.Listener

	mu    sync.Mutex // protects the following field
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

// newGuard listens until close.
func newGuard(s *Server, address string) (*guard, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("log server: listen: %w", err)
	}
	g := &guard{server: s, listener: l, conns: map[net.Conn]bool{}}
	g.wg.Go(g.accept)
	return g, nil
}

func (g *guard) accept() {
	for {
		c, err := g.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			g.wg.Go(func() { g.serve(c) })
		}
	}
}

// hold notes a connection, so that close ends it. It returns false after close.
func (g *guard) hold(c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conns == nil {
		return false
	}
	g.conns[c] = true
	return true
}

func (g *guard) release(c net.Conn) {
	_ = c.Close() // whoever reads it is gone
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
}

// close ends all connections and returns when nobody is served any more.
func (g *guard) close() error {
	err := g.listener.Close()
	g.mu.Lock()
	for c := range g.conns {
		_ = c.Close()
	}
	g.conns = nil
	g.mu.Unlock()
	g.wg.Wait()
	return err
}

// serve passes on what one client and the server say.
func (g *guard) serve(client net.Conn) {
	defer g.release(client)
	inside, err := g.server.InProcessConn()
	if err != nil || !g.hold(client) || !g.hold(inside) {
		return
	}
	defer g.release(inside)
	g.wg.Go(func() {
		defer g.release(client)
		_, _ = io.Copy(client, inside) // it ends when either is closed
	})
	f := newFilter(client, inside)
	if err := f.run(); !errors.Is(err, errEnd) {
		_, _ = fmt.Fprintf(client, "-ERR 'Permissions Violation: %s'\r\n", err)
	}
}

// filter reads what a client says and passes on what it may say.
type filter struct {
	from    *bufio.Reader
	to      io.Writer
	greeted bool
	service string // "": this is no service, but somebody whom the server lets do all, or nothing
}

func newFilter(from io.Reader, to io.Writer) *filter {
	return &filter{from: bufio.NewReaderSize(from, maxLine), to: to}
}

// errEnd says that a connection has ended.
var errEnd = errors.New("the connection has ended")

// run ends with errEnd, or with what the client may not say.
func (f *filter) run() error {
	for {
		line, err := f.from.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return errors.New("a line is too long")
		}
		if err != nil {
			return errEnd
		}
		line = bytes.Clone(line)
		payload, err := f.read(line)
		if err != nil {
			return err
		}
		if _, err := f.to.Write(append(line, payload...)); err != nil {
			return errEnd
		}
	}
}

// read checks one line, and returns what belongs to it.
func (f *filter) read(line []byte) (payload []byte, err error) {
	text := strings.TrimSuffix(strings.TrimSuffix(string(line), "\n"), "\r")
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\t' }) || strings.TrimLeft(text, " \t") != text {
		return nil, errors.New("this is not NATS' protocol")
	}
	words := strings.Fields(text)
	op := ""
	if len(words) > 0 {
		op = strings.ToUpper(words[0])
	}
	switch {
	case op == "CONNECT" && !f.greeted:
		var who struct {
			User string `json:"user"`
		}
		if err := json.Unmarshal([]byte(strings.TrimSpace(text[len(op):])), &who); err != nil {
			return nil, errors.New("this is no greeting")
		}
		f.greeted, f.service = true, who.User
		return nil, nil
	case !f.greeted:
		return nil, errors.New("a greeting comes first")
	case op == "PUB" && (len(words) == 3 || len(words) == 4):
		return f.message(words, 0)
	case op == "HPUB" && (len(words) == 4 || len(words) == 5):
		header, err := strconv.ParseUint(words[len(words)-2], 10, 31)
		if err != nil {
			return nil, errors.New("bad size")
		}
		return f.message(slices.Delete(words, len(words)-2, len(words)-1), int(header))
	case slices.Contains([]string{"SUB", "UNSUB", "PING", "PONG"}, op):
		return nil, nil
	}
	return nil, errors.New("unknown operation")
}

// message reads and checks what is published: words are the operation, the
// subject, maybe a reply subject, and the size, the first header bytes of which
// are the headers.
func (f *filter) message(words []string, header int) ([]byte, error) {
	size, err := strconv.ParseUint(words[len(words)-1], 10, 31)
	if err != nil || size > maxPayload || header > int(size) {
		return nil, errors.New("bad size")
	}
	payload := make([]byte, size+2) // and the end of the line
	if _, err := io.ReadFull(f.from, payload); err != nil {
		return nil, errEnd
	}
	if f.service == "" {
		return payload, nil
	}
	subject := words[1]
	if len(words) == 4 && !strings.HasPrefix(words[2], inbox(f.service)+".") {
		return nil, errors.New("an answer to somebody else")
	}
	switch {
	case strings.HasPrefix(subject, events.SubjectRoot+"."):
		err = checkEvent(payload[:header])
	case header > 0:
		_, err = ordersIn(payload[:header]) // by a header one value of a bucket could remove all others
	}
	if err == nil && strings.HasPrefix(subject, "$JS.API.CONSUMER.CREATE.") {
		err = f.checkConsumer(payload[header:size])
	}
	return payload, err
}

// checkConsumer looks at where a consumer that is asked for would deliver: the
// server itself would publish there.
func (f *filter) checkConsumer(body []byte) error {
	var c struct {
		Config struct {
			DeliverSubject string `json:"deliver_subject"`
		} `json:"config"`
	}
	if err := json.Unmarshal(body, &c); err != nil {
		return errors.New("this is no consumer")
	}
	if d := c.Config.DeliverSubject; d != "" && !strings.HasPrefix(d, inbox(f.service)+".") {
		return errors.New("a delivery to somebody else")
	}
	return nil
}

// checkEvent looks at an event's headers: it must say what it expects of its
// own subject, and give the server no other orders.
func checkEvent(header []byte) error {
	expects, err := ordersIn(header)
	if err == nil && expects != 1 {
		err = errors.New("an event that expects nothing")
	}
	return err
}

// ordersIn counts how often headers say what is expected of the message's own
// subject. Any other order to the server is an error.
func ordersIn(header []byte) (expects int, err error) {
	_, rest, ok := bytes.Cut(header, []byte("\r\n"))
	if !ok {
		return 0, errors.New("no headers")
	}
	h, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(rest))).ReadMIMEHeader()
	if err != nil {
		return 0, errors.New("bad headers")
	}
	for name := range h {
		if strings.HasPrefix(strings.ToLower(name), "nats-") && !strings.EqualFold(name, headerExpectLast) {
			return 0, fmt.Errorf("a message with %s", name)
		}
	}
	return len(h.Values(headerExpectLast)), nil
}
