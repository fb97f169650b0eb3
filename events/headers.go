package events

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unique"
)

// The headers of an event: a CloudEvents 1.0 envelope in binary mode, as the
// NATS protocol binding writes it, and extensions of our own.
const (
	headerSpec      = "ce-specversion"
	headerID        = "ce-id"
	headerSource    = "ce-source"
	headerType      = "ce-type"
	headerSubject   = "ce-subject"
	headerTime      = "ce-time"
	headerExpect    = "ce-expect"
	headerTombstone = "ce-tombstone"
	headerSeen      = "ce-seen"
	headerCause     = "ce-cause"
	headerDecision  = "ce-decision"
	headerNote      = "ce-note"
	headerTrace     = "traceparent"
)

// HeaderID is where a stored event's Envelope.ID stands, escaped as by
// HeaderValue.
const HeaderID = headerID

// specVersion is that of CloudEvents.
const specVersion = "1.0"

// Headers writes everything of the record but its Body and Seq. Values are
// percent-encoded as CloudEvents' bindings demand (HTTP binding 1.0.2,
// §3.1.3.2), so nothing in them can end a header or begin another one.
func (r Record) Headers() map[string][]string {
	h := make(map[string][]string, 12)
	put := func(name, value string) {
		if value != "" {
			h[name] = []string{value}
		}
	}
	h[headerSpec] = []string{specVersion}
	put(headerID, HeaderValue(r.ID))
	put(headerSource, HeaderValue(r.Source))
	put(headerType, HeaderValue(r.Type))
	put(headerSubject, HeaderValue(r.Key.String()))
	if !r.Time.IsZero() {
		put(headerTime, r.Time.UTC().Format(time.RFC3339Nano))
	}
	if r.Delete {
		put(headerTombstone, "true")
	}
	putSeq := func(name string, s Seq) {
		if s != 0 {
			put(name, strconv.FormatUint(uint64(s), 10))
		}
	}
	putSeq(headerExpect, r.Expect)
	putSeq(headerSeen, r.Seen)
	put(headerCause, causeValue(r.Cause))
	if d := r.Decision; d != nil {
		put(headerDecision, decisionValue(*d))
	}
	put(headerTrace, HeaderValue(r.Trace))
	put(headerNote, HeaderValue(r.Note))
	return h
}

// FromHeaders reads what Headers wrote; Key, Seq and Body are not in it.
// Headers that it does not know are ignored.
func FromHeaders(h map[string][]string) (Record, error) {
	var r Record
	p := headerParser{headers: h}
	if v := p.raw(headerSpec); v != specVersion {
		return r, fmt.Errorf("%s is %q, not %q", headerSpec, v, specVersion)
	}
	r.ID = p.text(headerID)
	r.Source = shared(p.text(headerSource))
	r.Type = shared(p.text(headerType))
	r.Trace = p.text(headerTrace)
	r.Note = p.text(headerNote)
	r.Expect = p.seq(headerExpect)
	r.Seen = p.seq(headerSeen)
	if v := p.raw(headerTime); v != "" {
		t, err := time.Parse(time.RFC3339Nano, v)
		p.fail(headerTime, err)
		r.Time = t.UTC()
	}
	switch v := p.raw(headerTombstone); v {
	case "":
	case "true":
		r.Delete = true
	default:
		p.fail(headerTombstone, fmt.Errorf("%q is not true", v))
	}
	if v := p.raw(headerCause); v != "" {
		for c := range strings.SplitSeq(v, ",") {
			s, err := strconv.ParseUint(c, 10, 64)
			p.fail(headerCause, err)
			r.Cause = append(r.Cause, Seq(s))
		}
	}
	if v := p.raw(headerDecision); v != "" {
		d, err := parseDecision(v)
		p.fail(headerDecision, err)
		r.Decision = &d
	}
	return r, p.err
}

// shared returns a string that equal ones share their bytes with: actors, types
// and builds are few, and records are kept for long.
func shared(s string) string { return unique.Make(s).Value() }

// headerParser reads single headers and keeps the first error.
type headerParser struct {
	headers map[string][]string
	err     error
}

func (p *headerParser) fail(name string, err error) {
	if p.err == nil && err != nil {
		p.err = fmt.Errorf("%s: %w", name, err)
	}
}

func (p *headerParser) raw(name string) string {
	if v := p.headers[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func (p *headerParser) text(name string) string {
	s, err := unescape(p.raw(name), '%')
	p.fail(name, err)
	return s
}

func (p *headerParser) seq(name string) Seq {
	v := p.raw(name)
	if v == "" {
		return 0
	}
	s, err := strconv.ParseUint(v, 10, 64)
	p.fail(name, err)
	return Seq(s)
}

// HeaderValue percent-encodes space, double quote, percent and everything
// outside printable ASCII.
func HeaderValue(s string) string {
	return escapeValue(s, '%')
}

// escapeValue is HeaderValue, with one more byte to be escaped.
func escapeValue(s string, more byte) string {
	special := func(c byte) bool { return c <= ' ' || c >= 0x7f || c == '"' || c == '%' || c == more }
	n := 0
	for i := range len(s) {
		if special(s[i]) {
			n++
		}
	}
	if n == 0 {
		return s
	}
	b := make([]byte, 0, len(s)+2*n)
	for i := range len(s) {
		if c := s[i]; special(c) {
			b = append(b, '%', upperHex[c>>4], upperHex[c&15])
		} else {
			b = append(b, c)
		}
	}
	return string(b)
}

// causeValue writes Seqs with commas between.
func causeValue(cause []Seq) string {
	var b []byte
	for i, c := range cause {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(c), 10)
	}
	return string(b)
}

// decisionValue writes "decider;key;index/count;build", each part escaped.
func decisionValue(d DecisionRef) string {
	return escapeValue(d.Decider, ';') + ";" + escapeValue(d.Key, ';') + ";" +
		strconv.Itoa(d.Index) + "/" + strconv.Itoa(d.Count) + ";" + escapeValue(d.Build, ';')
}

// parseDecision reads what decisionValue wrote.
func parseDecision(s string) (DecisionRef, error) {
	var d DecisionRef
	parts := strings.Split(s, ";")
	if len(parts) != 4 {
		return d, fmt.Errorf("%q: expected decider;key;index/count;build", s)
	}
	index, count, _ := strings.Cut(parts[2], "/")
	var err error
	if d.Index, err = strconv.Atoi(index); err != nil {
		return d, fmt.Errorf("%q: index: %w", s, err)
	}
	if d.Count, err = strconv.Atoi(count); err != nil {
		return d, fmt.Errorf("%q: count: %w", s, err)
	}
	for _, p := range []struct {
		from string
		to   *string
	}{{parts[0], &d.Decider}, {parts[1], &d.Key}, {parts[3], &d.Build}} {
		if *p.to, err = unescape(p.from, '%'); err != nil {
			return d, err
		}
	}
	d.Decider, d.Build = shared(d.Decider), shared(d.Build)
	return d, nil
}
