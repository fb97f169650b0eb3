package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"iter"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/jetstream"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

const (
	canary  = "canary-e1f7a30b92c4d856"
	secrets = "/api/v1/namespaces/default/secrets"
)

// sings tells whether the canary stands in something: as text, or in any text in
// base64, wherever in it the canary begins.
func sings(in []byte) bool {
	if bytes.Contains(in, []byte(canary)) {
		return true
	}
	for _, code := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for shift := range 3 {
			whole := code.EncodeToString([]byte("xx"[:shift] + canary))
			// What precedes and follows has a part in the first and last digits.
			if bytes.Contains(in, []byte(whole[2*shift:len(whole)-1])) {
				return true
			}
		}
	}
	return false
}

// TestNothingKeptTells puts Secrets into a log on disk as clients do, and has it
// keep states of them and forget its beginning. Files do not show what is in
// compressed blocks and states, so every part of the log is read as whoever has
// the disk could: the canary is nowhere in it. Once a Secret is gone, nobody can
// read any more what it was.
func TestNothingKeptTells(t *testing.T) {
	data := t.TempDir()
	p := startPlane(t, data)
	defer func() { p.stop() }()
	p.putSecret("goes")
	p.putSecret("stays")
	for i := range 10 { // history compresses a block once 8 MiB follow
		p.want(http.StatusCreated, "POST", maps, fmt.Sprintf(`{"metadata":{"name":"filler%d"},"data":{"x":%q}}`, i, strings.Repeat(fmt.Sprint(i), 900_000)))
	}
	filled := p.last()
	p.keep()
	p.keep()
	p.putSecret("late") // so that the log itself has one too, and not only its past
	alive := p.last()
	p.search("while they live", filled, map[string]int{jetstream.HistName: 9, jetstream.StreamName: 3, jetstream.SnapName: 2})
	if got := p.readable(alive); got != "goes late stays" {
		t.Errorf("while they live, who may can read the past of %q", got)
	}
	p.want(http.StatusOK, "DELETE", secrets+"/goes", "")
	for deadline := time.Now().Add(20 * time.Second); strings.Contains(p.readable(alive), "goes"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the past of a Secret that is gone can still be read")
		}
	}
	gone := p.last()
	p.keep()
	p.keep()
	for _, when := range []string{"once it is gone", "after a restart"} {
		p.search(when, gone, map[string]int{jetstream.HistName: 10, jetstream.SnapName: 3})
		if got := p.readable(alive); got != "late stays" {
			t.Errorf("%s, who may can read the past of %q", when, got)
		}
		p.stop()
		p = startPlane(t, data)
	}
}

func (p *plane) last() kernel.Seq {
	p.t.Helper()
	last, err := p.log.Last(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	return last
}

func (p *plane) want(code int, method, path, body string) {
	p.t.Helper()
	contentType := "application/json"
	if method == "PATCH" {
		contentType = "application/apply-patch+yaml"
	}
	if got, out := p.do(method, path, contentType, body); got != code {
		p.t.Fatalf("%s %s: %d %.300s", method, path, got, out)
	}
}

// putSecret writes a Secret in all ways in which clients do.
func (p *plane) putSecret(name string) {
	p.t.Helper()
	object := func(more string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":%q%s},"stringData":{"password":%q}}`, name, more, canary)
	}
	p.want(http.StatusCreated, "POST", secrets, object(""))
	p.want(http.StatusOK, "PUT", secrets+"/"+name, object(fmt.Sprintf(`,"annotations":{"kubectl.kubernetes.io/last-applied-configuration":%q}`, object(""))))
	p.want(http.StatusOK, "PATCH", secrets+"/"+name+"?fieldManager=test&force=true", object(`,"labels":{"a":"b"}`))
}

// search reads every event of the log and of history, and every state that was
// kept, one of which must be of a position or later. So many of them, at least,
// must be of Secrets.
func (p *plane) search(when string, kept kernel.Seq, least map[string]int) {
	p.t.Helper()
	nc, err := p.server.Connect()
	if err != nil {
		p.t.Fatal(err)
	}
	defer nc.Close()
	seen := map[string]int{}
	look := func(part string, seq uint64, subject string, header nats.Header, body []byte) {
		if strings.Contains(subject, "secrets") {
			seen[part]++
		}
		if sings(body) || sings([]byte(fmt.Sprint(subject, header))) {
			p.t.Errorf("%s, event %d in %s tells: %s %.400s", when, seq, part, subject, body)
		}
	}
	for _, stream := range []string{jetstream.StreamName, jetstream.HistName} {
		for m := range p.messages(nc, stream) {
			at, err := m.Metadata()
			if err != nil {
				p.t.Fatal(err)
			}
			look(stream, at.Sequence.Stream, m.Subject(), m.Headers(), m.Data())
		}
	}
	var usage events.Usage
	for usage.Saved == nil || usage.Saved[len(usage.Saved)-1].Seq < kept { // it is measured once per second
		if usage, err = p.log.Usage(p.t.Context()); err != nil {
			p.t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	for _, s := range usage.Saved {
		at, state, err := p.log.Snapshot(p.t.Context(), s.Seq)
		if err != nil || at != s.Seq {
			p.t.Fatalf("the state at %d: %d, %v", s.Seq, at, err)
		}
		for r, err := range state {
			if err != nil {
				p.t.Fatal(err)
			}
			look(jetstream.SnapName, uint64(r.Seq), r.Key.Subject(), r.Headers(), r.Body)
		}
	}
	for part, n := range least {
		if seen[part] < n {
			p.t.Errorf("%s, %s has %d events of Secrets, want %d or more", when, part, seen[part], n)
		}
	}
	packed, err := filepath.Glob(filepath.Join(p.f.log(), "jetstream", "*", "streams", jetstream.HistName, "msgs", "1.blk"))
	if err != nil || len(packed) != 1 {
		p.t.Fatalf("history's first block: %v, %v", packed, err)
	}
	if b, err := os.ReadFile(packed[0]); err != nil || !bytes.HasPrefix(b, []byte("cmp")) {
		p.t.Errorf("%s, history's first block is not compressed: %v", when, err)
	}
}

// messages reads all that a stream holds.
func (p *plane) messages(nc *nats.Conn, stream string) iter.Seq[js.Msg] {
	return func(yield func(js.Msg) bool) {
		api, err := js.New(nc)
		if err != nil {
			p.t.Fatal(err)
		}
		c, err := api.OrderedConsumer(p.t.Context(), stream, js.OrderedConsumerConfig{})
		if err != nil {
			p.t.Fatal(err)
		}
		for {
			m, err := c.Next(js.FetchMaxWait(10 * time.Second))
			if err != nil {
				p.t.Fatalf("stream %s: %v", stream, err)
			}
			at, err := m.Metadata()
			if err != nil {
				p.t.Fatal(err)
			}
			if !yield(m) || at.NumPending == 0 {
				return
			}
		}
	}
}

// readable names the Secrets whose values can be read at a position of the past:
// by the API, or with the keys that there are from any event up to there.
func (p *plane) readable(at kernel.Seq) string {
	p.t.Helper()
	var names []string
	for _, name := range []string{"goes", "late", "stays"} {
		_, out := p.do("GET", fmt.Sprintf("/rutter/v1/at/%d%s/%s", at, secrets, name), "", "")
		opened := sings([]byte(out))
		for r, err := range p.log.ReadKey(p.t.Context(), kinds.Secrets.Key("default", name), 0, at) {
			if err != nil {
				p.t.Fatal(err)
			}
			o, err := p.schema.Decode(r.Key, r.Body)
			if err != nil {
				p.t.Fatal(err)
			}
			opened = opened || sings(o.(*corev1.Secret).Data["password"])
		}
		if opened {
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}
