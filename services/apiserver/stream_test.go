package apiserver

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rutterhq/rutter/internal/pki"
)

// agent is a node's agent as the apiserver sees it: HTTPS with kubelet's paths,
// only for who has a certificate of the cluster.
func (c *cluster) agent(h http.HandlerFunc) *httptest.Server {
	cert, key, err := c.ca.Issue(pki.Request{CommonName: "n1", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Server: true})
	if err != nil {
		c.t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		c.t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: c.ca.Pool(),
		VerifyConnection: pki.OnlyAPIServer}
	s.StartTLS()
	c.t.Cleanup(s.Close)
	return s
}

// withPod makes a pod that runs on a node whose agent listens at the address.
func (a *api) withPod(address string) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		a.t.Fatal(err)
	}
	a.want(201, "POST", "/api/v1/nodes", `{"metadata":{"name":"n1"}}`)
	a.with("Content-Type", patchMerge).want(200, "PATCH", "/api/v1/nodes/n1/status", fmt.Sprintf(
		`{"status":{"addresses":[{"type":"InternalIP","address":%q}],"daemonEndpoints":{"kubeletEndpoint":{"Port":%s}}}}`, host, port))
	a.want(201, "POST", "/api/v1/namespaces/default/serviceaccounts", `{"metadata":{"name":"default"}}`)
	a.want(201, "POST", "/api/v1/namespaces/default/pods", `{"metadata":{"name":"web"},"spec":{"containers":[{"name":"c","image":"i"}]}}`)
	a.want(201, "POST", "/api/v1/namespaces/default/pods/web/binding", `{"target":{"kind":"Node","name":"n1"}}`)
}

func TestStreams(t *testing.T) {
	c := newCluster(t)
	a := c.start()
	agent := c.agent(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/containerLogs/"):
			fmt.Fprintf(w, "log of %s %s", r.URL.Path, r.URL.RawQuery)
		case r.URL.Path == "/exec/default/web/c":
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "SPDY/3.1")
			w.WriteHeader(http.StatusSwitchingProtocols)
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			line, _ := rw.ReadString('\n')
			fmt.Fprintf(conn, "%s said %s", r.URL.RawQuery, line)
		default:
			http.NotFound(w, r)
		}
	})
	a.withPod(agent.Listener.Addr().String())
	path := "/api/v1/namespaces/default/pods/web"
	code, body, _ := a.do("GET", path+"/log?container=c&follow=true&tailLines=3", "")
	if code != 200 || body != "log of /containerLogs/default/web/c follow=true&tailLines=3" {
		t.Errorf("log: %d %s", code, body)
	}
	a.want(400, "GET", path+"/log?container=none", "")

	conn, err := tls.Dial("tcp", strings.TrimPrefix(a.url, "https://"), upgradeConfig(a))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s/exec?command=sh HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n", path)
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("exec: %v %v", res, err)
	}
	fmt.Fprint(conn, "hello\n")
	if said, _ := io.ReadAll(br); string(said) != "command=sh said hello\n" {
		t.Errorf("exec: %q", said)
	}
	// Who may only look may not run anything.
	a.want(201, "POST", rbacPath+"clusterrolebindings", `{"metadata":{"name":"ann"},
		"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"view"},"subjects":[{"kind":"User","name":"ann"}]}`)
	ann := c.client(a.url, "ann")
	if code, _, _ := ann.do("GET", path+"/log", ""); code != 200 {
		t.Errorf("log by a viewer: %d", code)
	}
	ann.want(403, "POST", path+"/exec?command=sh", "")
	ann.want(403, "GET", path+"/exec?command=sh", "")
	// The agent takes nobody else, whoever vouches for them.
	direct := c.client(agent.URL, "admin", "system:masters")
	if res, err := direct.http.Get(agent.URL + "/containerLogs/default/web/c"); err == nil {
		t.Errorf("an agent answered the admin: %s", res.Status)
	}
	agent.Close()
	if s := a.want(503, "GET", path+"/log", ""); str(s, "reason") != "ServiceUnavailable" {
		t.Errorf("an agent that is away: %v", s)
	}
}

func upgradeConfig(a *api) *tls.Config {
	c := a.http.Transport.(*http.Transport).TLSClientConfig.Clone()
	c.NextProtos = []string{"http/1.1"}
	return c
}

func TestPodProxy(t *testing.T) {
	a := newCluster(t).start()
	own, err := advertised(&net.TCPAddr{IP: net.IPv4zero, Port: 1})
	if err != nil || own.Addr().IsLoopback() {
		t.Fatalf("this host has no address but loopback: %v", err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(own.Addr().String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	backend := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Method, " ", r.URL) }))
	backend.Listener.Close()
	backend.Listener = listener
	backend.Start()
	t.Cleanup(backend.Close)
	a.withPod("127.0.0.1:1")
	status := func(ip string) {
		a.with("Content-Type", patchMerge).want(200, "PATCH", "/api/v1/namespaces/default/pods/web/status",
			fmt.Sprintf(`{"status":{"podIP":%q,"podIPs":[{"ip":%q}]}}`, ip, ip))
	}
	status(own.Addr().String())
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	path := "/api/v1/namespaces/default/pods/web:" + port + "/proxy"
	if code, body, _ := a.do("GET", path+"/some/page?q=1", ""); code != 200 || body != "GET /some/page?q=1" {
		t.Errorf("proxy: %d %s", code, body)
	}
	status("127.0.0.1")
	a.want(400, "GET", path+"/", "")
}
