package main

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/jetstream"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// bent is a log as a server with a bad memory reads it: one bit is another.
type bent struct {
	events.Log
	at kernel.Seq
}

func (b bent) Follow(ctx context.Context, after kernel.Seq) iter.Seq2[kernel.Record, error] {
	return func(yield func(kernel.Record, error) bool) {
		for r, err := range b.Log.Follow(ctx, after) {
			if r.Seq == b.at {
				r.Body = bytes.Replace(r.Body, []byte(`"x"`), []byte(`"y"`), 1)
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

// Three servers fold one log, and one of them wrongly: all of them say which.
func TestStatesAreCompared(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	server, err := jetstream.StartServer(jetstream.ServerConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	nc, err := server.Connect()
	if err != nil {
		t.Fatal(err)
	}
	log, err := jetstream.Open(ctx, nc, jetstream.Options{Budget: server.Budget()})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var all []*comparer
	var said [3]bytes.Buffer
	var g errgroup.Group
	for i := range 3 {
		c := &comparer{server: fmt.Sprintf("s%d", i+1), every: 10, log: log, lg: zerolog.New(&said[i])}
		all = append(all, c)
		var l events.Log = log
		if i == 1 {
			l = bent{log, 25}
		}
		m := kernel.NewMirror(l, &kinds.Schema{}, nil)
		g.Go(func() error { return m.Run(ctx) })
		g.Go(func() error { return c.run(ctx, m) })
		<-m.Ready()
	}
	// Every sum is waited for, so that the next comes after it has been compared.
	for n := range kernel.Seq(70) {
		body := fmt.Appendf(nil, `{"kind":"ConfigMap","metadata":{"name":"a%d","namespace":"default"},"data":{"n":"x"}}`, n)
		_, err := log.Append(ctx, events.Record{Key: events.Key{Resource: events.Resource{Plural: "configmaps"}, Namespace: "default", Name: fmt.Sprintf("a%d", n)},
			Envelope: events.Envelope{Source: "user:test", Type: "object.created", Time: time.Unix(1, 0), Seen: n}, Body: body})
		if err != nil {
			t.Fatal(err)
		}
		for at := (n + 1) / 10 * 10; (n+1)%10 == 0; {
			if sums, err := log.Sums(ctx, at); err != nil || len(sums) == 3 {
				break
			}
		}
	}
	for _, c := range all {
		for { // who posts first at 70 finds nobody to compare with, but all at 60
			var out strings.Builder
			c.metrics(&out)
			if strings.Contains(out.String(), "rutter_state_compared_seq 60\n") || strings.Contains(out.String(), "rutter_state_compared_seq 70\n") {
				break
			}
			if ctx.Err() != nil {
				t.Fatalf("%s: %s", c.server, out.String())
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	stop()
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for i, c := range all {
		if c.differs == 0 || len(c.odd) != 1 || c.odd[0] != "s2" || !strings.Contains(said[i].String(), `"servers":["s2"]`) {
			t.Errorf("%s: %d differences, odd: %v, said: %s", c.server, c.differs, c.odd, &said[i])
		}
		for _, line := range strings.Split(said[i].String(), "\n") {
			if strings.Contains(line, `"seq":10,`) || strings.Contains(line, `"seq":20,`) {
				t.Errorf("%s: a difference before there was one: %s", c.server, line)
			}
		}
	}
}
