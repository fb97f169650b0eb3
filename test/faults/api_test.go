package faults

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
	"github.com/rutterhq/rutter/internal/pki"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/apiserver"
)

const configMaps = "/api/v1/namespaces/default/configmaps"

// api is an apiserver over a log.
type api struct {
	url    string
	client *http.Client
}

// serveAPI runs an apiserver over a log until the test ends.
func serveAPI(t *testing.T, ca *pki.CA, log events.Archive) *api {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	schema := &kinds.Schema{Cluster: "faults", Seal: bytes.Repeat([]byte("s"), 32)}
	cfg := apiserver.Default()
	cfg.Log, cfg.History, cfg.Schema, cfg.CA, cfg.Listener = log, log, schema, ca, listener
	cfg.Mirror = kernel.NewMirror(log, schema, nil)
	cfg.Logger = zerolog.Nop()
	s, err := apiserver.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return cfg.Mirror.Run(ctx) })
	g.Go(func() error { return s.Run(ctx) })
	t.Cleanup(func() {
		stop()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-s.Started():
	case <-ctx.Done():
		t.Fatal(g.Wait())
	}
	cert, key, err := ca.Issue(pki.Request{CommonName: "admin", Organizations: []string{"system:masters"}, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return &api{url: "https://" + listener.Addr().String(), client: &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{pair}}, ForceAttemptHTTP2: true}}}
}

// object is what the tests look at of a ConfigMap, or of a Status.
type object struct {
	Metadata struct {
		UID             string `json:"uid,omitempty"`
		ResourceVersion string `json:"resourceVersion,omitempty"`
		Name            string `json:"name,omitempty"`
	} `json:"metadata"`
	Data   map[string]string `json:"data,omitempty"`
	Reason string            `json:"reason,omitempty"` // of a Status
	Status any               `json:"status,omitempty"`
}

// do sends a request. Code 0: there was no answer.
func (a *api) do(ctx context.Context, method, path, media string, body any) (code int, out object) {
	data, err := json.Marshal(body)
	if err != nil {
		panic(err) // the tests' own objects
	}
	req, err := http.NewRequestWithContext(ctx, method, a.url+path, bytes.NewReader(data))
	if err != nil {
		panic(err)
	}
	req.Header.Set("Content-Type", media)
	res, err := a.client.Do(req)
	if err != nil {
		return 0, out
	}
	defer res.Body.Close()
	if data, err = io.ReadAll(res.Body); err != nil {
		return 0, out
	}
	_ = json.Unmarshal(data, &out) // what is no object has no fields
	return res.StatusCode, out
}

// request is one that was sent to an API, and what its client was told.
type request struct {
	call
	method string
	marker string // what no other request writes
	uid    string // of what is to be deleted
	code   int
	reason string
}

// apiClient reads and writes a few ConfigMaps.
type apiClient struct {
	*api
	id      int
	rnd     *rand.Rand
	history *history
	sent    []request
}

// write reads an object and writes it in one of the ways that the API has.
func (c *apiClient) write(ctx context.Context, n int) error {
	name := fmt.Sprint("o", c.rnd.IntN(2))
	r := request{marker: fmt.Sprintf("marker-%d-%d", c.id, n)}
	r.client, r.record.Key = c.id, logtest.Record(name, 0).Key
	path, media := configMaps+"/"+name, "application/json"
	r.read, r.begun = true, c.history.now()
	code, is := c.do(ctx, "GET", path, media, nil)
	r.end = c.history.now()
	switch code {
	case http.StatusOK, http.StatusNotFound:
		seq, _ := strconv.ParseUint(is.Metadata.ResourceVersion, 10, 64)
		r.seq = events.Seq(seq)
		read := r
		read.method, read.code, read.marker = "GET", code, is.Data["marker"]
		c.sent = append(c.sent, read)
	case 0:
		return fmt.Errorf("GET %s: no answer", path)
	default:
		return nil // it could not read: it may try again
	}
	next := object{Data: map[string]string{"marker": r.marker}}
	next.Metadata.Name = name
	var body any = next
	r.read = false
	switch k := c.rnd.IntN(10); {
	case r.seq == 0:
		r.method, path = "POST", configMaps
	case k < 4:
		r.method, r.record.Expect = "PUT", r.seq
		next.Metadata.ResourceVersion = is.Metadata.ResourceVersion
		body = next
	case k < 7:
		r.method, media = "PATCH", "application/merge-patch+json"
	default:
		r.method, r.uid = "DELETE", is.Metadata.UID
		body = map[string]any{"preconditions": map[string]string{"uid": r.uid}}
	}
	if c.rnd.IntN(6) == 0 { // this client is in a hurry
		hurried, cancel := context.WithTimeout(ctx, time.Duration(c.rnd.Int64N(int64(2*ackWait))))
		defer cancel()
		ctx = hurried
	}
	r.begun = c.history.now()
	var out object
	r.code, out = c.do(ctx, r.method, path, media, body)
	r.end, r.reason = c.history.now(), out.Reason
	seq, _ := strconv.ParseUint(out.Metadata.ResourceVersion, 10, 64)
	r.seq = events.Seq(seq)
	c.sent = append(c.sent, r)
	return nil
}

// TestAPIOverFaultyNetwork has clients of two apiservers, whose logs are behind
// a network that does everything, read and write the same objects. Each client
// must be told the truth about its own request.
func TestAPIOverFaultyNetwork(t *testing.T) {
	t.Parallel()
	for i := range *seeds {
		seed := *first + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			apiRun(t, seed)
		})
	}
}

func apiRun(t *testing.T, seed uint64) {
	ctx := logtest.Context(t)
	ca, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := startServer(t, t.TempDir())
	h := newHistory()
	var clients []*apiClient
	var relays []*relay
	for n := range 2 {
		r := newRelay(t, s.URL())
		a := serveAPI(t, ca, s.open(t, r.url()))
		relays = append(relays, r)
		for range 3 {
			id := len(clients)
			clients = append(clients, &apiClient{api: a, id: id, history: h, rnd: rand.New(rand.NewPCG(seed, uint64(id)))})
		}
		r.follow(dice(seed<<8+uint64(n), everything))
	}
	var writing errgroup.Group
	for _, c := range clients {
		writing.Go(func() error {
			for n := range 30 {
				if err := c.write(ctx, n); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := writing.Wait(); err != nil {
		t.Error(err)
	}
	var all []request
	for _, c := range clients {
		all = append(all, c.sent...)
	}
	for _, r := range relays {
		r.follow(nil)
	}
	checkAPI(t, all, whole(ctx, t, s.open(t, s.URL())))
	told := map[string]int{}
	for _, r := range all {
		told[fmt.Sprint(r.method, " ", r.code)]++
	}
	t.Logf("told: %v", told)
	report(t, h, relays)
}
