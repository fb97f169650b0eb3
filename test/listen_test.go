//go:build e2e

package test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// listening are the TCP addresses at which a process listens, in no namespace
// but the tests' own.
func listening(t *testing.T, pid int) []netip.AddrPort {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("files of process %d: %v", pid, err)
	}
	own := map[string]bool{}
	for _, f := range files {
		if to, err := os.Readlink(f); err == nil { // else it was closed meanwhile
			own[to] = true
		}
	}
	var all []netip.AddrPort
	for _, table := range []string{"tcp", "tcp6"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			const listen = "0A" // the state
			if f := strings.Fields(line); len(f) > 9 && f[3] == listen && own["socket:["+f[9]+"]"] {
				all = append(all, localAddress(t, f[1]))
			}
		}
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return all
}

// localAddress reads an address as the kernel shows it: in words of four bytes,
// each the wrong way round, in hexadecimal digits.
func localAddress(t *testing.T, s string) netip.AddrPort {
	t.Helper()
	host, port, _ := strings.Cut(s, ":")
	n, err := strconv.ParseUint(port, 16, 16)
	var ip []byte
	for i := 0; i < len(host) && err == nil; i += 8 {
		var word uint64
		word, err = strconv.ParseUint(host[i:min(i+8, len(host))], 16, 32)
		ip = append(ip, byte(word), byte(word>>8), byte(word>>16), byte(word>>24))
	}
	addr, ok := netip.AddrFromSlice(ip)
	if err != nil || !ok {
		t.Fatalf("address %q: %v", s, err)
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(n))
}

// listensOnly checks that a process listens where it should and nowhere else,
// and that nobody who brings no credentials gets NATS' protocol there.
func listensOnly(t *testing.T, pid int, want ...string) {
	t.Helper()
	at := listening(t, pid)
	var got []string
	for _, a := range at {
		host, port := a.Addr().String(), fmt.Sprint(a.Port())
		if a.Addr().IsUnspecified() { // of IPv6, where the machine has it
			host = "*"
		}
		if a.Port() >= 32768 { // the kernel chose it
			port = "any"
		}
		got = append(got, host+":"+port)
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("where it listens (-want +got):\n%s", diff)
	}
	for _, a := range at {
		if said, ok := speaksNATS(t, a); ok {
			t.Errorf("%s serves NATS to anybody: %q", a, said)
		}
	}
}

// speaksNATS connects as a client without credentials, and tells whether it is
// taken for one.
func speaksNATS(t *testing.T, at netip.AddrPort) (said string, served bool) {
	t.Helper()
	if at.Addr().IsUnspecified() {
		at = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at.Port())
	}
	c, err := net.DialTimeout("tcp", at.String(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := io.WriteString(c, "CONNECT {\"verbose\":true,\"pedantic\":false}\r\nSUB > 1\r\nPING\r\n"); err != nil {
		return "", false
	}
	for lines := bufio.NewScanner(c); lines.Scan(); {
		said += lines.Text() + "\n"
		if strings.HasPrefix(lines.Text(), "PONG") || strings.HasPrefix(lines.Text(), "+OK") {
			return said, true
		}
	}
	return said, false
}

// peerAddress is where other servers would find one of three.
const peerAddress = "127.0.0.1:7422"

// TestNobodyHearsTheLog: the log's server is no server to others. A cluster in
// one process has no port for it at all; by itself it has one, on the machine
// alone, and there only for services that have credentials.
func TestNobodyHearsTheLog(t *testing.T) {
	c := newCluster(t)
	c.up()
	listensOnly(t, c.pid(), "*:6443", "*:80", "*:443", hostAddress+":10250", "10.43.0.10:53")
	c.rutter("down", "--data", c.data, "--run", c.run)
	alone := c.start("nats", "--listen", natsAddress)
	poll(t, "the log's server to write its credentials", func() bool { return exists(c.data, "scheduler.credentials") })
	listensOnly(t, alone.cmd.Process.Pid, natsAddress)
	alone.kill()

	// One of several listens because NATS' servers do not meet otherwise: even
	// who could reach that port is not let in.
	c = newCluster(t)
	third := c.start("server", "--peer-listen", peerAddress, "--join", "127.0.0.1:7423,127.0.0.1:7424")
	poll(t, "the server to listen", func() bool { return len(listening(t, third.cmd.Process.Pid)) > 1 })
	listensOnly(t, third.cmd.Process.Pid, peerAddress, "127.0.0.1:any")
}
