package logtest

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/rutterhq/rutter/events"
)

// Keys runs what every events.Keys must do. open returns the same keys each
// time, as another process would see them.
func Keys(t *testing.T, open func(t *testing.T) events.Keys) {
	ctx := t.Context()
	k := open(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if k.Key("a") != nil {
		t.Fatal("a key that nobody made")
	}
	must(k.Destroy(ctx, "a"))
	must(k.Make(ctx, "a"))
	must(k.Make(ctx, "b"))
	a, b := bytes.Clone(k.Key("a")), bytes.Clone(k.Key("b"))
	if len(a) != events.KeySize || len(b) != events.KeySize || bytes.Equal(a, b) {
		t.Fatalf("keys of %d and %d bytes", len(a), len(b))
	}
	must(k.Make(ctx, "a"))
	other := open(t)
	must(other.Make(ctx, "a")) // it is there
	for _, each := range []events.Keys{k, other} {
		if !bytes.Equal(each.Key("a"), a) || !bytes.Equal(each.Key("b"), b) {
			t.Fatal("a key changed")
		}
	}
	all, err := other.All(ctx)
	if err != nil || !slices.Equal(slices.Sorted(slices.Values(all)), []string{"a", "b"}) {
		t.Fatalf("all keys: %v, %v", all, err)
	}
	must(k.Destroy(ctx, "a"))
	must(other.Destroy(ctx, "a"))
	for _, each := range []events.Keys{k, other, open(t)} {
		if each.Key("a") != nil {
			t.Error("a key that was destroyed")
		}
		if !bytes.Equal(each.Key("b"), b) {
			t.Error("another key went with it")
		}
	}
	if all, err = k.All(ctx); err != nil || len(all) != 1 {
		t.Fatalf("all keys after one was destroyed: %v, %v", all, err)
	}
	oneMaker(ctx, t, open)
}

// oneMaker has many make the same key at once: all get the same.
func oneMaker(ctx context.Context, t *testing.T, open func(t *testing.T) events.Keys) {
	const makers = 16
	var wg sync.WaitGroup
	var got [makers][]byte
	for i := range makers {
		k := open(t)
		wg.Go(func() {
			if err := k.Make(ctx, "raced"); err != nil {
				t.Error(err)
			}
			got[i] = bytes.Clone(k.Key("raced"))
		})
	}
	wg.Wait()
	for i := range got {
		if got[i] == nil || !bytes.Equal(got[i], got[0]) {
			t.Fatalf("maker %d has another key", i)
		}
	}
}
