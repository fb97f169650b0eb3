package jetstream

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// historyIn returns the folder of history's blocks in a store.
func historyIn(t *testing.T, store string) string {
	t.Helper()
	dirs, err := streamDirs(store)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if filepath.Base(dir) == HistName {
			return filepath.Join(dir, "msgs")
		}
	}
	t.Fatalf("%s has no %s", store, HistName)
	return ""
}

// packedBlocks are a folder's blocks, and which of them are compressed.
func packedBlocks(t *testing.T, dir string) (blocks, packed []uint32) {
	t.Helper()
	blocks, err := blocksIn(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, index := range blocks {
		b, err := os.ReadFile(blockPath(dir, index))
		if err != nil {
			t.Fatal(err)
		}
		if packedHead(b) > 0 {
			packed = append(packed, index)
		}
	}
	return blocks, packed
}

// TestHistoryEndsPacked has history end with a compressed block, because the
// one after it is gone, or was made and not yet written to. The server would
// write on behind what is compressed, and nobody could unpack that again.
func TestHistoryEndsPacked(t *testing.T) {
	t.Parallel()
	const n = 90 // events, in three blocks of 32 kB
	for name, harm := range map[string]func(path string) error{
		"NoName": os.Remove,
		"Empty":  func(path string) error { return os.Truncate(path, 0) },
		"Torn":   func(path string) error { return os.Truncate(path, 30) },
	} {
		for _, listen := range []string{"", "127.0.0.1:0"} {
			t.Run(name+listen, func(t *testing.T) {
				t.Parallel()
				ctx := logtest.Context(t)
				store, _ := stopped(t, n, 800, 200_000)
				dir := historyIn(t, store)
				blocks, packed := packedBlocks(t, dir)
				if len(blocks) < 3 || len(packed) != len(blocks)-1 {
					t.Fatalf("history has the blocks %v, compressed are %v", blocks, packed)
				}
				// The index tells of what is lost; a kill leaves an older one.
				if err := errors.Join(harm(blockPath(dir, blocks[len(blocks)-1])), os.Remove(filepath.Join(dir, stateIndexFile))); err != nil {
					t.Fatal(err)
				}
				last := events.Seq(n)
				for range 2 { // it goes on, and is then read from disk
					s, err := StartServer(ServerConfig{Dir: store, Listen: listen})
					if err != nil {
						t.Fatal(err)
					}
					l := openIn(t, s)
					for range 30 {
						r := logtest.Record("after", 0)
						r.Seen = last
						r.Expect = last
						if last == n {
							r.Expect = 0
						}
						if last, err = l.Append(ctx, r); err != nil {
							t.Fatal(err)
						}
					}
					if at, err := l.mirrored(ctx, last); err != nil || at != last {
						t.Fatalf("history has %d of %d, %v", at, last, err)
					}
					all, err := logtest.Read(ctx, l, 0, last)
					if err != nil {
						t.Fatal(err)
					}
					ids := map[events.Seq]string{}
					for _, r := range all {
						ids[r.Seq] = r.ID
					}
					if err := new(promises).checkHistory(ctx, l, 1, last, ids); err != nil {
						t.Fatal(err)
					}
					l.Close()
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	}
}

// TestHistoryBeginsTorn has a power cut leave part of what history's limits had
// removed, or half of the block that the server wrote anew: history begins
// behind the hole, and what is left can be read.
func TestHistoryBeginsTorn(t *testing.T) {
	t.Parallel()
	const n = 90 // events, in three blocks of 32 kB
	halve := func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		return os.Truncate(path, info.Size()/2)
	}
	for name, harm := range map[string]func(dir string, blocks []uint32) error{
		"Torn": func(dir string, blocks []uint32) error { return halve(blockPath(dir, blocks[0])) },
		"TornUnpacked": func(dir string, blocks []uint32) error {
			path := blockPath(dir, blocks[0])
			records, _, err := readBlock(path)
			if err == nil {
				err = os.WriteFile(path, records[:len(records)/2], 0o600)
			}
			return err
		},
		"Hole": func(dir string, blocks []uint32) error { return os.Remove(blockPath(dir, blocks[1])) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := logtest.Context(t)
			store, _ := stopped(t, n, 800, 200_000)
			dir := historyIn(t, store)
			blocks, _ := packedBlocks(t, dir)
			if len(blocks) < 3 {
				t.Fatalf("history has the blocks %v", blocks)
			}
			if err := harm(dir, blocks); err != nil {
				t.Fatal(err)
			}
			l := openIn(t, startServer(t, ServerConfig{Dir: store}))
			hist, err := l.history(ctx)
			if err != nil {
				t.Fatal(err)
			}
			first := hist.CachedInfo().State.FirstSeq
			if first < 20 || first > n {
				t.Fatalf("history begins at %d", first)
			}
			all, err := logtest.Read(ctx, l, 0, n)
			if err != nil {
				t.Fatal(err)
			}
			ids := map[events.Seq]string{}
			for _, r := range all {
				ids[r.Seq] = r.ID
			}
			// Holes in history are the log's own to find: it has no "first" here.
			if err := new(promises).checkHistory(ctx, l, 1, n, ids); err != nil {
				t.Fatal(err)
			}
		})
	}
}
