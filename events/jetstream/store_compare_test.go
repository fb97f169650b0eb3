package jetstream

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// TestStoresAreCompared stops three servers whose log was purged, and reads it
// from the disk of each: all three have what was read from them while they ran.
// Then it spoils one copy in each way there is, and that copy is named.
func TestStoresAreCompared(t *testing.T) {
	t.Parallel()
	ctx, c := logtest.Context(t), newTrio(t)
	c.startAll()
	l := c.open(0)
	a := age(t, l)
	want := must(collect(l.Read(ctx, 0, a.seen)))
	for i := range c.servers {
		c.waitCopy(i, StreamName, uint64(a.seen))
		c.waitCopy(i, HistName, uint64(a.seen))
	}
	if _, err := CompareStores(c.dirs[:], 1, a.seen, nil); err == nil {
		t.Error("the files of servers that run are read")
	}
	for i := range c.servers {
		c.stop(i)
	}
	var got []events.Record
	all, err := CompareStores(c.dirs[:], 1, a.seen, func(r events.Record) { got = append(got, r) })
	for _, own := range all {
		if first := map[string]events.Seq{HistName: 1, StreamName: a.first}[own.Stream]; own.First != first {
			t.Errorf("%s: it begins at %d", own, first)
		}
	}
	if diff := cmp.Diff(want, got, wholeBodies); diff != "" || err != nil || len(all) != 6 {
		t.Fatalf("%d copies, %v: %s", len(all), err, diff)
	}
	const odd = 1 // which server's copy is spoilt
	seq := uint64(a.first) / 2
	for name, test := range map[string]struct {
		spoil func(t *testing.T, blocks, stream string)
		in    []string // of which streams
		want  string
	}{
		"OneByte":  {flipByte(seq), []string{HistName}, fmt.Sprintf("what follows event %d, ", seq-1)},
		"OneEvent": {rewriteEvent(seq), []string{HistName}, fmt.Sprintf("event %d is not the same in all ", seq)},
		"Newest":   {rewriteEvent(uint64(a.seen)), []string{StreamName}, fmt.Sprintf("event %d is not the same in all 6 copies", a.seen)},
		"Hole":     {dropEvents(seq, seq+1), []string{HistName}, fmt.Sprintf("event %d follows %d", seq+1, seq-1)},
		"Tail":     {dropEvents(uint64(a.seen), uint64(a.seen)+1), []string{HistName, StreamName}, fmt.Sprintf("lacks event %d", a.seen)},
		"Past":     {dropEvents(0, seq), []string{HistName}, "lacks event 1,"},
	} {
		t.Run(name, func(t *testing.T) {
			stores := slices.Clone(c.dirs[:])
			stores[odd] = t.TempDir()
			if err := os.CopyFS(stores[odd], os.DirFS(c.dirs[odd])); err != nil {
				t.Fatal(err)
			}
			for _, stream := range test.in {
				test.spoil(t, streamIn(t, stores[odd], stream), stream)
			}
			_, err := CompareStores(stores, 1, a.seen, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), stores[odd]) ||
				strings.Contains(err.Error(), c.dirs[0]) || strings.Contains(err.Error(), c.dirs[2]) {
				t.Errorf("got %v\nwant %s, of %s only", err, test.want, stores[odd])
			}
		})
	}
}

// TestReadPackedStore reads the store of a server that was alone, whose history
// is compressed: it has what was written.
func TestReadPackedStore(t *testing.T) {
	t.Parallel()
	const n = 90 // events, in three blocks of 32 kB
	store, _ := stopped(t, n, 800, 200_000)
	if _, packed := packedBlocks(t, historyIn(t, store)); len(packed) == 0 {
		t.Fatal("no block is compressed")
	}
	var got []events.Record
	if _, err := CompareStores([]string{store}, 1, n, func(r events.Record) { got = append(got, r) }); err != nil || len(got) != n {
		t.Fatalf("%d events, want %d: %v", len(got), n, err)
	}
	for i, r := range got {
		if r.Seq != events.Seq(i+1) || r.Key.Name != fmt.Sprintf("o%d", i) || len(r.Body) != 800 {
			t.Errorf("event %d is %d, of %s, with %d bytes", i+1, r.Seq, r.Key.Name, len(r.Body))
		}
	}
}

// flipByte changes one byte in the middle of an event, as a disk might.
func flipByte(of uint64) func(*testing.T, string, string) {
	return onEvents(func(_ *hasher, seq uint64, record []byte) []byte {
		if seq == of {
			record[len(record)/2] ^= 1
		}
		return record
	})
}

// rewriteEvent has a server store another event than the others did.
func rewriteEvent(of uint64) func(*testing.T, string, string) {
	return onEvents(func(h *hasher, seq uint64, record []byte) []byte {
		if seq != of {
			return record
		}
		body := recordHead + int(binary.LittleEndian.Uint16(record[20:]))
		end := len(record) - recordHash
		record[end-1] ^= 1 // of its body
		copy(record[end:], h.of(record[4:20], record[recordHead:body], record[body+4:end]))
		return record
	})
}

// dropEvents has a server lack some events.
func dropEvents(from, to uint64) func(*testing.T, string, string) {
	return onEvents(func(_ *hasher, seq uint64, record []byte) []byte {
		if seq >= from && seq < to {
			return nil
		}
		return record
	})
}

// onEvents writes the blocks in a folder anew, each record as change has it.
func onEvents(change func(h *hasher, seq uint64, record []byte) []byte) func(*testing.T, string, string) {
	return func(t *testing.T, dir, stream string) {
		t.Helper()
		changed := false
		for _, index := range must(blocksIn(dir)) {
			buf, _, err := readBlock(blockPath(dir, index))
			if err != nil {
				t.Fatal(err)
			}
			h := must(newHasher(fmt.Sprintf("%s-%d", stream, index)))
			var out []byte
			walkBlock(buf, h, func(seq uint64, record []byte) bool {
				out = append(out, change(h, seq, bytes.Clone(record))...)
				return true
			})
			changed = changed || !bytes.Equal(out, buf)
			if err := os.WriteFile(blockPath(dir, index), out, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if !changed {
			t.Fatal("nothing was changed")
		}
	}
}

// streamIn returns the folder of a stream's blocks in a store.
func streamIn(t *testing.T, store, stream string) string {
	t.Helper()
	for _, dir := range must(streamDirs(store)) {
		if filepath.Base(dir) == stream {
			return filepath.Join(dir, "msgs")
		}
	}
	t.Fatalf("%s has no %s", store, stream)
	return ""
}
