package events

import (
	"context"
)

// KeySize is the length of a key of Keys, in bytes.
const KeySize = 32

// Keys keeps random keys apart from the log: one for each object whose body
// holds something sealed. The log is never rewritten, but a key can be
// destroyed, and with it all that the log ever held under it.
//
// An id is what an object has for itself alone, for good: its uid. All methods
// are safe for concurrent use.
type Keys interface {
	// Key returns the key of an id, or nil if it never had one or has it no
	// more. It must not be modified. While the keys cannot be reached it waits,
	// for "there is none" would be believed.
	Key(id string) []byte
	// Make makes a key for an id that has none, and returns when it is durable.
	// One that is there stays as it is.
	Make(ctx context.Context, id string) error
	// Destroy removes a key, here and wherever it is stored, and returns when
	// that is durable. It is no error if there is none.
	Destroy(ctx context.Context, id string) error
	// All returns the ids of all keys, in no order.
	All(ctx context.Context) ([]string, error)
}
