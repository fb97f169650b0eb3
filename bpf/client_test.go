//go:build e2e

package bpf

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// runClient does what the requests say until there are no more.
func runClient(in io.Reader, out io.Writer) {
	requests, answers := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var r request
		if requests.Decode(&r) != nil {
			return
		}
		a := answer{}
		if err := ops[r.Op](r, &a); err != nil {
			a.Err = err.Error()
			var no syscall.Errno
			if errors.As(err, &no) {
				a.Errno = int(no)
			}
		}
		if answers.Encode(a) != nil {
			return
		}
	}
}

// patience is how long a client waits for what should come at once.
const patience = 2 * time.Second

var ops = map[string]func(request, *answer) error{
	"tcp":        tcp,
	"hold":       hold,
	"ping":       ping,
	"tcp6":       tcp6,
	"udp":        udp,
	"udp6":       udp6,
	"udpconnect": udpConnect,
	"hairpin":    hairpin,
	"load":       load,
	"measure":    measure,
}

// tcp connects N times to the address and reads who is there.
func tcp(r request, a *answer) error {
	for range r.N {
		c, err := net.DialTimeout("tcp4", r.Addrs[0], patience)
		if err != nil {
			return err
		}
		c.SetDeadline(time.Now().Add(patience))
		name, err := bufio.NewReader(c).ReadString('\n')
		a.Names = append(a.Names, strings.TrimSpace(name))
		a.Peers = append(a.Peers, c.RemoteAddr().String())
		c.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

var held1 net.Conn

// hold connects and keeps the connection for pings.
func hold(r request, a *answer) (err error) {
	if held1, err = net.DialTimeout("tcp4", r.Addrs[0], patience); err != nil {
		return err
	}
	b := make([]byte, 64)
	n, err := held1.Read(b)
	a.Names = []string{strings.TrimSpace(string(b[:n]))}
	return err
}

// ping uses the held connection N times.
func ping(r request, a *answer) error {
	b := make([]byte, 64)
	for range r.N {
		held1.SetDeadline(time.Now().Add(patience))
		if _, err := held1.Write([]byte("x")); err != nil {
			return err
		}
		if _, err := held1.Read(b); err != nil {
			return err
		}
		a.OK++
	}
	return nil
}

// mappedAddr is the address as an IPv6 socket names it.
func mappedAddr(s string) *unix.SockaddrInet6 {
	p := netip.MustParseAddrPort(s)
	return &unix.SockaddrInet6{Port: int(p.Port()), Addr: netip.AddrFrom4(p.Addr().As4()).As16()}
}

func name6(sa unix.Sockaddr) string {
	s := sa.(*unix.SockaddrInet6)
	return netip.AddrPortFrom(netip.AddrFrom16(s.Addr).Unmap(), uint16(s.Port)).String()
}

func timeout(fd int) error {
	tv := unix.NsecToTimeval(int64(patience))
	return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
}

// tcp6 is tcp with an IPv6 socket.
func tcp6(r request, a *answer) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := errors.Join(timeout(fd), unix.Connect(fd, mappedAddr(r.Addrs[0]))); err != nil {
		return err
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return err
	}
	b := make([]byte, 64)
	n, err := unix.Read(fd, b)
	if err != nil {
		return err
	}
	a.Peers, a.Names = []string{name6(peer)}, []string{strings.TrimSpace(string(b[:n]))}
	return nil
}

var unconnected *net.UDPConn

// udp sends N datagrams to each of the addresses in turn, all through one
// unconnected socket, which stays for the next request.
func udp(r request, a *answer) (err error) {
	if unconnected == nil {
		if unconnected, err = net.ListenUDP("udp4", nil); err != nil {
			return err
		}
	}
	b := make([]byte, 64)
	for range r.N {
		for _, addr := range r.Addrs {
			unconnected.SetDeadline(time.Now().Add(patience))
			if _, err := unconnected.WriteToUDPAddrPort([]byte("x"), netip.MustParseAddrPort(addr)); err != nil {
				return err
			}
			n, from, err := unconnected.ReadFromUDPAddrPort(b)
			if err != nil {
				return err
			}
			a.Names = append(a.Names, string(b[:n]))
			a.Peers = append(a.Peers, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()).String())
		}
	}
	return nil
}

// udp6 is udp with an IPv6 socket.
func udp6(r request, a *answer) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := timeout(fd); err != nil {
		return err
	}
	b := make([]byte, 64)
	for range r.N {
		if err := unix.Sendto(fd, []byte("x"), 0, mappedAddr(r.Addrs[0])); err != nil {
			return err
		}
		n, from, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			return err
		}
		a.Names = append(a.Names, string(b[:n]))
		a.Peers = append(a.Peers, name6(from))
	}
	return nil
}

// udpConnect sends N datagrams through a connected socket.
func udpConnect(r request, a *answer) error {
	c, err := net.Dial("udp4", r.Addrs[0])
	if err != nil {
		return err
	}
	defer c.Close()
	b := make([]byte, 64)
	for range r.N {
		c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		n, from, err := c.(*net.UDPConn).ReadFromUDPAddrPort(b)
		if err != nil {
			return err
		}
		a.Names = append(a.Names, string(b[:n]))
		a.Peers = append(a.Peers, c.RemoteAddr().String(), netip.AddrPortFrom(from.Addr().Unmap(), from.Port()).String())
	}
	return nil
}

// hairpin listens at the first address and connects to the second.
func hairpin(r request, a *answer) error {
	l, err := net.Listen("tcp4", r.Addrs[0])
	if err != nil {
		return err
	}
	defer l.Close()
	c, err := net.DialTimeout("tcp4", r.Addrs[1], patience)
	if err != nil {
		return err
	}
	defer c.Close()
	there, err := l.Accept()
	if err != nil {
		return err
	}
	defer there.Close()
	if there.RemoteAddr().String() == c.LocalAddr().String() && c.RemoteAddr().String() == r.Addrs[1] {
		a.OK++
	}
	return nil
}

// load connects over and over until there is a file at Addrs[1].
func load(r request, a *answer) error {
	for {
		if _, err := os.Stat(r.Addrs[1]); err == nil {
			return nil
		}
		one := answer{}
		if err := tcp(request{N: 1, Addrs: r.Addrs}, &one); err != nil {
			a.Failed++
			a.Err = err.Error()
			continue
		}
		a.OK++
	}
}

// measure times N connections to each address, in turns: connect, one byte
// each way, close by a reset, so that no socket waits.
func measure(r request, a *answer) error {
	a.Nanos = make([][]int64, len(r.Addrs))
	var to []*unix.SockaddrInet4
	for _, s := range r.Addrs {
		p := netip.MustParseAddrPort(s)
		to = append(to, &unix.SockaddrInet4{Port: int(p.Port()), Addr: p.Addr().As4()})
	}
	for i := range r.N {
		for j := range to {
			j := (i + j) % len(to)
			start := time.Now()
			if err := connectOnce(to[j]); err != nil {
				return err
			}
			a.Nanos[j] = append(a.Nanos[j], int64(time.Since(start)))
		}
	}
	return nil
}

func connectOnce(to *unix.SockaddrInet4) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return err
	}
	if err := unix.Connect(fd, to); err != nil {
		return err
	}
	b := make([]byte, 64)
	_, err = unix.Read(fd, b)
	return err
}
