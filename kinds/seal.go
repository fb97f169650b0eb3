package kinds

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/go-json-experiment/json"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/kernel"
)

// What is secret never stands in the log in plaintext. The values of a
// Secret's data, and the copy of them that kubectl apply keeps in an annotation,
// are sealed on the way in and opened on the way out:
//
//	sealed value  "rutter:seal:2:" nonce ciphertext
//	key           HKDF-SHA256(the object's own random key, salt: the object's uid)
//	cipher        AES-256-GCM, additional data: where in the object it stands
//	nonce         from an HMAC of place and plaintext
//
// The nonce derives from what is encrypted, so the same object has the same
// body whoever writes it, and no nonce serves two plaintexts (as in RFC 8452,
// what it tells is that two values at one place of one object are equal).
//
// The object's key is in Schema.Keys, made before the object is first written
// (Prepare). Once it is destroyed, whatever the log ever held of the object's
// values cannot be read by anybody; Decode then gives hashes in their place.
// An object that has no key of its own, as it was written before there were
// any or by who cannot make one, is sealed with the cluster's key instead, with
// the mark "rutter:seal:1:".
//
// A process without keys sees the sealed values and can write them back
// unharmed. It cannot add values of its own.

// What a sealed value begins with. Both are equally long.
const (
	clusterMark = "rutter:seal:1:" // sealed with Schema.Seal
	ownMark     = "rutter:seal:2:" // sealed with the object's own key
)

// hashMark begins what RedactBody puts in the place of a sealed value.
const hashMark = "sha256:"

// nonceSize is AES-GCM's, in bytes.
const nonceSize = 12

// errNoSeal: a secret was to be written by a process that may not.
var errNoSeal = errors.New("its data cannot be sealed: this process has no key for secrets")

// errNoKeys: a process that is to read secrets was not given all it needs.
var errNoKeys = errors.New("sealed with the object's own key, and this process has only the cluster's")

// sealer seals the values of one object.
type sealer struct {
	mark string
	aead cipher.AEAD
	mac  []byte
}

func newSealer(mark string, seal []byte, uid string) (*sealer, error) {
	if len(seal) != 32 {
		return nil, fmt.Errorf("the key for secrets has %d bytes instead of 32", len(seal))
	}
	keys, err := hkdf.Key(sha256.New, seal, []byte(uid), "rutter secret data", 64)
	if err != nil {
		return nil, fmt.Errorf("derive the key of %s: %w", uid, err)
	}
	block, err := aes.NewCipher(keys[:32])
	if err != nil {
		return nil, fmt.Errorf("derive the key of %s: %w", uid, err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("derive the key of %s: %w", uid, err)
	}
	return &sealer{mark: mark, aead: aead, mac: keys[32:]}, nil
}

func (s *sealer) seal(place string, plain []byte) []byte {
	m := hmac.New(sha256.New, s.mac)
	fmt.Fprintf(m, "%d:%s", len(place), place)
	m.Write(plain)
	nonce := m.Sum(nil)[:nonceSize]
	out := append([]byte(s.mark), nonce...)
	return s.aead.Seal(out, nonce, plain, []byte(place))
}

func (s *sealer) open(place string, sealed []byte) ([]byte, error) {
	rest := sealed[len(s.mark):]
	if len(rest) < nonceSize {
		return nil, fmt.Errorf("%s: a sealed value of %d bytes is cut off", place, len(sealed))
	}
	plain, err := s.aead.Open(nil, rest[:nonceSize], rest[nonceSize:], []byte(place))
	if err != nil {
		return nil, fmt.Errorf("%s: not sealed with this key, or changed since: %w", place, err)
	}
	if plain == nil {
		plain = []byte{} // an empty value is not an absent one
	}
	return plain, nil
}

func isSealed(value []byte) bool { return markOf(value) != "" }

// markOf is what a sealed value begins with; "" for others.
func markOf[T []byte | string](value T) string {
	for _, mark := range []string{clusterMark, ownMark} {
		if len(value) >= len(mark) && string(value[:len(mark)]) == mark {
			return mark
		}
	}
	return ""
}

// Prepare gives a user's write of an object with something to seal a key of its
// own, if the object has none, and seals its body with it. It is to be called
// before the proposal is appended, and returns when the key is durable.
func (s Schema) Prepare(ctx context.Context, p *Proposal) error {
	secret, ok := p.Object.(*corev1.Secret)
	if !ok || s.Keys == nil || p.Delete {
		return nil
	}
	err := s.Keys.Make(ctx, string(secret.UID))
	if err == nil {
		p.Body, err = s.Encode(secret)
	}
	return err
}

// sealer returns what seals an object's values; nil: this process may not.
func (s Schema) sealer(uid string) (*sealer, error) {
	if s.Keys != nil {
		if key := s.Keys.Key(uid); key != nil {
			return newSealer(ownMark, key, uid)
		}
	}
	if s.Seal == nil {
		return nil, nil
	}
	return newSealer(clusterMark, s.Seal, uid)
}

// annotationPlace is where the sealed annotation stands, a place that no key of
// data can name.
const annotationPlace = "annotation/" + corev1.LastAppliedConfigAnnotation

// sealed returns the object as it is to be encoded: a Secret's copy with its
// values sealed, anything else as it is.
func (s Schema) sealed(o kernel.Object) (kernel.Object, error) {
	secret, ok := o.(*corev1.Secret)
	if !ok {
		return o, nil
	}
	seal := func(place string, plain []byte) ([]byte, error) {
		if isSealed(plain) || bytes.HasPrefix(plain, []byte(hashMark)) {
			return plain, nil
		}
		return nil, errNoSeal
	}
	key, err := s.sealer(string(secret.UID))
	if err != nil {
		return nil, err
	}
	if key != nil {
		seal = func(place string, plain []byte) ([]byte, error) { return key.seal(place, plain), nil }
	}
	c := *secret
	// stringData is another way to write data; it does not outlive the write.
	if len(c.StringData) > 0 {
		c.Data = maps.Clone(c.Data)
		if c.Data == nil {
			c.Data = map[string][]byte{}
		}
		for k, v := range c.StringData {
			c.Data[k] = []byte(v)
		}
		c.StringData = nil
	}
	return &c, eachValue(&c, seal)
}

// opened opens what sealed sealed, in place. What this process has no key for
// stays as it is; where the object's own key was destroyed, a hash takes its place.
func (s Schema) opened(o kernel.Object) error {
	secret, ok := o.(*corev1.Secret)
	if !ok || s.Seal == nil && s.Keys == nil {
		return nil
	}
	var own, cluster *sealer // made when needed
	return eachValue(secret, func(place string, value []byte) (_ []byte, err error) {
		switch mark := markOf(value); {
		case mark == clusterMark && s.Seal != nil:
			if cluster == nil {
				if cluster, err = newSealer(mark, s.Seal, string(secret.UID)); err != nil {
					return nil, err
				}
			}
			return cluster.open(place, value)
		case mark == ownMark && s.Keys == nil && s.Seal != nil:
			return nil, errNoKeys // or sealed values would be taken for the real ones
		case mark == ownMark && s.Keys != nil:
			if own == nil {
				key := s.Keys.Key(string(secret.UID))
				if key == nil {
					return hashed(value), nil
				}
				if own, err = newSealer(mark, key, string(secret.UID)); err != nil {
					return nil, err
				}
			}
			return own.open(place, value)
		}
		return value, nil // of a recording: a hash
	})
}

// hashed is what people and recordings get in the place of a value.
func hashed(value []byte) []byte {
	sum := sha256.Sum256(value)
	return []byte(hashMark + hex.EncodeToString(sum[:]))
}

// eachValue replaces every secret value of the object by what change makes of
// it. Maps are copied, not changed.
func eachValue(secret *corev1.Secret, change func(place string, value []byte) ([]byte, error)) error {
	if len(secret.Data) > 0 {
		secret.Data = maps.Clone(secret.Data)
		for _, k := range slices.Sorted(maps.Keys(secret.Data)) {
			v, err := change("data/"+k, secret.Data[k])
			if err != nil {
				return fmt.Errorf("data[%s]: %w", k, err)
			}
			secret.Data[k] = v
		}
	}
	applied, ok := secret.Annotations[corev1.LastAppliedConfigAnnotation]
	if !ok {
		return nil
	}
	v, err := change(annotationPlace, fromText(applied))
	if err != nil {
		return fmt.Errorf("annotation %s: %w", corev1.LastAppliedConfigAnnotation, err)
	}
	secret.Annotations = maps.Clone(secret.Annotations)
	secret.Annotations[corev1.LastAppliedConfigAnnotation] = toText(v)
	return nil
}

// toText makes a sealed value fit an annotation, which is text; others are text.
func toText(value []byte) string {
	if mark := markOf(value); mark != "" {
		return mark + base64.StdEncoding.EncodeToString(value[len(mark):])
	}
	return string(value)
}

// fromText reads what toText wrote.
func fromText(text string) []byte {
	if mark := markOf(text); mark != "" {
		if raw, err := base64.StdEncoding.DecodeString(text[len(mark):]); err == nil {
			return append([]byte(mark), raw...)
		}
	}
	return []byte(text)
}

// RedactBody gives the body of a Record with hashes in the place of what is
// secret, sealed or not, for recordings and whatever is shown to people. Equal
// sealed values have equal hashes, so that a change can be seen. Bodies without
// secrets are returned as they are. A body that cannot be read gives null.
func RedactBody(k kernel.Key, body []byte) []byte {
	row, ok := RowFor(k.Resource)
	if !ok || !row.Describe().Sealed {
		return body
	}
	secret := &corev1.Secret{}
	if err := json.Unmarshal(body, secret, decoding); err != nil {
		return []byte("null")
	}
	for key, v := range secret.StringData {
		if secret.Data == nil {
			secret.Data = map[string][]byte{}
		}
		secret.Data[key] = []byte(v)
	}
	secret.StringData = nil
	err := eachValue(secret, func(_ string, value []byte) ([]byte, error) {
		if bytes.HasPrefix(value, []byte(hashMark)) {
			return value, nil
		}
		return hashed(value), nil
	})
	if err != nil {
		return []byte("null")
	}
	out, err := EncodeJSON(secret)
	if err != nil {
		return []byte("null")
	}
	return out
}
