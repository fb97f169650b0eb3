package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/rutterhq/rutter/internal/history"
)

// fieldsShown bounds the fields that the table of a what-if shows of one
// difference. --output json has more.
const fieldsShown = 8

// Report shows the outcome of a replay.
func (p Painter) Report(r *history.Report) {
	p.row("events read", r.Events, "")
	p.row("decisions recomputed", r.Decisions, "")
	p.row("changes compared", r.Changes, "")
	p.row("explained", r.Explained, "")
	for _, why := range slices.Sorted(maps.Keys(r.Why)) {
		fmt.Fprintf(p.W, "%33d  %s\n", r.Why[why], p.paint(dim, why))
	}
	if r.Earlier > 0 {
		p.row("of earlier decisions", r.Earlier, "")
	}
	verdict := green
	if r.Unexplained > 0 {
		verdict = bold + ";" + red
	}
	p.row("unexplained", r.Unexplained, verdict)
	if r.Unstable > 0 {
		p.row("had two results", r.Unstable, bold+";"+red)
	}
	if r.Modified > 0 {
		p.row("objects modified", r.Modified, bold+";"+red)
	}
	p.builds(r)
	if r.Failed() && len(r.OtherBuilds()) > 0 {
		fmt.Fprintln(p.W, "Other builds may decide otherwise: --what-if shows all that differs.")
	}
	if r.First != "" {
		fmt.Fprintf(p.W, "\n%s\n%s", p.Bad("the first that differs:"), r.First)
	}
}

func (p Painter) row(name string, n int, color string) {
	fmt.Fprintf(p.W, "%-22s %s\n", name, p.paint(color, fmt.Sprintf("%8d", n)))
}

// builds says it plainly if another build had decided.
func (p Painter) builds(r *history.Report) {
	others := r.OtherBuilds()
	if len(others) == 0 || r.Build == "" {
		return
	}
	n := 0
	for _, b := range others {
		n += r.Builds[b]
	}
	fmt.Fprintf(p.W, "\n%d of %d changes were decided by build %s; this is build %s.\n", n, r.Changes, strings.Join(others, ", "), r.Build)
}

// WhatIf shows what was decided and what is decided now, where they differ.
func (p Painter) WhatIf(r *history.Report) {
	p.builds(r)
	rows := [][]string{{"DECIDER", "KEY", "SEEN", "OBJECT", "RECORDED", "NOW"}}
	decisions := map[string]bool{}
	for _, d := range r.Differences {
		decisions[fmt.Sprint(d.Decider, d.Key, d.Seen, d.At)] = true
		was, now := sideText(d.Recorded), sideText(d.Recomputed)
		if d.Modified {
			was, now = "", "modified in the view"
		}
		rows = append(rows, []string{d.Decider, d.Key, fmt.Sprint(d.Seen), d.Object, was, now})
	}
	if len(r.Differences) == 0 {
		fmt.Fprintf(p.W, "%s: %d decisions, %d changes\n", p.Good("nothing differs"), r.Decisions, r.Changes)
		return
	}
	for i, line := range columns(rows) {
		if i == 0 {
			fmt.Fprintf(p.W, "\n%s\n", p.paint(bold, line))
			continue
		}
		fmt.Fprintln(p.W, p.paint(cyan, line))
		p.below(r.Differences[i-1])
	}
	if n := r.Unexplained + r.Unstable + r.Modified; n > len(r.Differences) {
		fmt.Fprintf(p.W, "… and %d more\n", n-len(r.Differences))
	}
	fmt.Fprintf(p.W, "\n%s: %d changes, in %d of %d decisions. Each was made on what had been seen then; what would have followed is not played on.\n",
		p.Bad("differ"), r.Unexplained, len(decisions), r.Decisions)
}

// columns aligns the cells of rows, which have no colour.
func columns(rows [][]string) []string {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], len(cell))
		}
	}
	var out []string
	for _, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			fmt.Fprintf(&b, "%-*s   ", width[i], cell)
		}
		out = append(out, strings.TrimRight(b.String(), " "))
	}
	return out
}

func sideText(s *history.Side) string {
	switch {
	case s == nil:
		return "nothing"
	case s.Seq > 0:
		return fmt.Sprintf("%s (event %d)", s.Type, s.Seq)
	}
	return s.Type
}

// below says what is to be said below a row: the fields that differ, notes, and
// what was found out.
func (p Painter) below(d *history.Difference) {
	say := func(color, format string, args ...any) {
		fmt.Fprintln(p.W, "    "+p.paint(color, fmt.Sprintf(format, args...)))
	}
	for _, f := range d.Fields[:min(len(d.Fields), fieldsShown)] {
		fmt.Fprintln(p.W, "    "+p.field(f))
	}
	if n := len(d.Fields) - fieldsShown; n > 0 {
		say(dim, "… and %d more fields", n)
	}
	if a, b := d.Recorded, d.Recomputed; a != nil && b != nil {
		if a.Note != b.Note {
			say(red, "- note: %s", a.Note)
			say(green, "+ note: %s", b.Note)
		}
		if a.Expect != b.Expect {
			say(yellow, "~ after event %d → %d", a.Expect, b.Expect)
		}
	}
	if d.Panic != "" {
		say(red, "it panicked: %s", d.Panic)
	}
	if d.Results > 1 || d.Twice {
		say(red, "%s", d.Verdict())
	}
}
