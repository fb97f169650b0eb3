package memory

import (
	"context"
	"crypto/rand"
	"maps"
	"slices"
	"sync"

	"github.com/rutterhq/rutter/events"
)

// Keys is events.Keys in memory, for tests and simulations. The zero value is
// ready to use.
type Keys struct {
	mu   sync.Mutex // protects the following fields
	keys map[string][]byte
}

var _ events.Keys = (*Keys)(nil)

// Key implements events.Keys.
func (k *Keys) Key(id string) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys[id]
}

// Make implements events.Keys.
func (k *Keys) Make(_ context.Context, id string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keys == nil {
		k.keys = map[string][]byte{}
	}
	if k.keys[id] == nil {
		k.keys[id] = make([]byte, events.KeySize)
		_, _ = rand.Read(k.keys[id]) // never fails: the process would have crashed
	}
	return nil
}

// Destroy implements events.Keys.
func (k *Keys) Destroy(_ context.Context, id string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.keys, id)
	return nil
}

// All implements events.Keys.
func (k *Keys) All(context.Context) ([]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Keys(k.keys)), nil
}
