package events

import (
	"encoding/binary"
	"errors"
	"time"
)

// The flags that a Record as bytes begins with.
const (
	binaryDelete = 1 << iota
	binaryTime
	binaryDecision
)

// errBinary says that bytes are no Record.
var errBinary = errors.New("not a record as bytes")

// AppendBinary appends the Record to b as bytes that ReadBinary reads: kept
// states hold many, and headers or JSON cost ten times as much. It cannot fail.
func (r Record) AppendBinary(b []byte) []byte {
	flags := byte(0)
	if r.Delete {
		flags |= binaryDelete
	}
	if !r.Time.IsZero() {
		flags |= binaryTime
	}
	if r.Decision != nil {
		flags |= binaryDecision
	}
	b = append(b, flags)
	for _, n := range []Seq{r.Seq, r.Expect, r.Seen, Seq(len(r.Cause))} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	for _, c := range r.Cause {
		b = binary.AppendUvarint(b, uint64(c))
	}
	if !r.Time.IsZero() {
		b = binary.AppendVarint(b, r.Time.Unix())
		b = binary.AppendUvarint(b, uint64(r.Time.Nanosecond()))
	}
	for _, s := range []string{r.Key.Group, r.Key.Plural, r.Key.Namespace, r.Key.Name, r.ID, r.Source, r.Type, r.Trace, r.Note} {
		b = appendText(b, s)
	}
	if d := r.Decision; d != nil {
		b = appendText(appendText(appendText(b, d.Decider), d.Key), d.Build)
		b = binary.AppendVarint(binary.AppendVarint(b, int64(d.Index)), int64(d.Count))
	}
	return append(binary.AppendUvarint(b, uint64(len(r.Body))), r.Body...)
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// ReadBinary reads what AppendBinary wrote, all of b. The Record's Body is a
// part of b.
func ReadBinary(b []byte) (Record, error) {
	p := binaryParser{rest: b}
	var r Record
	flags := p.byte()
	r.Delete = flags&binaryDelete != 0
	r.Seq, r.Expect, r.Seen = Seq(p.number()), Seq(p.number()), Seq(p.number())
	if n := p.number(); n > MaxCauses {
		p.bad = true
	} else {
		for range n {
			r.Cause = append(r.Cause, Seq(p.number()))
		}
	}
	if flags&binaryTime != 0 {
		sec := p.signed()
		r.Time = time.Unix(sec, int64(p.number()%1e9)).UTC()
	}
	r.Key.Group, r.Key.Plural, r.Key.Namespace, r.Key.Name = p.shared(), p.shared(), p.shared(), p.text()
	r.ID, r.Source, r.Type, r.Trace, r.Note = p.text(), p.shared(), p.shared(), p.text(), p.text()
	if flags&binaryDecision != 0 {
		d := DecisionRef{Decider: p.shared(), Key: p.text(), Build: p.shared()}
		d.Index, d.Count = int(p.signed()), int(p.signed())
		r.Decision = &d
	}
	if body := p.bytes(); len(body) > 0 {
		r.Body = body[:len(body):len(body)]
	}
	if p.bad || len(p.rest) > 0 {
		return Record{}, errBinary
	}
	return r, nil
}

// binaryParser takes bytes apart; after the first that is wrong all is empty.
type binaryParser struct {
	rest []byte
	bad  bool
}

func (p *binaryParser) byte() byte {
	if len(p.rest) == 0 {
		p.bad = true
		return 0
	}
	c := p.rest[0]
	p.rest = p.rest[1:]
	return c
}

func (p *binaryParser) number() uint64 {
	v, n := binary.Uvarint(p.rest)
	return v * p.took(n)
}

func (p *binaryParser) signed() int64 {
	v, n := binary.Varint(p.rest)
	return v * int64(p.took(n))
}

// took drops n bytes: 1, or 0 if there was nothing right to drop.
func (p *binaryParser) took(n int) uint64 {
	if n <= 0 {
		p.bad, p.rest = true, nil
		return 0
	}
	p.rest = p.rest[n:]
	return 1
}

func (p *binaryParser) bytes() []byte {
	n := p.number()
	if n > uint64(len(p.rest)) {
		p.bad, p.rest = true, nil
		return nil
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b
}

func (p *binaryParser) text() string   { return string(p.bytes()) }
func (p *binaryParser) shared() string { return shared(string(p.bytes())) }
