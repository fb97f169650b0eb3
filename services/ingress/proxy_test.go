package ingress

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// pod is a backend that says its name, and echoes what is upgraded.
func pod(t *testing.T, name string) (*httptest.Server, netip.AddrPort) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			c, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			fmt.Fprint(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			_, _ = io.Copy(c, rw) // until the client leaves
			return
		}
		fmt.Fprintf(w, "%s %s %s %s", name, r.Host, r.URL.Path, r.Header.Get("X-Forwarded-For"))
	}))
	t.Cleanup(s.Close)
	return s, netip.MustParseAddrPort(s.Listener.Addr().String())
}

func proxy(t *testing.T) (*Proxy, *httptest.Server) {
	p := NewProxy(zerolog.Nop(), nil)
	front := httptest.NewServer(p)
	t.Cleanup(front.Close)
	return p, front
}

func set(t *testing.T, p *Proxy, table *Table) {
	t.Helper()
	if err := p.Set(context.Background(), table); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, front *httptest.Server, host, path string) (int, string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, front.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	r.Header.Set("X-Forwarded-For", "1.2.3.4") // a lie
	resp, err := front.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestHostsAndPaths(t *testing.T) {
	_, a := pod(t, "a")
	_, b := pod(t, "b")
	_, c := pod(t, "c")
	to := func(addr netip.AddrPort) Backend { return Backend{Ready: []netip.AddrPort{addr}} }
	p, front := proxy(t)
	set(t, p, &Table{Rules: []Rule{
		{Host: "shop.example", Path: "/exact", Exact: true, Backend: to(b)},
		{Host: "shop.example", Path: "/foo", Backend: to(a)},
		{Host: "*.example", Path: "/", Backend: to(c)},
		{Host: "empty.example", Path: "/", Backend: Backend{Service: "default/none"}},
	}})
	for _, tc := range []struct {
		host, path string
		code       int
		want       string
	}{
		{"shop.example", "/foo", 200, "a"},
		{"SHOP.example:80", "/foo/bar", 200, "a"},
		{"shop.example", "/foobar", 200, "c"}, // no rule of its own host: the wildcard's
		{"shop.example", "/exact", 200, "b"},
		{"shop.example", "/exact/", 200, "c"},
		{"other.example", "/foo", 200, "c"},
		{"deep.other.example", "/", 404, "no Ingress"}, // a wildcard is one label
		{"example", "/", 404, "no Ingress"},
		{"empty.example", "/", 503, "Service Unavailable"},
	} {
		code, body := get(t, front, tc.host, tc.path)
		if code != tc.code || !strings.HasPrefix(body, tc.want) {
			t.Errorf("%s%s: %d %q, want %d %q", tc.host, tc.path, code, body, tc.code, tc.want)
		}
	}
	if _, body := get(t, front, "shop.example", "/foo"); !strings.HasSuffix(body, "shop.example /foo 127.0.0.1") {
		t.Errorf("the pod saw %q, want the host as asked for and the client's own address alone", body)
	}
}

func TestDefaultBackend(t *testing.T) {
	_, a := pod(t, "a")
	p, front := proxy(t)
	set(t, p, &Table{Default: &Backend{Ready: []netip.AddrPort{a}}})
	if code, body := get(t, front, "anything", "/x"); code != 200 || !strings.HasPrefix(body, "a ") {
		t.Errorf("%d %q", code, body)
	}
}

func TestTerminatingEndpointsServeOnlyWhenNoneIsReady(t *testing.T) {
	_, ready := pod(t, "ready")
	_, going := pod(t, "going")
	p, front := proxy(t)
	set(t, p, &Table{Default: &Backend{Ready: []netip.AddrPort{ready}, Terminating: []netip.AddrPort{going}}})
	for range 10 {
		if _, body := get(t, front, "x", "/"); !strings.HasPrefix(body, "ready") {
			t.Fatalf("%q answered although a ready one is there", body)
		}
	}
	set(t, p, &Table{Default: &Backend{Terminating: []netip.AddrPort{going}}})
	if _, body := get(t, front, "x", "/"); !strings.HasPrefix(body, "going") {
		t.Errorf("%q", body)
	}
}

func TestADeadEndpointIsSteppedOver(t *testing.T) {
	_, alive := pod(t, "alive")
	dead, addr := pod(t, "dead")
	dead.Close()
	p, front := proxy(t)
	set(t, p, &Table{Default: &Backend{Ready: []netip.AddrPort{addr, alive}}})
	for range 10 {
		if code, body := get(t, front, "x", "/"); code != 200 || !strings.HasPrefix(body, "alive") {
			t.Fatalf("%d %q", code, body)
		}
	}
}

// TestNoRequestFailsWhileRoutesChange sends requests while the table is swapped
// all the time between two pods.
func TestNoRequestFailsWhileRoutesChange(t *testing.T) {
	_, a := pod(t, "a")
	_, b := pod(t, "b")
	p, front := proxy(t)
	tables := []*Table{
		{Default: &Backend{Ready: []netip.AddrPort{a}}},
		{Default: &Backend{Ready: []netip.AddrPort{b}}},
		{Default: &Backend{Ready: []netip.AddrPort{a, b}}},
	}
	set(t, p, tables[0])
	var failed, sent atomic.Int64
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for range 300 {
				sent.Add(1)
				resp, err := front.Client().Get(front.URL)
				if err != nil || resp.StatusCode != 200 {
					failed.Add(1)
					continue
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		})
	}
	done := make(chan struct{})
	go func() { clients.Wait(); close(done) }()
	swaps := 0
	for running := true; running; swaps++ {
		set(t, p, tables[swaps%3])
		select {
		case <-done:
			running = false
		default:
		}
	}
	if failed.Load() > 0 {
		t.Errorf("%d of %d requests failed during %d swaps", failed.Load(), sent.Load(), swaps)
	}
}

func TestUpgradedConnectionsOutliveTheirRoute(t *testing.T) {
	_, a := pod(t, "a")
	p, front := proxy(t)
	set(t, p, &Table{Default: &Backend{Ready: []netip.AddrPort{a}}})
	c, err := net.Dial("tcp", front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", resp, err)
	}
	for i := range 3 {
		set(t, p, &Table{}) // the route is gone
		fmt.Fprintf(c, "hello %d\n", i)
		if line, err := r.ReadString('\n'); err != nil || line != fmt.Sprintf("hello %d\n", i) {
			t.Fatalf("echo %d: %q, %v", i, line, err)
		}
	}
}

// selfSigned makes a certificate for a name.
func selfSigned(t *testing.T, name string) Cert {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return Cert{Hosts: []string{name}, Cert: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		Key: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))}
}

func TestCertificatesByName(t *testing.T) {
	fallback := selfSigned(t, "fallback")
	pair, err := tls.X509KeyPair([]byte(fallback.Cert), []byte(fallback.Key))
	if err != nil {
		t.Fatal(err)
	}
	p := NewProxy(zerolog.Nop(), &pair)
	broken := Cert{Hosts: []string{"broken.example"}, Cert: "no certificate", Key: "no key"}
	set(t, p, &Table{Certs: []Cert{broken, selfSigned(t, "shop.example"), selfSigned(t, "*.wild.example")}})
	for asked, want := range map[string]string{"shop.example": "shop.example", "SHOP.example": "shop.example", "a.wild.example": "*.wild.example",
		"a.b.wild.example": "fallback", "broken.example": "fallback", "": "fallback"} {
		c, err := p.certificate(&tls.ClientHelloInfo{ServerName: asked})
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(c.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		if leaf.Subject.CommonName != want {
			t.Errorf("asked for %q: %q, want %q", asked, leaf.Subject.CommonName, want)
		}
	}
}
