package jetstream

import (
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

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
