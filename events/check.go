package events

import (
	"errors"
	"fmt"
	"strings"
)

// MaxNote bounds Envelope.Note in bytes: percent-encoded it still fits, with
// the rest of the envelope, into the 64 KiB that JetStream gives to headers.
const MaxNote = 8 << 10

// maxWord bounds each of the envelope's other texts in bytes.
const maxWord = 1 << 10

// maxKey bounds the parts of a Key together in bytes. Kubernetes' names have
// at most 253 each; escaped they must fit into a line of 4 KiB of NATS.
const maxKey = 1000

// Check tells whether the record may be appended: its Key reads back from its
// String, and everything is within its bounds. Every Log's Append calls it.
func (r Record) Check() error {
	if len(r.Body) > MaxRecord {
		return fmt.Errorf("%s: %d bytes, more than %d: %w", r.Key, len(r.Body), MaxRecord, ErrTooLarge)
	}
	if len(r.Note) > MaxNote {
		return fmt.Errorf("%s: a note of %d bytes, more than %d: %w", r.Key, len(r.Note), MaxNote, ErrTooLarge)
	}
	if len(r.Cause) > MaxCauses {
		return fmt.Errorf("%s: %d causes, more than %d: %w", r.Key, len(r.Cause), MaxCauses, ErrTooLarge)
	}
	words := []string{r.ID, r.Source, r.Type, r.Trace}
	if d := r.Decision; d != nil {
		words = append(words, d.Decider, d.Key, d.Build)
	}
	for _, w := range words {
		if len(w) > maxWord {
			return fmt.Errorf("%.80s: a word of %d bytes, more than %d: %w", r.Key, len(w), maxWord, ErrTooLarge)
		}
	}
	return r.Key.check()
}

// check tells whether ParseKey would give the Key back.
func (k Key) check() error {
	if n := len(k.Group) + len(k.Plural) + len(k.Namespace) + len(k.Name); n > maxKey {
		return fmt.Errorf("key %.80q…: %d bytes, more than %d: %w", k.String(), n, maxKey, ErrTooLarge)
	}
	if k.Plural == "" || k.Name == "" {
		return errors.New("a key needs a resource and a name")
	}
	if strings.Contains(k.Plural, ".") {
		return fmt.Errorf("key %q: the resource's plural has a dot", k)
	}
	for _, s := range []string{k.Group, k.Plural, k.Namespace, k.Name} {
		if strings.Contains(s, "/") {
			return fmt.Errorf("key %q: a part has a slash", k)
		}
	}
	return nil
}
