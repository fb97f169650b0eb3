package cli

import (
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"strings"
	"time"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/internal/history"
)

// Painter writes events for people, in colour where they look at a terminal.
type Painter struct {
	W     io.Writer
	Color bool
}

// onTerminal tells whether stdout is a terminal whose user has not set NO_COLOR
// (https://no-color.org).
func onTerminal() bool {
	info, err := os.Stdout.Stat()
	_, plain := os.LookupEnv("NO_COLOR")
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && !plain
}

// The colours of ECMA-48 that Painter uses.
const (
	bold, dim, red, green, yellow, cyan = "1", "2", "31", "32", "33", "36"
)

func (p Painter) paint(code, s string) string {
	if !p.Color || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// Good and Bad paint verdicts.
func (p Painter) Good(s string) string { return p.paint(green, s) }

// Bad paints a bad verdict.
func (p Painter) Bad(s string) string { return p.paint(bold+";"+red, s) }

// actor gives each actor a colour of its own.
func (p Painter) actor(s string) string {
	h := fnv.New32a()
	_, _ = io.WriteString(h, strings.SplitN(s, "/", 2)[0])
	return p.paint(fmt.Sprint(31+h.Sum32()%6), s)
}

func (p Painter) kind(t string) string {
	switch {
	case strings.HasSuffix(t, ".deleted"), strings.HasSuffix(t, ".deleting"), strings.HasSuffix(t, ".failed"), strings.HasSuffix(t, ".died"), strings.HasSuffix(t, ".silent"):
		return p.paint(red, t)
	case strings.HasSuffix(t, ".created"), strings.HasSuffix(t, ".bound"), strings.HasSuffix(t, ".started"), strings.HasSuffix(t, ".ready"):
		return p.paint(green, t)
	}
	return p.paint(yellow, t)
}

// clock shows when something happened: the time of today, else with the date.
func clock(at, now time.Time) string {
	at = at.Local()
	if at.Format(time.DateOnly) == now.Local().Format(time.DateOnly) {
		return at.Format("15:04:05.000")
	}
	return at.Format("2006-01-02 15:04:05.000")
}

// line is one event on one line, without its note.
func (p Painter) line(r *events.Record) string {
	return fmt.Sprintf("%s %s %s %s %s", p.paint(bold, fmt.Sprint(r.Seq)),
		p.paint(dim, clock(r.Time, time.Now())), p.actor(r.Source), p.kind(r.Type), p.paint(cyan, r.Key.String()))
}

// Event shows one event of the log.
func (p Painter) Event(r *events.Record) {
	fmt.Fprintln(p.W, p.line(r))
	if r.Note != "" {
		fmt.Fprintf(p.W, "      %s\n", p.paint(dim, strings.ReplaceAll(r.Note, "\n", "\n      ")))
	}
}

// Chain shows an event and below it what caused it, as a tree.
func (p Painter) Chain(l *history.Link) {
	fmt.Fprintln(p.W, p.line(&l.Record)+p.roots(l))
	p.note(&l.Record, "")
	p.causes(l, "")
}

func (p Painter) causes(l *history.Link, indent string) {
	for i, c := range l.Causes {
		branch, below := "├─ ", "│  "
		if i == len(l.Causes)-1 {
			branch, below = "└─ ", "   "
		}
		fmt.Fprintln(p.W, indent+p.paint(dim, branch+"because ")+p.line(&c.Record)+p.roots(c))
		if c.Shown {
			continue
		}
		p.note(&c.Record, indent+below)
		p.causes(c, indent+below)
	}
}

func (p Painter) roots(l *history.Link) string {
	switch {
	case l.Shown:
		return p.paint(dim, " (shown above)")
	case len(l.Record.Cause) == 0 && l.Record.Source != "":
		return p.paint(bold, " ← from outside")
	}
	return ""
}

func (p Painter) note(r *events.Record, indent string) {
	if r.Note != "" {
		fmt.Fprintf(p.W, "%s      %s\n", indent, p.paint(dim, strings.ReplaceAll(r.Note, "\n", "\n"+indent+"      ")))
	}
}

// Changes shows what changed in an object by one event.
func (p Painter) Changes(r *events.Record, changes []history.FieldChange) {
	fmt.Fprintln(p.W, p.line(r))
	for _, c := range changes {
		fmt.Fprintln(p.W, "    "+p.field(c))
	}
}

// field is a change of one field, on one line.
func (p Painter) field(c history.FieldChange) string {
	code := yellow
	if c.Old == "" {
		code = green
	} else if c.New == "" {
		code = red
	}
	return p.paint(code, c.String())
}
