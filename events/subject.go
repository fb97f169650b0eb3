package events

import (
	"fmt"
	"strings"
)

// SubjectRoot is the first token of every object's subject.
const SubjectRoot = "ev"

// Subject is where an object's events stand in the log:
//
//	ev.<group|core>.<resource>.<namespace|_>.<name>
//
// It is literal and stays the same for the whole of the object's life, so that
// the last message of a subject is the object, and so that every writer of an
// object compares on the same string. Bytes that mean something in a subject
// are written as =XX, as are those outside printable ASCII.
func (k Key) Subject() string {
	var b strings.Builder
	b.Grow(len(SubjectRoot) + len(k.Group) + len(k.Plural) + len(k.Namespace) + len(k.Name) + 16)
	b.WriteString(SubjectRoot)
	writeToken(&b, k.Group, "core")
	writeToken(&b, k.Plural, "_")
	writeToken(&b, k.Namespace, "_")
	writeToken(&b, k.Name, "_")
	return b.String()
}

// KeyOfSubject is the inverse of Key.Subject. It accepts only what Subject
// writes: two subjects are never the same Key.
func KeyOfSubject(subject string) (Key, error) {
	parts := strings.Split(subject, ".")
	if len(parts) != 5 || parts[0] != SubjectRoot {
		return Key{}, fmt.Errorf("subject %q: expected %s.group.resource.namespace.name", subject, SubjectRoot)
	}
	var k Key
	for i, to := range []*string{&k.Group, &k.Plural, &k.Namespace, &k.Name} {
		s, err := parseToken(parts[i+1])
		if err != nil {
			return Key{}, fmt.Errorf("subject %q: %w", subject, err)
		}
		*to = s
	}
	if k.Group == "core" && parts[1] == "core" {
		k.Group = ""
	}
	for i, to := range []*string{&k.Plural, &k.Namespace, &k.Name} {
		if parts[i+2] == "_" {
			*to = ""
		}
	}
	if k.Subject() != subject {
		return Key{}, fmt.Errorf("subject %q: not as it is written for %s", subject, k)
	}
	return k, nil
}

const upperHex = "0123456789ABCDEF"

// writeToken appends one token. empty stands for the empty string, so a string
// that equals it has its first byte escaped.
func writeToken(b *strings.Builder, s, empty string) {
	b.WriteByte('.')
	if s == "" {
		b.WriteString(empty)
		return
	}
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || c == '.' || c == '*' || c == '>' || c == '=' || i == 0 && s == empty {
			b.WriteByte('=')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&15])
			continue
		}
		b.WriteByte(c)
	}
}

// parseToken takes the escapes out of a token.
func parseToken(s string) (string, error) {
	return unescape(s, '=')
}

// unescape replaces every mark and its two hexadecimal digits by the byte
// that they name.
func unescape(s string, mark byte) (string, error) {
	if strings.IndexByte(s, mark) < 0 {
		return s, nil
	}
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != mark {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
			return "", fmt.Errorf("%q: %q is not followed by two hexadecimal digits", s, mark)
		}
		b.WriteByte(unhex(s[i+1])<<4 | unhex(s[i+2]))
		i += 2
	}
	return b.String(), nil
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'F' || 'a' <= c && c <= 'f'
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}
