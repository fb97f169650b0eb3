package history

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rutterhq/rutter/kernel"
)

// fieldsKept bounds the fields that one Difference names.
const fieldsKept = 50

// Report is the outcome of a replay.
type Report struct {
	From      kernel.Seq `json:"from,omitempty"` // of the state that it began with
	Last      kernel.Seq `json:"last"`           // the last event read
	Events    int        `json:"events"`         // read, without those of the state
	Decisions int        `json:"decisions"`      // distinct ones, made again
	Changes   int        `json:"changes"`        // recorded changes compared
	Explained int        `json:"explained"`      // changes wanted that never landed, and why is known
	// Why tells how many were explained by what.
	Why         map[string]int `json:"why,omitempty"`
	Unexplained int            `json:"unexplained"` // changes that differ, or are missing without a reason
	// Earlier are changes whose decision was made before the state at From:
	// they cannot be compared.
	Earlier  int `json:"earlier,omitempty"`
	Unstable int `json:"unstable,omitempty"` // decisions that had two results on one View
	Modified int `json:"modified,omitempty"` // objects of the View that a decider modified
	// Build is the program that decided again, Builds are the changes compared
	// of each that had decided.
	Build  string         `json:"build,omitempty"`
	Builds map[string]int `json:"builds,omitempty"`
	// Digest is equal for equal results of all decisions, wherever and however
	// often they are made.
	Digest string `json:"digest,omitempty"`
	// First tells of the first difference: the recorded and the recomputed change.
	First string `json:"first,omitempty"`
	// Differences are the first 1,000, in the order of what the decisions saw.
	Differences []*Difference `json:"differences,omitempty"`
	// ByDecider counts the decisions and the unexplained changes of each.
	ByDecider map[string]*Count `json:"byDecider,omitempty"`
}

// Count is what Report.ByDecider holds.
type Count struct {
	Decisions   int `json:"decisions"`
	Changes     int `json:"changes"`
	Unexplained int `json:"unexplained"`
}

// Difference is a change that is not as it was recorded.
type Difference struct {
	Decider string     `json:"decider"`
	Key     string     `json:"key"` // what was decided upon
	Seen    kernel.Seq `json:"seen"`
	At      time.Time  `json:"at"`
	Object  string     `json:"object,omitempty"` // what changed
	// Recorded and Recomputed are the two versions of the change; nil: none.
	Recorded   *Side         `json:"recorded,omitempty"`
	Recomputed *Side         `json:"recomputed,omitempty"`
	Fields     []FieldChange `json:"fields,omitempty"` // that differ, the first 50
	Panic      string        `json:"panic,omitempty"`  // of the decider now
	// Results is how many different results the decision had when it was made
	// again 16 times on one View: 1 is another build or another machine, more
	// is a decider that reads a clock, chance or a map's order. 0: not tried.
	Results int `json:"results,omitempty"`
	// Twice: both versions are of now, made one after the other.
	Twice bool `json:"twice,omitempty"`
	// Modified: the decision modified an object of its View, by these Fields.
	Modified bool `json:"modified,omitempty"`
}

// Side is one version of a change.
type Side struct {
	Seq    kernel.Seq `json:"seq,omitempty"` // of the event; 0: it is recomputed
	Type   string     `json:"type"`
	Expect kernel.Seq `json:"expect"`
	Delete bool       `json:"delete,omitempty"`
	Index  int        `json:"index"`
	Note   string     `json:"note,omitempty"`
	Build  string     `json:"build,omitempty"`
}

func sideOf(r *kernel.Record) *Side {
	if r == nil {
		return nil
	}
	return &Side{r.Seq, r.Type, r.Expect, r.Delete, r.Decision.Index, r.Note, r.Decision.Build}
}

// Failed tells whether anything was found that must not be.
func (r *Report) Failed() bool { return r.Unexplained+r.Unstable+r.Modified > 0 }

// OtherBuilds are those that had decided and are not the one that decided again.
func (r *Report) OtherBuilds() []string {
	var out []string
	for b := range r.Builds { // in no order: sorted below
		if b != r.Build {
			out = append(out, b)
		}
	}
	slices.Sort(out)
	return out
}

func (r *Report) explain(why string) {
	r.Explained++
	r.Why[why]++
}

// differ keeps a difference.
func (r *Report) differ(d *Difference) {
	if len(r.Differences) < 2*differencesKept { // what is missing comes last, and is sorted in
		r.Differences = append(r.Differences, d)
	}
}

// finish puts the differences in order.
func (r *Report) finish() {
	slices.SortStableFunc(r.Differences, func(a, b *Difference) int {
		return cmp.Or(cmp.Compare(a.Seen, b.Seen), a.At.Compare(b.At), cmp.Compare(a.Decider, b.Decider), cmp.Compare(a.Key, b.Key))
	})
	r.Differences = r.Differences[:min(len(r.Differences), differencesKept)]
	if len(r.Differences) > 0 {
		r.First = r.Differences[0].String()
	}
	if len(r.Why) == 0 {
		r.Why = nil
	}
}

func (d *decision) compare(o decisionID) int {
	return cmp.Or(cmp.Compare(d.seen, o.seen), cmp.Compare(d.at, o.at), cmp.Compare(d.decider, o.decider), cmp.Compare(d.key, o.key))
}

// String tells the whole of a difference, on several lines.
func (d *Difference) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s on %s, seen %d, at %s\n", d.Decider, d.Key, d.Seen, d.At.Format(time.RFC3339Nano))
	switch {
	case d.Modified:
		fmt.Fprintf(&b, "  it modified %s in its View, which all others see too\n", d.Object)
	case d.Twice:
		d.describe(&b, "once      ", d.Recorded)
		d.describe(&b, "once more ", d.Recomputed)
	default:
		d.describe(&b, "recorded  ", d.Recorded)
		d.describe(&b, "recomputed", d.Recomputed)
	}
	for _, f := range d.Fields {
		fmt.Fprintf(&b, "    %s\n", f)
	}
	if d.Panic != "" {
		fmt.Fprintf(&b, "  it panicked: %s\n", d.Panic)
	}
	if s := d.Verdict(); s != "" {
		fmt.Fprintf(&b, "  %s\n", s)
	}
	return b.String()
}

// Verdict tells what was found by making the decision more often.
func (d *Difference) Verdict() string {
	switch {
	case d.Twice:
		return "two results on one View: it reads a clock, chance, a map's order, or what it kept itself"
	case d.Results > 1:
		return fmt.Sprintf("made %d times on this View, it had %d results: it reads a clock, chance, a map's order, or what it kept itself", probes, d.Results)
	case d.Results == 1 && d.Panic == "":
		return fmt.Sprintf("made %d times on this View, it had the same result: the build or the machine decides otherwise", probes)
	}
	return ""
}

func (d *Difference) describe(b *strings.Builder, which string, s *Side) {
	if s == nil {
		fmt.Fprintf(b, "  %s: nothing\n", which)
		return
	}
	event := "event"
	if s.Seq > 0 {
		event = fmt.Sprintf("event %d", s.Seq)
	}
	fmt.Fprintf(b, "  %s: %s %s %s after %d (change %d) %s\n", which, event, s.Type, d.Object, s.Expect, s.Index, s.Note)
}
