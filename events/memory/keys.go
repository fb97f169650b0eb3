package memory

import (
	"context"
	"crypto/rand"
	"maps"
	"sync"
	"time"

	"github.com/rutterhq/rutter/events"
)

// Keys is events.Keys in memory, for tests and simulations. The zero value is
// ready to use.
type Keys struct {
	mu   sync.Mutex // protects the following fields
	keys map[string][]byte
	made map[string]time.Time
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
		k.keys, k.made = map[string][]byte{}, map[string]time.Time{}
	}
	if k.keys[id] == nil {
		k.keys[id], k.made[id] = make([]byte, events.KeySize), time.Now()
		_, _ = rand.Read(k.keys[id]) // never fails: the process would have crashed
	}
	return nil
}

// Destroy implements events.Keys.
func (k *Keys) Destroy(_ context.Context, id string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.keys, id)
	delete(k.made, id)
	return nil
}

// All implements events.Keys.
func (k *Keys) All(context.Context) (map[string]time.Time, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.made), nil
}
