package jetstream

import (
	"testing"
	"time"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/logtest"
)

// TestKeysAtRestOfThree: a key that was destroyed stands in no file of any of
// three servers soon after, neither in the bucket nor in what they keep of the
// writes that they consented to; and the others are still there when all start
// again.
func TestKeysAtRestOfThree(t *testing.T) {
	t.Parallel()
	ctx := logtest.Context(t)
	c := newTrio(t)
	c.startAll()
	l := c.open(1)
	k := openKeys(t, l)
	wrapped := map[string][]byte{}
	for _, id := range []string{"goes", "stays", "goes-too"} {
		if err := k.Make(ctx, id); err != nil {
			t.Fatal(err)
		}
		m, err := k.stream.GetLastMsgForSubject(ctx, keysSubject+id)
		if err != nil {
			t.Fatal(err)
		}
		wrapped[id] = m.Data
	}
	for i := range c.servers {
		c.waitCopy(i, keysStream, uint64(len(wrapped)))
	}
	for id := range wrapped {
		if id != "stays" {
			if err := k.Destroy(ctx, id); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, dir := range c.dirs {
		for id, key := range wrapped {
			for id != "stays" && inFiles(t, dir, key) {
				if err := wait(ctx, 50*time.Millisecond); err != nil {
					t.Fatalf("key %s, which was destroyed, is still in a file of s%d", id, i+1)
				}
			}
		}
		if !inFiles(t, dir, wrapped["stays"]) {
			t.Errorf("another key went with them at s%d", i+1)
		}
	}
	stays := k.Key("stays")
	l.Close()
	for i := range c.servers {
		c.stop(i)
	}
	c.startAll()
	if got := openKeys(t, c.open(2)).Key("stays"); string(got) != string(stays) || len(got) != events.KeySize {
		t.Errorf("after a start of all three the key that stays is of %d bytes, another one", len(got))
	}
}
