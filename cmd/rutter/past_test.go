package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/jetstream"
	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/internal/pki"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/apiserver"
)

// plane is a log on disk with an apiserver over it, in one process as in
// `rutter up`, without a node.
type plane struct {
	t      testing.TB
	f      folders
	url    string
	http   *http.Client
	server *jetstream.Server
	schema *kinds.Schema
	log    *jetstream.Log
	mirror *kernel.Mirror
	stop   func()
}

func startPlane(t testing.TB, data string) *plane {
	t.Helper()
	p := &plane{t: t, f: folders{data: data, run: filepath.Join(data, "run")}}
	lg := zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	schema, err := p.f.schema()
	check(err)
	ca, err := pki.Open(p.f.pki())
	check(err)
	server, err := startNATS(&p.f, "", "interval", lg)
	check(err)
	p.server, p.schema = server, schema
	nc, err := server.Connect()
	check(err)
	p.log, err = jetstream.Open(t.Context(), nc, jetstream.Options{Budget: pastBudget, Build: build})
	check(err)
	schema.Keys, err = p.log.Keys(t.Context(), schema.Seal)
	check(err)
	p.mirror = kernel.NewMirror(p.log, schema, nil)
	s := &service{log: p.log, mirror: p.mirror, schema: schema, lg: lg}
	var api *apiserver.Server
	api, p.url, err = s.apiserver(&p.f, &apiFlags{listen: "127.0.0.1:0", advertise: "127.0.0.1"}, ca)
	check(err)
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { return p.mirror.Run(ctx) })
	g.Go(func() error { return api.Run(ctx) })
	p.stop = func() {
		cancel()
		check(g.Wait())
		p.log.Close()
		check(server.Close())
	}
	<-api.Started()
	cert, key, err := ca.Issue(pki.Request{CommonName: "admin", Organizations: []string{"system:masters"}, Client: true})
	check(err)
	pair, err := tls.X509KeyPair(cert, key)
	check(err)
	p.http = &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{pair}}}}
	return p
}

// open sends a request and returns the answer, whose body the caller closes.
func (p *plane) open(method, path, contentType, body string) *http.Response {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.url+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := p.http.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	return res
}

func (p *plane) do(method, path, contentType, body string) (int, string) {
	p.t.Helper()
	res := p.open(method, path, contentType, body)
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return res.StatusCode, string(out)
}

// rutter runs a command line.
func (p *plane) rutter(args ...string) string {
	p.t.Helper()
	var out bytes.Buffer
	c := root()
	c.SetOut(&out)
	c.SetArgs(append(args, "--kubeconfig", p.f.kubeconfig()))
	if err := c.ExecuteContext(p.t.Context()); err != nil {
		p.t.Errorf("rutter %s: %v", strings.Join(args, " "), err)
	}
	return out.String()
}

// keep lets the log forget all that is older than now.
func (p *plane) keep() {
	p.t.Helper()
	k := history.DefaultKeeper(p.log, p.mirror, func(err error) { p.t.Error(err) })
	k.Events, k.Least, k.Age = 1, 1, -time.Hour
	for range 2 { // a state and the horizon, then the purge up to it
		if err := k.Look(p.t.Context(), time.Now()); err != nil {
			p.t.Fatal(err)
		}
		p.settle()
	}
}

// meta is what the test looks at of an object.
type meta struct {
	Metadata struct {
		Name            string `json:"name"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	Data map[string]string `json:"data"`
}

// told is one event as a recorder notes it that was there when it happened.
type told struct {
	Seq  kernel.Seq
	Kind string
	Name string
	Data string
}

func (m *meta) told(t testing.TB, kind string) told {
	seq, err := strconv.ParseUint(m.Metadata.ResourceVersion, 10, 64)
	if err != nil {
		t.Error(err)
	}
	return told{kernel.Seq(seq), kind, m.Metadata.Name, m.Data["i"]}
}

const maps = "/api/v1/namespaces/default/configmaps"

// churn creates, changes and deletes ConfigMaps at random.
func (p *plane) churn(random *rand.Rand, n int) {
	p.t.Helper()
	for i := range n {
		name := fmt.Sprint("m", random.IntN(15))
		body := fmt.Sprintf(`{"metadata":{"name":%q},"data":{"i":"%d"}}`, name, i)
		code, out := p.do("POST", maps, "application/json", body)
		if code == 409 && random.IntN(3) == 0 {
			code, out = p.do("DELETE", maps+"/"+name, "", "")
		} else if code == 409 {
			code, out = p.do("PATCH", maps+"/"+name, "application/merge-patch+json", body)
		}
		if code/100 != 2 {
			p.t.Fatalf("%s: %d %s", name, code, out)
		}
	}
}

// watched reads a watch up to the object named "end".
func (p *plane) watched(from kernel.Seq) (all []told) {
	for {
		res := p.open("GET", fmt.Sprintf("%s?watch=1&resourceVersion=%d", maps, from), "", "")
		if res.StatusCode == 429 {
			res.Body.Close()
			continue
		}
		defer res.Body.Close()
		for lines := bufio.NewScanner(res.Body); lines.Scan(); {
			var e struct {
				Type   string
				Object meta
			}
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.Type == "ERROR" {
				p.t.Errorf("from %d: %v %s", from, err, lines.Bytes())
				return all
			}
			all = append(all, e.Object.told(p.t, e.Type))
			if e.Object.Metadata.Name == "end" {
				return all
			}
		}
		p.t.Errorf("a watch from %d ended after %d events", from, len(all))
		return all
	}
}

var pastWrites = flag.Int("past", 350, "how many random writes TestThePastOfALogOnDisk makes")

// pastBudget has the log begin a file every 4 MB, the least that it takes for
// more than some kB. What is in one file with what stays is not forgotten, but
// if that has less than 1 MB: 9,000 writes do, or few.
const pastBudget = 24 << 20

// TestThePastOfALogOnDisk lets a log on disk forget its beginning twice, starts
// everything again, and compares what can be read of the past with what a watch
// was told that was there.
func TestThePastOfALogOnDisk(t *testing.T) {
	data := t.TempDir()
	p := startPlane(t, data)
	first, err := p.log.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var live []told
	var g errgroup.Group
	g.Go(func() error { live = p.watched(first); return nil })
	random := rand.New(rand.NewPCG(1, 2))
	p.do("POST", maps, "application/json", `{"metadata":{"name":"gone"}}`)
	p.do("DELETE", maps+"/gone", "", "")
	p.churn(random, *pastWrites/7*3)
	p.keep()
	p.churn(random, *pastWrites/7*3)
	p.keep()
	p.churn(random, *pastWrites/7)
	p.do("POST", maps, "application/json", `{"metadata":{"name":"end"}}`)
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	p.stop()
	p = startPlane(t, data)
	defer func() { p.stop() }()
	last := live[len(live)-1].Seq
	for _, err := range p.log.Follow(t.Context(), first) {
		if !errors.Is(err, events.ErrGone) {
			t.Fatalf("the log has not forgotten its beginning: %v", err)
		}
		break
	}
	for range *pastWrites / 9 {
		from := first + kernel.Seq(random.Uint64N(uint64(last-first)))
		var want []told
		objects := map[string]string{}
		for _, e := range live {
			if e.Seq > from {
				want = append(want, e)
			} else if objects[e.Name] = e.Data; e.Kind == "DELETED" {
				delete(objects, e.Name)
			}
		}
		if diff := cmp.Diff(want, p.watched(from)); diff != "" {
			t.Errorf("a watch from %d (-live +late):\n%s", from, diff)
		}
		code, out := p.do("GET", fmt.Sprintf("%s?resourceVersion=%d&resourceVersionMatch=Exact", maps, from), "", "")
		var list struct{ Items []meta }
		if err := json.Unmarshal([]byte(out), &list); err != nil || code != 200 {
			t.Fatalf("a list at %d: %d %v %s", from, code, err, out)
		}
		got := map[string]string{}
		for _, o := range list.Items {
			if !strings.Contains(o.Metadata.Name, "kube-root") {
				got[o.Metadata.Name] = o.Data["i"]
			}
		}
		if diff := cmp.Diff(objects, got); diff != "" {
			t.Errorf("the list at %d (-recorded +read):\n%s", from, diff)
		}
	}
	p.look(last)
}

// look asks the commands about a past whose beginning the log has forgotten.
func (p *plane) look(last kernel.Seq) {
	p.t.Helper()
	for _, c := range []struct{ args, says string }{
		{"why configmaps/gone", "configmap.deleted configmaps/default/gone"},
		{"diff configmaps/gone", "configmap.created configmaps/default/gone"},
		{"log --object configmaps/gone", "configmap.created configmaps/default/gone"},
		{"log --tail 1 --object configmaps/end", "configmap.created configmaps/default/end"},
		{"get configmaps/end --at " + fmt.Sprint(last), "end"},
		{"get configmaps --at -0s", "end"},
		{"history", "until now, "},
		{"history --keep 36h --bytes 1Gi", "keep      1d12h, at most 1.0 GiB"},
		{"history", "keep      1d12h, at most 1.0 GiB"},
	} {
		if out := p.rutter(strings.Fields(c.args)...); !strings.Contains(out, c.says) {
			p.t.Errorf("rutter %s: %q is not in\n%s", c.args, c.says, out)
		}
	}
	var h struct {
		First, Last kernel.Seq
		Bytes       int64
		Used        int64
		Budget      int64
		Snapshots   []struct{ Seq kernel.Seq }
	}
	if out := p.rutter("history", "-o", "json"); json.Unmarshal([]byte(out), &h) != nil || h.First != 1 || h.Last < last ||
		h.Bytes <= 0 || h.Used <= 0 || h.Budget < h.Used || len(h.Snapshots) == 0 {
		p.t.Errorf("rutter history -o json: %s", out)
	}
}

// BenchmarkPast reads from a log on disk with 50,000 events of a kilobyte about
// 5,000 objects, whose newest state but one was kept in its middle.
//
//	get    one object at a random position: rebuilding the View is what it takes
//	watch  from a random position up to the next event there
func BenchmarkPast(b *testing.B) {
	const objects, all = 5_000, 50_000
	p := startPlane(b, b.TempDir())
	defer func() { p.stop() }()
	begin, err := p.log.Last(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	p.append(objects, all/2)
	p.keep()
	p.append(objects, all/2)
	p.keep()
	random := rand.New(rand.NewPCG(1, 2))
	at := func() kernel.Seq { return begin + objects + kernel.Seq(random.Uint64N(all-objects-2)) }
	b.Run("get", func(b *testing.B) {
		for b.Loop() {
			path := fmt.Sprintf("%s/m%d?resourceVersion=%d&resourceVersionMatch=Exact", maps, random.IntN(objects), at())
			if code, out := p.do("GET", path, "", ""); code != 200 {
				b.Fatalf("%s: %d %s", path, code, out)
			}
		}
	})
	b.Run("watch", func(b *testing.B) {
		for b.Loop() {
			res := p.open("GET", fmt.Sprintf("%s?watch=1&resourceVersion=%d", maps, at()), "", "")
			if _, err := bufio.NewReader(res.Body).ReadString('\n'); err != nil || res.StatusCode != 200 {
				b.Fatal(res.Status, err)
			}
			res.Body.Close()
		}
	})
}

// append writes n events about ConfigMaps in turn, as many at a time as a
// decider does.
func (p *plane) append(objects, n int) {
	p.t.Helper()
	v := p.mirror.View()
	last := make([]kernel.Seq, objects)
	for o := range objects {
		if e := v.Entry(kinds.ConfigMaps.Key("default", fmt.Sprint("m", o))); e != nil {
			last[o] = e.Seq
		}
	}
	filler := strings.Repeat("x", 900)
	for round := range n / objects {
		var g errgroup.Group
		g.SetLimit(128)
		for o := range objects {
			g.Go(func() (err error) {
				key := kinds.ConfigMaps.Key("default", fmt.Sprint("m", o))
				last[o], err = p.log.Append(p.t.Context(), kernel.Record{Key: key, Expect: last[o],
					Envelope: events.Envelope{ID: fmt.Sprint(key.Name, "-", last[o]), Source: "user:bench", Type: "configmap.updated", Time: time.Now(), Seen: max(last[o], v.Seq())},
					Body:     fmt.Appendf(nil, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":%q,"namespace":"default"},"data":{"i":"%d","x":%q}}`, key.Name, round, filler)})
				return err
			})
		}
		if err := g.Wait(); err != nil {
			p.t.Fatal(err)
		}
	}
	p.settle()
}

// settle waits until the Mirror has all that is in the log.
func (p *plane) settle() {
	p.t.Helper()
	end, err := p.log.Last(p.t.Context())
	if err == nil {
		_, err = p.mirror.At(p.t.Context(), end)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}
