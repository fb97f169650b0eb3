package events

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"
)

// HorizonRecord is the event that says that tombstones below h are forgotten.
// expect is the Seq of the horizon's event before it, seen is up to where its
// writer has read.
func HorizonRecord(h, expect, seen Seq, source string, now time.Time) Record {
	return Record{
		Key: HorizonKey, Expect: expect,
		Envelope: Envelope{Source: source, Type: "history.horizon", Time: now, Seen: seen},
		Body:     fmt.Appendf(nil, `{"horizon":%d}`, h),
	}
}

// HorizonOf returns what the Record says of the horizon; ok is false for every
// other Record, and for a body that is none.
func HorizonOf(r Record) (h Seq, ok bool) {
	if r.Key != HorizonKey || r.Delete {
		return 0, false
	}
	var body Horizon
	if err := json.Unmarshal(bytes.TrimSpace(r.Body), &body); err != nil {
		return 0, false
	}
	return body.Seq, true
}

// State is the last Record of every object at one Seq: what a snapshot holds.
// It is the View without types. The zero State cannot be folded into; make it.
type State map[Key]Record

// Fold applies the next Record of the log. A bookmark changes nothing. The
// horizon drops the tombstones below it.
func (s State) Fold(r Record) {
	if r.Key == (Key{}) {
		return
	}
	if h, ok := HorizonOf(r); ok {
		maps.DeleteFunc(s, func(_ Key, e Record) bool { return e.Delete && e.Seq < h })
	}
	s[r.Key] = r
}

// Records returns the state's Records in the order of their Seqs.
func (s State) Records() []Record {
	return slices.SortedFunc(maps.Values(s), func(a, b Record) int { return cmp.Compare(a.Seq, b.Seq) })
}

// All yields records that cannot fail.
func All(records []Record) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for _, r := range records {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// Failed yields an error, and nothing else.
func Failed(err error) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) { yield(Record{}, err) }
}
