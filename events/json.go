package events

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// wire is a Record as JSON, all but its body. The door, recordings and
// "rutter log -o json" show it.
type wire struct {
	Key      string        `json:"key,omitempty"` // empty in a bookmark, which only says that the log was read up to Seq
	Seq      Seq           `json:"seq,omitempty"`
	Expect   Seq           `json:"expect,omitempty"`
	Delete   bool          `json:"delete,omitempty"`
	ID       string        `json:"id,omitempty"`
	Source   string        `json:"source,omitempty"`
	Type     string        `json:"type,omitempty"`
	Time     string        `json:"time,omitempty"` // RFC 3339 with nanoseconds
	Seen     Seq           `json:"seen,omitempty"`
	Cause    []Seq         `json:"cause,omitempty"`
	Decision *wireDecision `json:"decision,omitempty"`
	Trace    string        `json:"trace,omitempty"`
	Note     string        `json:"note,omitempty"`
}

// wireDecision is a DecisionRef as JSON. Index is written even when it is 0,
// for it is an ordinal, not an amount.
type wireDecision struct {
	Decider string `json:"decider"`
	Key     string `json:"key,omitempty"`
	Index   int    `json:"index"`
	Count   int    `json:"count"`
	Build   string `json:"build,omitempty"`
}

// MarshalJSON writes the Record as one flat object whose "body" is the
// object's own JSON, byte for byte. It fails if the body is not JSON.
func (r Record) MarshalJSON() ([]byte, error) {
	w := wire{
		Seq: r.Seq, Expect: r.Expect, Delete: r.Delete,
		ID: r.ID, Source: r.Source, Type: r.Type, Seen: r.Seen, Cause: r.Cause, Trace: r.Trace, Note: r.Note,
	}
	if r.Key != (Key{}) {
		w.Key = r.Key.String()
	}
	if !r.Time.IsZero() {
		w.Time = r.Time.UTC().Format(time.RFC3339Nano)
	}
	if d := r.Decision; d != nil {
		w.Decision = (*wireDecision)(d)
	}
	// An Encoder of our own, because Marshal escapes < and > in the body too.
	var out bytes.Buffer
	out.Grow(512 + len(r.Body))
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(w); err != nil {
		return nil, fmt.Errorf("record %d of %s as json: %w", r.Seq, r.Key, err)
	}
	if len(r.Body) == 0 {
		return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
	}
	if !json.Valid(r.Body) {
		return nil, fmt.Errorf("record %d of %s as json: the body is not json", r.Seq, r.Key)
	}
	out.Truncate(out.Len() - len("}\n"))
	if out.Len() > len("{") {
		out.WriteByte(',')
	}
	out.WriteString(`"body":`)
	out.Write(r.Body)
	out.WriteByte('}')
	return out.Bytes(), nil
}

// UnmarshalJSON reads what MarshalJSON wrote. Members that it does not know
// are ignored. An object without a key is a bookmark.
func (r *Record) UnmarshalJSON(data []byte) error {
	var w struct {
		wire
		Body json.RawMessage `json:"body"`
	}
	if err := json.Unmarshal(data, &w); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	out := Record{
		Seq: w.Seq, Expect: w.Expect, Delete: w.Delete,
		Envelope: Envelope{
			ID: w.ID, Source: w.Source, Type: w.Type, Seen: w.Seen, Cause: w.Cause,
			Decision: (*DecisionRef)(w.Decision), Trace: w.Trace, Note: w.Note,
		},
		Body: w.Body,
	}
	if w.Key != "" {
		k, err := ParseKey(w.Key)
		if err != nil {
			return fmt.Errorf("record: %w", err)
		}
		out.Key = k
	}
	if w.Time != "" {
		t, err := time.Parse(time.RFC3339Nano, w.Time)
		if err != nil {
			return fmt.Errorf("record: time: %w", err)
		}
		out.Time = t.UTC()
	}
	*r = out
	return nil
}
