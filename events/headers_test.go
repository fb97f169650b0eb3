package events

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// headed is what of a record stands in its headers.
func headed(r Record) Record {
	r.Key, r.Seq, r.Body = Key{}, 0, nil
	return r
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	r := full()
	want := map[string][]string{
		"ce-specversion": {"1.0"},
		"ce-id":          {"b1"},
		"ce-source":      {"controllers/deployment"},
		"ce-type":        {"deployment.scaled"},
		"ce-subject":     {"deployments.apps/default/web"},
		"ce-time":        {"2026-11-23T18:00:00.123456789Z"},
		"ce-expect":      {"3"},
		"ce-tombstone":   {"true"},
		"ce-seen":        {"6"},
		"ce-cause":       {"4,5"},
		"ce-decision":    {"controllers/deployment;deployments.apps/default/web;0/2;v0"},
		"traceparent":    {r.Trace},
		"ce-note":        {"2%20<%203%20&%20%22so%22%0A%C3%BCn%C3%AFcode"},
	}
	if diff := cmp.Diff(want, r.Headers()); diff != "" {
		t.Error(diff)
	}
	for name, r := range map[string]Record{"full": r, "zero": {}} {
		back, err := FromHeaders(r.Headers())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(headed(r), back); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestFromHeadersRefuses(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]string{
		"ce-specversion": "0.3", "ce-time": "now", "ce-seen": "-1", "ce-expect": "x", "ce-cause": "1,,2",
		"ce-tombstone": "yes", "ce-note": "%", "ce-id": "%4", "ce-decision": "a;b;1;c",
	} {
		h := full().Headers()
		h[name] = []string{value}
		if r, err := FromHeaders(h); err == nil {
			t.Errorf("%s: %s was read as %+v", name, value, r)
		}
	}
	if _, err := FromHeaders(nil); err == nil {
		t.Error("no headers at all were read as an event")
	}
}

func FuzzHeaders(f *testing.F) {
	f.Add("id", "user:admin", "a\r\nce-id: b", "why; \"1/2\" 100 %\x00\xff", "deci;der", "key", int64(7), 1, uint64(3))
	f.Fuzz(func(t *testing.T, id, source, kind, note, decider, key string, ns int64, index int, seq uint64) {
		r := Record{
			Expect: Seq(seq), Delete: seq%2 == 0,
			Envelope: Envelope{
				ID: id, Source: source, Type: kind, Time: time.Unix(0, ns).UTC(), Seen: Seq(seq), Note: note, Trace: key,
				Cause: []Seq{0, Seq(seq)}, Decision: &DecisionRef{Decider: decider, Key: key, Index: index, Count: index, Build: note},
			},
		}
		h := r.Headers()
		for name, values := range h {
			for _, v := range values {
				if strings.ContainsFunc(v, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
					t.Fatalf("%s: %q is not printable ascii", name, v)
				}
			}
		}
		back, err := FromHeaders(h)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, back); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestCheck(t *testing.T) {
	t.Parallel()
	if err := full().Check(); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*Record){
		"body":   func(r *Record) { r.Body = make([]byte, MaxRecord+1) },
		"note":   func(r *Record) { r.Note = strings.Repeat("n", MaxNote+1) },
		"causes": func(r *Record) { r.Cause = make([]Seq, MaxCauses+1) },
		"key":    func(r *Record) { r.Key.Name = strings.Repeat("n", maxKey) },
		"word":   func(r *Record) { r.Decision = &DecisionRef{Build: strings.Repeat("n", maxWord+1)} },
	} {
		r := full()
		spoil(&r)
		if err := r.Check(); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for name, spoil := range map[string]func(*Record){
		"no name":     func(r *Record) { r.Key.Name = "" },
		"no resource": func(r *Record) { r.Key.Resource = Resource{} },
		"slash":       func(r *Record) { r.Key.Namespace = "a/b" },
		"dot":         func(r *Record) { r.Key.Plural = "a.b" },
	} {
		r := full()
		spoil(&r)
		if err := r.Check(); err == nil || errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	// The largest envelope that passes fits into JetStream's 64 KiB.
	r := full()
	wide := strings.Repeat("\x00", maxWord)
	r.Key = Key{Resource: Resource{Plural: "x"}, Name: strings.Repeat("\x00", maxKey-1)}
	r.ID, r.Source, r.Type, r.Trace, r.Note = wide, wide, wide, wide, strings.Repeat("\x00", MaxNote)
	r.Decision = &DecisionRef{Decider: wide, Key: wide, Build: wide}
	if n := len(r.Key.Subject()); n > 4096-512 {
		t.Errorf("a key within its bounds takes %d bytes of subject", n)
	}
	size := 0
	for name, v := range r.Headers() {
		size += len(name) + len(v[0]) + 4
	}
	if size > 1<<16-1024 {
		t.Errorf("an envelope within its bounds takes %d bytes of headers", size)
	}
}
