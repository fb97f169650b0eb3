package kerneltest

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/kernel"
)

// quiet are fields that no story is about.
var quiet = []string{"metadata.uid", "metadata.creationTimestamp", "metadata.managedFields", "metadata.generation", "metadata.name:", "metadata.namespace:", "kind:", "apiVersion:"}

// narrate tells the events of the current section that deciders and modelled
// nodes made.
func (w *World) narrate() []byte {
	var out bytes.Buffer
	told := map[string]bool{}
	for _, r := range w.all {
		if r.Seq <= w.from {
			continue
		}
		fmt.Fprintf(&out, "%d %s %s %s\n", r.Seq, r.Source, r.Type, r.Key)
		if r.Decision == nil || r.Delete {
			continue
		}
		var before []byte
		if r.Expect > 0 && !w.all[r.Expect-1].Delete {
			before = w.all[r.Expect-1].Body
		} else {
			what := r.Source + r.Key.Resource.String()
			if told[what] {
				continue
			}
			told[what] = true
		}
		writeDiff(&out, before, r)
	}
	fmt.Fprintf(&out, "events: %d\n", len(w.all))
	return out.Bytes()
}

func writeDiff(out *bytes.Buffer, before []byte, r kernel.Record) {
	for _, line := range history.Diff(before, r.Body) {
		text := strings.TrimPrefix(line.String(), "+ ")
		hidden := false
		for _, q := range quiet {
			hidden = hidden || strings.Contains(text, q)
		}
		if !hidden {
			fmt.Fprintf(out, "    %s\n", text)
		}
	}
}
