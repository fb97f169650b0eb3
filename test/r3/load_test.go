//go:build e2e

package r3

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/rutterhq/rutter/events"
)

const (
	writersPerServer = 2
	objectsShared    = 3 // that all writers write
	// writePause is between two writes of one writer: the machine that runs
	// the tests has other things to do.
	writePause = 5 * time.Millisecond
	// askTimeout bounds one request: longer than a server takes to refuse.
	askTimeout = 15 * time.Second
)

const collection = "/api/v1/namespaces/default/configmaps"

// configMap is what is written.
type configMap struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name            string `json:"name"`
		ResourceVersion string `json:"resourceVersion,omitempty"`
	} `json:"metadata"`
	Data map[string]string `json:"data"`
}

func (c *configMap) seq() events.Seq {
	n, _ := strconv.ParseUint(c.Metadata.ResourceVersion, 10, 64)
	return events.Seq(n)
}

// told is what a client was told of one write.
type told struct {
	name, value string
	seq         events.Seq // if it was acknowledged
	outcome     outcome
}

type outcome int

const (
	acknowledged outcome = iota
	refused              // it was said that nothing was written
	unknown
)

// load is writers, readers and watchers, and what they were told.
type load struct {
	t       *testing.T
	clients [3]*rest.Config
	serial  atomic.Int64

	mu      sync.Mutex // protects the following fields
	tolds   []told
	newest  map[string]events.Seq // by object: of what was acknowledged or read
	watched [3]map[events.Seq]string
	errors  []string // what must not be
	slowest time.Duration
	reads   int
	codes   map[int]int
}

// newLoad makes one on three servers' kubeconfigs.
func newLoad(t *testing.T, kubeconfigs [3]string, hosts [3]string) *load {
	t.Helper()
	l := &load{t: t, newest: map[string]events.Seq{}, codes: map[int]int{}}
	for i, file := range kubeconfigs {
		c, err := clientcmd.BuildConfigFromFlags("", file)
		if err != nil {
			t.Fatal(err)
		}
		c.Host = hosts[i]
		l.clients[i], l.watched[i] = c, map[events.Seq]string{}
	}
	return l
}

func (l *load) wrong(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.errors) < 20 {
		l.errors = append(l.errors, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
	}
}

// run loads all servers until ctx ends, and returns when all clients have.
func (l *load) run(ctx context.Context) {
	var wg sync.WaitGroup
	for i := range l.clients {
		for w := range writersPerServer {
			wg.Go(func() { l.write(ctx, i, fmt.Sprintf("s%d-w%d", i+1, w)) })
		}
		wg.Go(func() { l.read(ctx, i) })
		wg.Go(func() { l.watch(ctx, i) })
	}
	wg.Wait()
}

func (l *load) client(i int) *http.Client {
	c, err := rest.HTTPClientFor(l.clients[i])
	if err != nil {
		l.t.Error(err)
		return http.DefaultClient
	}
	return c
}

// readyPath answers 500 to say that a server is not ready, as in Kubernetes.
const readyPath = "/readyz"

// ask sends one request and returns what was answered; code 0: nothing was.
func (l *load) ask(ctx context.Context, c *http.Client, i int, method, path string, body any) (code int, answer []byte) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var in bytes.Buffer
	if body != nil {
		_ = json.NewEncoder(&in).Encode(body) // strings
	}
	req, err := http.NewRequestWithContext(ctx, method, l.clients[i].Host+path, &in)
	if err != nil {
		l.wrong("%v", err)
		return 0, nil
	}
	req.Header.Set("Content-Type", "application/json")
	begun := time.Now()
	res, err := c.Do(req)
	if err != nil {
		return 0, nil
	}
	defer res.Body.Close()
	answer, err = io.ReadAll(res.Body)
	if err != nil {
		return 0, nil
	}
	if res.StatusCode == http.StatusInternalServerError && path != readyPath {
		l.wrong("%s %s: %s", method, path, answer)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.codes[res.StatusCode]++
	l.slowest = max(l.slowest, time.Since(begun))
	return res.StatusCode, answer
}

// saw notes the newest event of an object that anybody was told of.
func (l *load) saw(name string, seq events.Seq) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.newest[name] = max(l.newest[name], seq)
}

// write changes objects at one server: some of its own, and some that all do.
func (l *load) write(ctx context.Context, i int, who string) {
	c := l.client(i)
	names := []string{who + "-a", who + "-b"}
	for n := range objectsShared {
		names = append(names, fmt.Sprintf("shared-%d", n))
	}
	has := map[string]configMap{}
	for ctx.Err() == nil {
		name := names[rand.IntN(len(names))]
		old, known := has[name]
		if !known {
			code, b := l.ask(ctx, c, i, http.MethodGet, collection+"/"+name, nil)
			if code == http.StatusOK && json.Unmarshal(b, &old) == nil {
				has[name] = old
			} else if code != http.StatusNotFound {
				pause(ctx, 20*writePause)
				continue
			}
		}
		w := told{name: name, value: strconv.FormatInt(l.serial.Add(1), 10), outcome: unknown}
		now := configMap{APIVersion: "v1", Kind: "ConfigMap", Data: map[string]string{"n": w.value}}
		now.Metadata.Name, now.Metadata.ResourceVersion = name, old.Metadata.ResourceVersion
		method, path := http.MethodPut, collection+"/"+name
		if now.Metadata.ResourceVersion == "" {
			method, path = http.MethodPost, collection
		}
		code, b := l.ask(ctx, c, i, method, path, &now)
		delete(has, name)
		var got configMap
		switch {
		case code == http.StatusOK || code == http.StatusCreated:
			if err := json.Unmarshal(b, &got); err != nil || got.seq() == 0 {
				l.wrong("%s of %s was answered with %s", method, name, b)
			}
			w.outcome, w.seq, has[name] = acknowledged, got.seq(), got
			l.saw(name, w.seq)
		case code == http.StatusConflict || code == http.StatusNotFound:
			w.outcome = refused
		case code != 0 && code != http.StatusServiceUnavailable && code != http.StatusGatewayTimeout:
			l.wrong("%s of %s: %d %s", method, name, code, b)
		}
		l.mu.Lock()
		l.tolds = append(l.tolds, w)
		l.mu.Unlock()
		pause(ctx, writePause)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// read reads at one server: never what is older than what was acknowledged or
// read anywhere before it asked.
func (l *load) read(ctx context.Context, i int) {
	c := l.client(i)
	for ctx.Err() == nil {
		name := fmt.Sprintf("shared-%d", rand.IntN(objectsShared))
		l.mu.Lock()
		least := l.newest[name]
		l.mu.Unlock()
		code, b := l.ask(ctx, c, i, http.MethodGet, collection+"/"+name, nil)
		var got configMap
		switch {
		case code == http.StatusOK && json.Unmarshal(b, &got) == nil:
			if got.seq() < least {
				l.wrong("s%d read %s at %d, and %d had been told of before", i+1, name, got.seq(), least)
			}
			l.saw(name, got.seq())
			l.mu.Lock()
			l.reads++
			l.mu.Unlock()
		case code == http.StatusNotFound && least > 0:
			l.wrong("s%d does not have %s, and %d had been told of before", i+1, name, least)
		}
		pause(ctx, 4*writePause)
	}
}

// watch follows one server's ConfigMaps for as long as it can.
func (l *load) watch(ctx context.Context, i int) {
	c := l.client(i)
	at := events.Seq(0)
	for ctx.Err() == nil {
		if at == 0 {
			code, b := l.ask(ctx, c, i, http.MethodGet, collection, nil)
			var list configMap
			if code != http.StatusOK || json.Unmarshal(b, &list) != nil {
				pause(ctx, 20*writePause)
				continue
			}
			at = list.seq()
		}
		at = l.watchFrom(ctx, c, i, at)
		pause(ctx, 20*writePause)
	}
}

// watchFrom watches until the stream breaks, and returns where: 0 if it must
// list anew.
func (l *load) watchFrom(ctx context.Context, c *http.Client, i int, at events.Seq) events.Seq {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s%s?watch=1&resourceVersion=%d", l.clients[i].Host, collection, at), nil)
	if err != nil {
		l.wrong("%v", err)
		return at
	}
	res, err := c.Do(req)
	if err != nil {
		return at
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusGone:
		return 0
	default:
		return at
	}
	for d := json.NewDecoder(res.Body); ; {
		var e struct {
			Type   string    `json:"type"`
			Object configMap `json:"object"`
		}
		switch err := d.Decode(&e); {
		case err != nil:
			return at
		case e.Type == "ERROR":
			return 0
		case e.Object.seq() <= at:
			l.wrong("s%d's watch gave %d after %d", i+1, e.Object.seq(), at)
		}
		at = e.Object.seq()
		l.mu.Lock()
		l.watched[i][at] = e.Object.Metadata.Name + "=" + e.Object.Data["n"]
		l.mu.Unlock()
	}
}
