package sim

import (
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// memo is a Schema that decodes each body once for a whole world. In a cluster
// every process decodes for itself, and here all of them are one, so that this
// was what a world did most. Everybody still gets a copy of their own: who
// modifies what it sees modifies nobody else's, as between processes.
type memo struct {
	kernel.Schema
	decoded map[decodedKey]kernel.Object
}

type decodedKey struct {
	key  kernel.Key
	body string
}

func newMemo(s kernel.Schema) memo { return memo{s, map[decodedKey]kernel.Object{}} }

// Decode implements kernel.Schema.
func (m memo) Decode(k kernel.Key, body []byte) (kernel.Object, error) {
	if k.Resource == kinds.Secrets.Resource { // what one says depends on its key too
		return m.Schema.Decode(k, body)
	}
	if o := m.decoded[decodedKey{k, string(body)}]; o != nil {
		return o.DeepCopyObject().(kernel.Object), nil
	}
	o, err := m.Schema.Decode(k, body)
	if err != nil {
		return nil, err
	}
	m.decoded[decodedKey{k, string(body)}] = o
	return o.DeepCopyObject().(kernel.Object), nil
}
