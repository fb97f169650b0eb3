package jetstream

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

var secret = bytes.Repeat([]byte{7}, events.KeySize)

func TestKeys(t *testing.T) {
	t.Parallel()
	s := startServer(t, ServerConfig{})
	logtest.Keys(t, func(t *testing.T) events.Keys { return openKeys(t, openIn(t, s)) })
}

func openKeys(t *testing.T, l *Log) *Keys {
	t.Helper()
	k, err := l.Keys(t.Context(), secret)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestKeysAtRest looks for keys in the server's files: a wrapped one, until it
// is destroyed, and never a bare one.
func TestKeysAtRest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, ServerConfig{Dir: dir})
	l := openIn(t, s)
	k := openKeys(t, l)
	for _, id := range []string{"goes", "stays"} {
		if err := k.Make(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	wrapped := map[string][]byte{}
	for _, id := range []string{"goes", "stays"} {
		m, err := k.stream.GetLastMsgForSubject(t.Context(), keysSubject+id)
		if err != nil {
			t.Fatal(err)
		}
		wrapped[id] = m.Data
		if !inFiles(t, dir, m.Data) || inFiles(t, dir, k.Key(id)) {
			t.Fatalf("key %s: wrapped in a file %v, bare %v; want true, false", id, inFiles(t, dir, m.Data), inFiles(t, dir, k.Key(id)))
		}
	}
	if err := k.Destroy(t.Context(), "goes"); err != nil {
		t.Fatal(err)
	}
	if inFiles(t, dir, wrapped["goes"]) {
		t.Error("a key that was destroyed is still in a file")
	}
	if !inFiles(t, dir, wrapped["stays"]) {
		t.Error("another key went with it")
	}
	if other, err := l.Keys(t.Context(), bytes.Repeat([]byte{8}, events.KeySize)); err != nil {
		t.Error(err)
	} else if other.Key("stays") != nil || other.Make(t.Context(), "stays") == nil {
		t.Error("another cluster's secret opens the keys")
	}
}

func inFiles(t *testing.T, dir string, what []byte) bool {
	t.Helper()
	found := false
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		found = found || bytes.Contains(b, what)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestKeysAreDurable counts what is synced before Make and Destroy return.
func TestKeysAreDurable(t *testing.T) {
	t.Parallel()
	var synced []string
	s := startServer(t, ServerConfig{sync: func(f *os.File, folder bool) error {
		synced = append(synced, f.Name())
		return syncDisk(f, folder)
	}})
	k := openKeys(t, openIn(t, s))
	for _, step := range []struct {
		name string
		do   func(context.Context, string) error
	}{{"Make", k.Make}, {"Destroy", k.Destroy}} {
		synced = nil
		if err := step.do(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		block := false
		for _, path := range synced {
			block = block || filepath.Base(filepath.Dir(filepath.Dir(path))) == keysStream && filepath.Ext(path) == blockSuffix
		}
		if !block {
			t.Errorf("%s returned, and of its block nothing was synced: %v", step.name, synced)
		}
	}
}

// TestKeyWaitsForTheServer asks for a key while there is no connection: "there
// is none" would be believed, so there must be no answer until there is one.
func TestKeyWaitsForTheServer(t *testing.T) {
	t.Parallel()
	s := startServer(t, ServerConfig{Listen: "127.0.0.1:0"})
	direct := openKeys(t, openIn(t, s))
	if err := direct.Make(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	p := newProxy(t, s.URL())
	l := dial(t, s, "nats://"+p.listener.Addr().String(), Options{})
	k := openKeys(t, l)
	down := l.disconnected()
	if err := p.listener.Close(); err != nil {
		t.Fatal(err)
	}
	p.cut()
	<-down
	got := make(chan []byte, 1)
	go func() { got <- k.Key("a") }()
	select {
	case key := <-got:
		t.Fatalf("without a connection the key is %x", key)
	case <-time.After(300 * time.Millisecond): // it has asked more than once
	}
	ln, err := net.Listen("tcp", p.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	p.listener = ln
	t.Cleanup(func() { _ = ln.Close(); p.cut() })
	go p.run()
	if key := <-got; !bytes.Equal(key, direct.Key("a")) {
		t.Errorf("the key is %x", key)
	}
}

// TestADestroyedKeyIsForgotten has somebody read a key without pause while it is
// destroyed: what is read in that moment must not stay in memory.
func TestADestroyedKeyIsForgotten(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	k := openKeys(t, openIn(t, startServer(t, ServerConfig{})))
	for i := range 20 {
		id := fmt.Sprint("k", i)
		if err := k.Make(ctx, id); err != nil {
			t.Fatal(err)
		}
		reading, stop := context.WithCancel(ctx)
		var reader sync.WaitGroup
		for range 4 {
			reader.Go(func() {
				for reading.Err() == nil {
					k.Key(id)
				}
			})
		}
		err := k.Destroy(ctx, id)
		stop()
		reader.Wait()
		if err != nil || k.Key(id) != nil {
			t.Fatalf("key %d is there after it was destroyed: %v", i, err)
		}
	}
}
