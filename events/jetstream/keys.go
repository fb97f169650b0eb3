package jetstream

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	js "github.com/nats-io/nats.go/jetstream"

	"github.com/rutterhq/rutter/events"
)

const (
	// KeysBucket is the key-value bucket that holds the keys, each wrapped with a
	// key that no NATS server has.
	KeysBucket = "KEYS"

	keysStream  = "KV_" + KeysBucket
	keysSubject = "$KV." + KeysBucket + "."
	// keysBudget bounds the bucket in bytes: 300,000 keys and more.
	keysBudget = 64 << 20
	// askAgain is how long Key waits before it asks a server again that is
	// there, and did not answer.
	askAgain = 200 * time.Millisecond
)

// Keys is events.Keys in a NATS key-value bucket beside the log. Its history is
// one value deep. When a key is destroyed the server writes the file that it was
// in anew, without it.
type Keys struct {
	log    *Log
	api    js.JetStream
	stream js.Stream
	wrap   cipher.AEAD

	mu      sync.Mutex // protects the following fields
	known   map[string][]byte
	forgets uint64 // how often a key was forgotten: what was read before may be of one that is destroyed
}

var _ events.Keys = (*Keys)(nil)

// Keys returns the keys beside the log, wrapped with a key derived from the
// 32-byte secret. The bucket is made if there is none. They end with the Log.
func (l *Log) Keys(ctx context.Context, secret []byte) (*Keys, error) {
	wrapping, err := hkdf.Key(sha256.New, secret, nil, "rutter key wrapping", events.KeySize)
	if err != nil || len(secret) != events.KeySize {
		return nil, errors.Join(fmt.Errorf("open the keys: a secret of %d bytes", len(secret)), err)
	}
	block, err := aes.NewCipher(wrapping)
	if err != nil {
		return nil, fmt.Errorf("open the keys: %w", err)
	}
	k := &Keys{log: l, known: map[string][]byte{}}
	if k.wrap, err = cipher.NewGCM(block); err != nil {
		return nil, fmt.Errorf("open the keys: %w", err)
	}
	if k.api, err = js.New(l.nc, js.WithDefaultTimeout(apiTimeout)); err != nil {
		return nil, fmt.Errorf("open the keys: %w", err)
	}
	err = again(ctx, func(ctx context.Context) error {
		k.stream, err = k.bucket(ctx)
		return err
	})
	if err == nil {
		err = k.durable()
	}
	if err != nil {
		return nil, fmt.Errorf("open the keys: bucket %s: %w", KeysBucket, err)
	}
	return k, nil
}

// bucket returns the bucket's stream, on as many servers as the log is.
func (k *Keys) bucket(ctx context.Context) (js.Stream, error) {
	want := keysConfig(k.log.stream.CachedInfo().Config.Replicas)
	s, err := k.api.Stream(ctx, keysStream)
	switch {
	case errors.Is(err, js.ErrStreamNotFound):
		return k.api.CreateStream(ctx, want)
	case err == nil && s.CachedInfo().Config.Replicas < want.Replicas:
		return k.api.UpdateStream(ctx, want)
	}
	return s, err
}

// keysConfig is the bucket as NATS' own would be, but that one key can be
// erased, and that nobody answers but who has seen every write.
func keysConfig(replicas int) js.StreamConfig {
	return js.StreamConfig{
		Name: keysStream, Description: "Rutter's keys for what is secret in the log, wrapped",
		Subjects: []string{keysSubject + ">"}, Storage: js.FileStorage, Discard: js.DiscardNew,
		MaxMsgsPerSubject: 1, MaxBytes: keysBudget, MaxMsgSize: 1 << 10, Replicas: replicas,
		AllowRollup: true, AllowDirect: false, DenyDelete: false,
	}
}

// durable makes what the server has acknowledged durable, if the server itself
// does not.
func (k *Keys) durable() error {
	c := k.log.commits
	if c == nil || c.lazy {
		return nil
	}
	return c.syncStream(keysStream)
}

// Key implements events.Keys.
func (k *Keys) Key(id string) []byte {
	for {
		ctx, done := k.log.question(context.Background())
		key, err := k.read(ctx, id)
		done()
		if err == nil || k.log.nc.IsClosed() {
			return key
		}
		if !k.log.connected() { // it was here, and what it keeps the keys in was not: nothing tells when that is
			time.Sleep(askAgain)
		}
	}
}

// read returns a key from memory, or else from the server; nil if there is none.
func (k *Keys) read(ctx context.Context, id string) ([]byte, error) {
	k.mu.Lock()
	key, forgets := k.known[id], k.forgets
	k.mu.Unlock()
	if key != nil {
		return key, nil
	}
	m, err := k.stream.GetLastMsgForSubject(ctx, keysSubject+id)
	if errors.Is(err, js.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("key of %s: %w", id, err)
	}
	size := k.wrap.NonceSize()
	if len(m.Data) < size {
		return nil, nil // a marker that another client left: it was deleted
	}
	if key, err = k.wrap.Open(nil, m.Data[:size], m.Data[size:], []byte(id)); err != nil {
		// It will not open the next time either.
		return nil, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if forgets == k.forgets {
		k.known[id] = key
	}
	return key, nil
}

// Make implements events.Keys.
func (k *Keys) Make(ctx context.Context, id string) error {
	k.mu.Lock()
	known := k.known[id] != nil
	k.mu.Unlock()
	if known {
		return nil
	}
	ctx, done := k.log.question(ctx)
	defer done()
	key := make([]byte, events.KeySize)
	nonce := make([]byte, k.wrap.NonceSize())
	_, _ = rand.Read(key)   // never fails: the process would have crashed
	_, _ = rand.Read(nonce) // likewise
	wrapped := k.wrap.Seal(nonce, nonce, key, []byte(id))
	// Whoever was first has made it; if an answer is lost, read tells who that was.
	_, err := k.api.Publish(ctx, keysSubject+id, wrapped, js.WithExpectLastSequencePerSubject(0))
	var told *js.APIError
	if err != nil && !(errors.As(err, &told) && (told.ErrorCode == codeWrongLast || told.ErrorCode == codeWrongLastBusy)) {
		return fmt.Errorf("make the key of %s: %w", id, err)
	}
	if err := k.durable(); err != nil {
		return fmt.Errorf("make the key of %s: %w", id, err)
	}
	stored, err := k.read(ctx, id)
	if err == nil && stored == nil {
		err = fmt.Errorf("bucket %s holds one that this cluster's secret does not open", KeysBucket)
	}
	if err != nil {
		return fmt.Errorf("make the key of %s: %w", id, err)
	}
	return nil
}

// Destroy implements events.Keys.
func (k *Keys) Destroy(ctx context.Context, id string) error {
	k.forget(id)
	defer k.forget(id) // who reads until it is destroyed has it again
	ctx, done := k.log.question(ctx)
	defer done()
	m, err := k.stream.GetLastMsgForSubject(ctx, keysSubject+id)
	if errors.Is(err, js.ErrMsgNotFound) {
		return nil
	}
	if err == nil {
		err = k.stream.SecureDeleteMsg(ctx, m.Sequence)
	}
	if err == nil || errors.Is(err, js.ErrMsgDeleteUnsuccessful) {
		err = k.durable()
	}
	if err != nil {
		return fmt.Errorf("destroy the key of %s: %w", id, err)
	}
	return nil
}

func (k *Keys) forget(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.known, id)
	k.forgets++
}

// All implements events.Keys.
func (k *Keys) All(ctx context.Context) ([]string, error) {
	info, err := k.stream.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("all keys: %w", err)
	}
	if info.State.Msgs == 0 {
		return nil, nil
	}
	reader, err := k.stream.OrderedConsumer(ctx, js.OrderedConsumerConfig{HeadersOnly: true})
	if err != nil {
		return nil, fmt.Errorf("all keys: %w", err)
	}
	var ids []string
	for last := info.State.LastSeq; ; {
		m, err := reader.Next(js.FetchMaxWait(apiTimeout))
		if err != nil {
			return nil, fmt.Errorf("all keys: %w", err)
		}
		at, err := m.Metadata()
		if err != nil {
			return nil, fmt.Errorf("all keys: %w", err)
		}
		ids = append(ids, strings.TrimPrefix(m.Subject(), keysSubject))
		if at.NumPending == 0 || at.Sequence.Stream >= last {
			return ids, nil
		}
	}
}
