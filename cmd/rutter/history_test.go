package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/jetstream"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// connectService gives a service what one in a process of its own has: the log
// by the credentials of apiserver, and a Mirror of all of it.
func connectService(ctx context.Context, t *testing.T, f *folders, url string, g *errgroup.Group) (*service, *jetstream.Log) {
	t.Helper()
	schema, err := f.schema()
	if err != nil {
		t.Fatal(err)
	}
	nc, err := jetstream.Connect(ctx, url, filepath.Join(f.data, "apiserver.credentials"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := jetstream.Open(ctx, nc, jetstream.Options{Build: build})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	s := &service{log: log, mirror: kernel.NewMirror(log, schema, nil), schema: schema, lg: zerolog.New(zerolog.NewTestWriter(t)), hold: log.Hold}
	g.Go(func() error { return s.mirror.Run(ctx) })
	return s, log
}

// TestLogApartIsKeptSmall has the log's server apart, and a service that writes
// to it: the server keeps states and purges events meanwhile, nothing of the
// past is missing, and who begins now has what the others have.
func TestLogApartIsKeptSmall(t *testing.T) {
	const objects, writes = 7, 300
	f := &folders{data: t.TempDir()}
	server, err := startNATS(f, "127.0.0.1:0", string(jetstream.Interval), zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	var g errgroup.Group
	defer func() {
		cancel()
		if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	a, log := connectService(ctx, t, f, server.URL(), &g)
	own, ownLog, err := apart(ctx, f, server, a.lg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ownLog.Close)
	g.Go(func() error { return own.mirror.Run(ctx) })
	k := own.keeper(ownLog)
	k.Events, k.Least, k.Age, k.Interval = 50, 20, -time.Hour, 20*time.Millisecond
	g.Go(func() error { return k.Run(ctx) })
	end, err := log.Last(ctx)
	for n := 0; n < writes && err == nil; {
		var v *kernel.View
		if v, err = a.mirror.At(ctx, end); err != nil {
			break
		}
		key := kinds.ConfigMaps.Key("default", fmt.Sprint("m", n%objects))
		r := kernel.Record{Key: key, Envelope: events.Envelope{Source: "user:test", Type: "configmap.updated", Seen: v.Seq()},
			Body: fmt.Appendf(nil, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":%q,"namespace":"default"},"data":{"n":"%d"}}`, key.Name, n)}
		if e := v.Entry(key); e != nil {
			r.Expect = e.Seq
		}
		var seq kernel.Seq
		if seq, err = log.Append(ctx, r); err == nil {
			end = seq
			n++
		} else if errors.Is(err, events.ErrGone) { // purged meanwhile: look again
			end, err = log.Last(ctx)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	for gone := false; !gone; { // the log forgets what is before the last state
		for _, err := range log.Follow(ctx, writes/2) {
			if gone = errors.Is(err, events.ErrGone); err != nil && !gone {
				t.Fatal(err)
			}
			break
		}
	}
	if end, err = log.Last(ctx); err != nil {
		t.Fatal(err)
	}
	n := kernel.Seq(0)
	for r, err := range log.Read(ctx, 0, end) {
		if n++; err != nil || r.Seq != n {
			t.Fatalf("event %d of the past: %d, %v", n, r.Seq, err)
		}
	}
	u, err := log.Usage(ctx)
	if err != nil || len(u.Saved) == 0 || u.Budget != server.Budget() {
		t.Errorf("%+v, %v", u, err)
	}
	late, _ := connectService(ctx, t, f, server.URL(), &g)
	now, err := late.mirror.At(ctx, end)
	if err != nil {
		t.Fatal(err)
	}
	then, err := a.mirror.At(ctx, now.Seq())
	if err == nil {
		now, err = late.mirror.At(ctx, then.Seq())
	}
	if err != nil || now.Seq() != then.Seq() || sumOf(now) != sumOf(then) {
		t.Errorf("who begins now has another state at %d than who was there has at %d: %v", now.Seq(), then.Seq(), err)
	}
}
