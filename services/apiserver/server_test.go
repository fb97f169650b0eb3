package apiserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/memory"
	"github.com/rutterhq/rutter/internal/pki"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// cluster is a log with one or more apiservers over it, on real TLS.
type cluster struct {
	t    testing.TB
	log  events.Log
	ca   *pki.CA
	keys events.Keys // of Secrets; nil: they are sealed with the cluster's key
	// services is the range of cluster IPs; empty: the default.
	services string
	// advertise is where the apiservers say they are; empty: where they listen.
	advertise string
	deciders  []kernel.Decider // for replay
}

func newCluster(t testing.TB) *cluster {
	t.Helper()
	ca, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{t: t, log: memory.New(), ca: ca}
}

// api is one apiserver of a cluster and a client for it.
type api struct {
	*client
	s   *Server
	url string
}

// server makes an apiserver, and returns where it will listen.
func (c *cluster) server() (s *Server, url string) {
	c.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	schema := &kinds.Schema{Cluster: "test", Seal: []byte("0123456789abcdef0123456789abcdef"), Keys: c.keys}
	cfg := Default()
	cfg.Log, cfg.Schema, cfg.CA, cfg.Listener = c.log, schema, c.ca, listener
	cfg.History, _ = c.log.(events.History)
	cfg.Keeper, _ = c.log.(events.Keeper)
	cfg.Deciders = c.deciders
	cfg.Mirror = kernel.NewMirror(c.log, schema, nil)
	if c.advertise != "" {
		cfg.Advertise = netip.MustParseAddrPort(c.advertise)
	}
	if c.services != "" {
		cfg.ServiceRange = netip.MustParsePrefix(c.services)
	}
	cfg.Logger = zerolog.New(zerolog.NewTestWriter(c.t)).Level(zerolog.WarnLevel)
	if s, err = New(cfg); err != nil {
		c.t.Fatal(err)
	}
	return s, "https://" + listener.Addr().String()
}

// start runs an apiserver until the test ends.
func (c *cluster) start() *api {
	c.t.Helper()
	s, url := c.server()
	ctx, cancel := context.WithCancel(c.t.Context())
	var g errgroup.Group
	failed := make(chan error, 1)
	g.Go(func() error { return s.cfg.Mirror.Run(ctx) })
	g.Go(func() error {
		err := s.Run(ctx)
		failed <- err
		return err
	})
	c.t.Cleanup(func() {
		cancel()
		if err := g.Wait(); err != nil {
			c.t.Error(err)
		}
	})
	select {
	case <-s.Started():
	case err := <-failed:
		c.t.Fatal(err)
	case <-time.After(20 * time.Second):
		c.t.Fatal("the apiserver did not start")
	}
	a := &api{s: s, url: url}
	a.client = c.client(a.url, "admin", "system:masters")
	return a
}

// client is a user of an apiserver.
type client struct {
	t    testing.TB
	http *http.Client
	url  string
	ask  http.Header // of every request
}

// client returns one with a certificate for the user; no name, no certificate.
func (c *cluster) client(url, name string, groups ...string) *client {
	c.t.Helper()
	config := &tls.Config{RootCAs: c.ca.Pool()}
	if name != "" {
		cert, key, err := c.ca.Issue(pki.Request{CommonName: name, Organizations: groups, Client: true})
		if err != nil {
			c.t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			c.t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return &client{t: c.t, url: url, ask: http.Header{},
		http: &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}}
}

// with returns a client that sends a header as well.
func (c *client) with(key, value string) *client {
	next := *c
	next.ask = c.ask.Clone()
	next.ask.Set(key, value)
	return &next
}

// do sends a request and returns what came back.
func (c *client) do(method, path, body string) (int, string, http.Header) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	for k, v := range c.ask {
		req.Header[k] = v
	}
	res, err := c.http.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return res.StatusCode, string(out), res.Header
}

// want is do with the code that must come back; it decodes the answer.
func (c *client) want(code int, method, path, body string) map[string]any {
	c.t.Helper()
	got, out, _ := c.do(method, path, body)
	if got != code {
		c.t.Fatalf("%s %s: %d, want %d: %s", method, path, got, code, out)
	}
	return decode(c.t, out)
}

func decode(t testing.TB, body string) map[string]any {
	t.Helper()
	var o map[string]any
	if err := json.Unmarshal([]byte(body), &o); err != nil {
		t.Fatalf("%v: %.300s", err, body)
	}
	return o
}

// at digs in decoded JSON: at(o, "metadata", "name").
func at_(o any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := o.(map[string]any)
			o = m[p]
		case int:
			l, _ := o.([]any)
			if p >= len(l) {
				return nil
			}
			o = l[p]
		}
	}
	return o
}

func str(o any, path ...any) string {
	s, _ := at_(o, path...).(string)
	return s
}

// watching is an open watch.
type watching struct {
	t   testing.TB
	res *http.Response
	dec *json.Decoder
}

func (c *client) watch(path string) *watching {
	c.t.Helper()
	w, code := c.tryWatch(path)
	if code != 200 {
		c.t.Fatalf("watch %s: %d", path, code)
	}
	return w
}

// tryWatch is watch for a request that may be refused.
func (c *client) tryWatch(path string) (*watching, int) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, c.url+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	for k, v := range c.ask {
		req.Header[k] = v
	}
	res, err := c.http.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	if res.StatusCode != 200 {
		res.Body.Close()
		return nil, res.StatusCode
	}
	c.t.Cleanup(func() { res.Body.Close() })
	return &watching{t: c.t, res: res, dec: json.NewDecoder(res.Body)}, 200
}

// next returns the type and the object of the next event.
func (w *watching) next() (string, map[string]any) {
	w.t.Helper()
	var e struct {
		Type   string         `json:"type"`
		Object map[string]any `json:"object"`
	}
	if err := w.dec.Decode(&e); err != nil {
		w.t.Fatalf("watch: %v", err)
	}
	return e.Type, e.Object
}

const configMaps = "/api/v1/namespaces/default/configmaps"

func configMap(name string, data ...string) string {
	o := map[string]any{"kind": "ConfigMap", "apiVersion": "v1", "metadata": map[string]any{"name": name}}
	if len(data) == 2 {
		o["data"] = map[string]string{data[0]: data[1]}
	}
	var b bytes.Buffer
	_ = json.NewEncoder(&b).Encode(o) // strings always encode
	return b.String()
}

func TestLifeOfAConfigMap(t *testing.T) {
	a := newCluster(t).start()
	list := a.want(200, "GET", configMaps, "")
	w := a.watch(configMaps + "?watch=1&resourceVersion=" + str(list, "metadata", "resourceVersion"))

	made := a.want(201, "POST", configMaps, configMap("one", "a", "1"))
	version := str(made, "metadata", "resourceVersion")
	if version == "" || str(made, "kind") != "ConfigMap" || str(made, "metadata", "uid") == "" {
		t.Fatalf("created: %v", made)
	}
	got := a.want(200, "GET", configMaps+"/one", "")
	if str(got, "metadata", "resourceVersion") != version || str(got, "data", "a") != "1" {
		t.Fatalf("got: %v", got)
	}
	list = a.want(200, "GET", configMaps, "")
	if str(list, "kind") != "ConfigMapList" || str(list, "items", 0, "metadata", "name") != "one" || str(list, "items", 0, "kind") != "" {
		t.Fatalf("list: %v", list)
	}
	a.want(409, "POST", configMaps, configMap("one"))

	at_(made, "data").(map[string]any)["a"] = "2"
	body, _ := json.Marshal(made)
	updated := a.want(200, "PUT", configMaps+"/one", string(body))
	if v := str(updated, "metadata", "resourceVersion"); v == version {
		t.Fatal("an update kept its resourceVersion")
	}
	if s := a.want(409, "PUT", configMaps+"/one", string(body)); str(s, "reason") != "Conflict" {
		t.Fatalf("second update: %v", s)
	}
	status := a.want(200, "DELETE", configMaps+"/one", "")
	if str(status, "status") != "Success" || str(status, "details", "name") != "one" || str(status, "details", "kind") != "configmaps" {
		t.Fatalf("delete: %v", status)
	}
	if s := a.want(404, "GET", configMaps+"/one", ""); str(s, "message") != `configmaps "one" not found` {
		t.Fatalf("get after delete: %v", s)
	}
	a.want(201, "POST", configMaps, configMap("one"))
	for _, want := range []string{"ADDED", "MODIFIED", "DELETED", "ADDED"} {
		kind, o := w.next()
		if kind != want || str(o, "metadata", "name") != "one" || str(o, "kind") != "ConfigMap" {
			t.Fatalf("watch: %s %v, want %s", kind, o, want)
		}
	}
}

// A second start finds what the first has made, and writes nothing; what was
// deleted between them is made again.
func TestStartAgain(t *testing.T) {
	c := newCluster(t)
	c.advertise = "192.0.2.7:6443"
	a := c.start()
	slice := a.want(200, "GET", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes", "")
	if str(slice, "endpoints", 0, "addresses", 0) != "192.0.2.7" || str(slice, "metadata", "labels", "kubernetes.io/service-name") != "kubernetes" {
		t.Errorf("the API's own slice: %v", slice)
	}
	svc := a.want(200, "GET", services+"/kubernetes", "")
	if str(svc, "spec", "clusterIP") != "10.43.0.1" {
		t.Errorf("the API's own service: %v", svc)
	}
	before, err := c.log.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := c.start()
	if after, err := c.log.Last(t.Context()); err != nil || after != before {
		t.Errorf("a second start moved the log from %d to %d: %v", before, after, err)
	}
	b.want(200, "DELETE", rbacPath+"clusterroles/view", "")
	b.with("Content-Type", patchMerge).want(200, "PATCH", rbacPath+"clusterroles/system:discovery", `{"rules":[{"verbs":["get"],"nonResourceURLs":["/mine"]}]}`)
	last := c.start()
	last.want(200, "GET", rbacPath+"clusterroles/view", "")
	if _, body, _ := last.do("GET", rbacPath+"clusterroles/system:discovery", ""); !strings.Contains(body, `"/mine"`) || !strings.Contains(body, `"/openapi/*"`) {
		t.Errorf("a role that lacked rights: %s", body)
	}
}
