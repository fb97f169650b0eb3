package nodeagent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	gort "runtime"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	"github.com/vishvananda/netns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
)

func newGroup() *errgroup.Group { return new(errgroup.Group) }

// dialTimeout bounds how long a program in a pod may take to accept.
const dialTimeout = 10 * time.Second

func (a *Agent) servePortForward(w http.ResponseWriter, r *http.Request) {
	p, _, _, ok := a.target(w, r)
	if !ok {
		return
	}
	if tunnel := r.Header.Get("Sec-Websocket-Protocol"); strings.HasPrefix(tunnel, portforward.WebsocketsSPDYTunnelingPrefix) {
		a.serveTunnel(w, r, p)
		return
	}
	o, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(w, r, forwarder{a, p}, "", "", o, streamIdle, streamCreate, portforward.SupportedProtocols)
}

// forwarder connects a client's stream with a port of a pod.
type forwarder struct {
	a *Agent
	p *pod
}

// PortForward implements portforward.PortForwarder.
func (f forwarder) PortForward(ctx context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	f.p.mu.Lock()
	uid, host, ready := string(f.p.spec.UID), f.p.spec.Spec.HostNetwork, f.p.world.Sandbox.Done
	f.p.mu.Unlock()
	if !ready {
		return errors.New("the pod has no network")
	}
	path := ""
	if !host {
		path = f.a.net().Net(uid)
	}
	c, err := dialIn(ctx, path, int(port))
	if err != nil {
		return fmt.Errorf("failed to connect to localhost:%d inside the pod: %w", port, err)
	}
	defer c.Close()
	var g errgroup.Group
	g.Go(func() error {
		_, err := io.Copy(c, stream)
		c.(*net.TCPConn).CloseWrite()
		return err
	})
	_, err = io.Copy(stream, c)
	// What the pod has closed has no more use for what the client sends.
	stream.Close()
	g.Wait()
	return err
}

// dialIn connects to a port of localhost in a network namespace, that of the
// agent for an empty path.
func dialIn(ctx context.Context, path string, port int) (net.Conn, error) {
	var c net.Conn
	var g errgroup.Group
	g.Go(func() error {
		if path != "" {
			// The thread ends with this goroutine: no other code runs in the pod's
			// namespace. The process's first thread cannot end; it is left alone.
			gort.LockOSThread()
			if unix.Gettid() == unix.Getpid() {
				defer gort.UnlockOSThread()
				var err error
				c, err = dialIn(ctx, path, port)
				return err
			}
			ns, err := netns.GetFromPath(path)
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := netns.Set(ns); err != nil {
				return err
			}
		}
		var err error
		d := net.Dialer{Timeout: dialTimeout}
		c, err = d.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		return err
	})
	return c, g.Wait()
}

// serveTunnel carries the SPDY protocol of port forwarding in the messages of a
// WebSocket, as kubectl does since v1.31.
func (a *Agent) serveTunnel(w http.ResponseWriter, r *http.Request, p *pod) {
	up := websocket.Upgrader{Subprotocols: []string{portforward.WebsocketsSPDYTunnelingPortForwardV1}, CheckOrigin: func(*http.Request) bool { return true }}
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		return // the client has been answered
	}
	defer ws.Close()
	inner := r.Clone(r.Context())
	inner.Method = http.MethodPost
	inner.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}, "X-Stream-Protocol-Version": {portforward.ProtocolV1Name}}
	portforward.ServePortForward(&tunnelled{header: http.Header{}, conn: &messageConn{Conn: ws.NetConn(), ws: ws}}, inner, forwarder{a, p}, "", "",
		&portforward.V4Options{}, streamIdle, streamCreate, portforward.SupportedProtocols)
}

// tunnelled answers an upgrade that has already happened: what would be the
// hijacked connection is the inside of the tunnel.
type tunnelled struct {
	header http.Header
	conn   net.Conn
}

// Header implements http.ResponseWriter.
func (t *tunnelled) Header() http.Header { return t.header }

// Write implements http.ResponseWriter: an answer to nobody.
func (t *tunnelled) Write(b []byte) (int, error) { return len(b), nil }

// WriteHeader implements http.ResponseWriter.
func (t *tunnelled) WriteHeader(int) {}

// Hijack implements http.Hijacker.
func (t *tunnelled) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return t.conn, bufio.NewReadWriter(bufio.NewReader(t.conn), bufio.NewWriter(t.conn)), nil
}

// messageConn is a connection in the binary messages of a WebSocket.
type messageConn struct {
	net.Conn // for addresses and deadlines
	ws       *websocket.Conn
	in       io.Reader // of the message that is being read
}

// Read implements net.Conn.
func (c *messageConn) Read(b []byte) (int, error) {
	for {
		if c.in == nil {
			_, in, err := c.ws.NextReader()
			if err != nil {
				if websocket.IsCloseError(err, websocket.CloseNormalClosure) {
					return 0, io.EOF
				}
				return 0, err
			}
			c.in = in
		}
		n, err := c.in.Read(b)
		if errors.Is(err, io.EOF) {
			c.in, err = nil, nil
			if n == 0 {
				continue
			}
		}
		return n, err
	}
}

// Write implements net.Conn: one message.
func (c *messageConn) Write(b []byte) (int, error) {
	if err := c.ws.WriteMessage(websocket.BinaryMessage, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close implements net.Conn.
func (c *messageConn) Close() error {
	c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
	return c.ws.Close()
}
