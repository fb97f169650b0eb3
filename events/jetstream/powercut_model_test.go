package jetstream

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// TestDiskOfKeys sees that the disk of the power cuts keeps what the server has
// synced by itself, and no more. A block of keys that took another's place is
// on disk as far as the other was, also if no sync of ours has met it.
func TestDiskOfKeys(t *testing.T) {
	t.Parallel()
	for _, listed := range []bool{false, true} { // whether the folder was synced since
		for _, replaced := range []int{1, 2} { // how many times in turn
			t.Run("", func(t *testing.T) {
				t.Parallel()
				least, most := cutKeys(t, listed, replaced)
				if least != len("made") || most != len("madetail") {
					t.Errorf("listed %t, replaced %d times: of 4 bytes synced and 4 not, %d to %d were kept", listed, replaced, least, most)
				}
			})
		}
	}
}

// cutKeys cuts a block of keys that was made longer and replaced, and returns
// the fewest and the most bytes that were kept of it.
func cutKeys(t *testing.T, listed bool, replaced int) (least, most int) {
	t.Helper()
	store := filepath.Join(t.TempDir(), "store")
	dir := filepath.Join(store, "streams", keysStream, "msgs")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	block := filepath.Join(dir, "1.blk")
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(block, "")
	disk := newPlatter(t, store)
	journal, err := os.Create(store + ".journal")
	if err != nil {
		t.Fatal(err)
	}
	defer journal.Close()
	r := &recorder{journal: journal, shadow: disk.shadow, delay: func() time.Duration { return 0 }}
	sync := func(path string, folder bool) {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := r.sync(f, folder); err != nil {
			t.Fatal(err)
		}
	}
	write(block, "made")
	sync(block, false)
	for range replaced {
		write(block+".tmp", "made")
		if err := os.Rename(block+".tmp", block); err != nil {
			t.Fatal(err)
		}
		if listed {
			sync(dir, true)
		}
	}
	write(block, "madetail")
	for _, line := range readJournal(t, store+".journal") {
		if !disk.synced(line) {
			t.Fatalf("no line of a recorder: %s", line)
		}
	}
	least = len("madetail")
	for seed := range uint64(200) {
		to := filepath.Join(t.TempDir(), strconv.FormatUint(seed, 10))
		disk.cut(t, rand.New(rand.NewPCG(seed, 0)), to)
		b, err := os.ReadFile(filepath.Join(to, "streams", keysStream, "msgs", "1.blk"))
		if err != nil {
			t.Fatal(err)
		}
		least, most = min(least, len(b)), max(most, len(b))
	}
	return least, most
}
