package faults

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/jetstream"
	"github.com/rutterhq/rutter/events/logtest"
	"github.com/rutterhq/rutter/internal/pki"
)

// startThree runs three servers that keep one log, and listen for clients too.
func startThree(t *testing.T) (out [jetstream.Servers]*server) {
	t.Helper()
	ca, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := ca.Issue(pki.Request{CommonName: "server", DNSNames: []string{"server"}, Client: true, Server: true})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	keys := &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: ca.Pool(), ClientCAs: ca.Pool(),
		ClientAuth: tls.RequireAndVerifyClientCert, ServerName: "server"}
	addresses := logtest.Addresses(t, len(out))
	for i := range out {
		s := &server{config: startConfig(t, t.TempDir())}
		join := append(append([]string{}, addresses[:i]...), addresses[i+1:]...)
		s.config.Cluster = &jetstream.ClusterConfig{Name: fmt.Sprintf("s%d", i+1), Listen: addresses[i], Join: join, TLS: keys}
		s.serve(t)
		out[i] = s
	}
	return out
}

// openThree opens the log at a server of three, through a relay or directly.
func (s *server) openThree(t *testing.T, url string) *jetstream.Log {
	t.Helper()
	nc, err := jetstream.Connect(logtest.Context(t), url, s.token)
	if err != nil {
		t.Fatal(err)
	}
	l, err := jetstream.Open(logtest.Context(t), nc, jetstream.Options{Budget: budget, Replicas: jetstream.Servers, AckWait: ackWait})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// TestFaultyNetworkOfThree has clients of three processes, each at another
// server of three, read and write the same objects over a network that does
// everything, while one server after the other is stopped and started. Once at
// least that is who leads the log: what was sent to the one, and its copy that
// comes over a later connection, are judged by different leaders.
func TestFaultyNetworkOfThree(t *testing.T) {
	t.Parallel()
	for i := range (*seeds + 1) / 2 { // three servers take their time
		seed := *first + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			// A follower whose server is stopped may see nothing for longer than
			// logtest has patience: what it is shown then is what is held here.
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
			defer cancel()
			servers := startThree(t)
			l := &load{history: newHistory(), writers: 3, writes: 25, objects: 3, seed: seed}
			var relays []*relay
			for n, s := range servers {
				r := newRelay(t, s.URL())
				l.readers = append(l.readers, newReader(s.openThree(t, r.url())))
				r.follow(dice(seed<<8+uint64(n), everything))
				relays = append(relays, r)
			}
			rolled := make(chan struct{})
			l.until = rolled
			var restarts errgroup.Group
			restarts.Go(func() error {
				defer close(rolled)
				return roll(ctx, servers, l.readers)
			})
			l.run(ctx, t)
			if err := restarts.Wait(); err != nil {
				t.Fatal(err)
			}
			t.Logf("took %s", time.Since(l.history.began))
			l.verify(ctx, t, servers[0].openThree(t, servers[0].URL()))
			report(t, l.history, relays)
		})
	}
}

// roll stops each server and starts it again. Whoever leads is stopped then,
// unless it lost that to another before. Before each some events come, which a
// majority has then.
func roll(ctx context.Context, servers [jetstream.Servers]*server, readers []*reader) error {
	const every = 10 // events
	for _, s := range servers {
		if err := anyMoves(ctx, readers, every); err != nil {
			return err
		}
		if err := errors.Join(s.Close(), s.begin()); err != nil {
			return err
		}
	}
	return nil
}

// anyMoves waits until one of the readers has so many events more.
func anyMoves(ctx context.Context, readers []*reader, more int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	moved := make(chan error, len(readers))
	for _, r := range readers {
		at := events.Seq(len(r.all()) + more)
		go func() { moved <- r.at(ctx, at) }()
	}
	return <-moved
}
