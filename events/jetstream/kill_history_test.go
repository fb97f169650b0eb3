package jetstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// TestKilledHistory kills the server again and again while history, in small
// compressed blocks, grows at its end and loses its beginning, and then reads
// all of it: what it has is what the log had.
func TestKilledHistory(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, uint64(*kills)))
	dir, ctx := t.TempDir(), t.Context()
	listen := logtest.Addresses(t, 1)[0]
	p := startProcess(t, dir, listen)
	defer func() { p.kill() }()
	token := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(token, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := dialFile(t, p.url, token, Options{Budget: 1 << 30})
	shrinkHistory(t, l)
	var acked sync.Map // IDs by Seq
	var all sync.WaitGroup
	running, stop := context.WithCancel(ctx)
	defer all.Wait()
	defer stop()
	for w := range 8 {
		all.Go(func() {
			for at := events.Seq(0); running.Err() == nil; {
				r := logtest.Record(fmt.Sprintf("o%d", w), at)
				r.Body = []byte(strings.Repeat("x", int(at)*977%20_000))
				seq, err := l.Append(running, r)
				if err != nil {
					if running.Err() == nil {
						t.Error(err)
					}
					return
				}
				acked.Store(seq, r.ID)
				at = seq
			}
		})
	}
	ends, packs := 0, 0
	for range *kills {
		if err := wait(ctx, time.Duration(rng.IntN(150))*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		p.kill()
		n, packed := endsPacked(t, historyIn(t, dir))
		packs += n
		if packed {
			ends++
		}
		p = startProcess(t, dir, listen)
		if err := readHistory(ctx, l, &acked); err != nil {
			t.Fatal(err)
		}
	}
	last, err := l.Last(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d kills, %d events, %d compressed blocks seen; after %d kills the last one was", *kills, last, packs, ends)
}

// endsPacked tells how many of a folder's blocks are compressed, and whether
// the last one is that holds anything.
func endsPacked(t *testing.T, dir string) (n int, ends bool) {
	t.Helper()
	blocks, packed := packedBlocks(t, dir)
	for i := len(blocks) - 1; i >= 0; i-- {
		if slices.Contains(packed, blocks[i]) {
			return len(packed), true
		}
		nothing, err := new(committer).holdsNothing(blockPath(dir, blocks[i]), fmt.Sprintf("%s-%d", HistName, blocks[i]))
		if err != nil {
			t.Fatal(err)
		}
		if !nothing {
			break
		}
	}
	return len(packed), false
}

// shrinkHistory has history kept in blocks of 32 kB from the next start on, of
// which there are no more than four.
func shrinkHistory(t *testing.T, l *Log) {
	t.Helper()
	hist, err := l.history(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := hist.CachedInfo().Config
	c.MaxBytes = 120_000
	if _, err := l.past.api.UpdateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// readHistory reads every event that history says it has.
func readHistory(ctx context.Context, l *Log, acked *sync.Map) error {
	hist, err := l.history(ctx)
	if err != nil {
		return err
	}
	info, err := hist.Info(ctx)
	for end := time.Now().Add(apiTimeout); err != nil; info, err = hist.Info(ctx) { // it connects
		if werr := wait(ctx, retryPause); werr != nil || time.Now().After(end) {
			return errors.Join(werr, err)
		}
	}
	for seq := info.State.FirstSeq; seq > 0 && seq <= info.State.LastSeq; seq++ {
		m, err := hist.GetMsg(ctx, seq)
		if errors.Is(err, js.ErrMsgNotFound) {
			now, err := hist.Info(ctx)
			if err != nil || now.State.FirstSeq <= seq {
				return fmt.Errorf("event %d of history, which has %d to %d, is not there, %v", seq, info.State.FirstSeq, info.State.LastSeq, err)
			}
			seq = now.State.FirstSeq - 1 // its limits removed it just now
			continue
		}
		if err != nil {
			return fmt.Errorf("event %d of history: %w", seq, err)
		}
		if id, ok := acked.Load(events.Seq(seq)); ok && id != m.Header.Get(events.HeaderID) {
			return fmt.Errorf("event %d is %s in history, and was acknowledged as %s", seq, m.Header.Get(events.HeaderID), id)
		}
	}
	return nil
}
