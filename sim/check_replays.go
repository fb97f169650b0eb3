package sim

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
)

// replays: every decision in the log, made again on the View that it had seen,
// wants what landed, to the byte. What it wants beside that did not land
// because its object changed meanwhile, or because the process was killed
// before it was sent.
type replays struct {
	w *World
	// dropped are the writes that died with their process.
	dropped map[place]bool
}

// place is what racing writes compete for: to come after an event of a Key.
type place struct {
	key   kernel.Key
	after kernel.Seq
}

// drop notes that a write died with its process.
func (c *replays) drop(r kernel.Record) { c.dropped[place{r.Key, r.Expect}] = true }

func (c *replays) see(kernel.Event) error { return nil }

func (c *replays) end() error {
	taken := map[place]bool{}
	changed := map[kernel.Key]kernel.Seq{} // when each object changed last
	groups := map[string][]kernel.Record{}
	var order []string
	for _, r := range c.w.records {
		taken[place{r.Key, r.Expect}] = true
		changed[r.Key] = r.Seq
		if r.Decision == nil {
			continue
		}
		instance := r.ID[:strings.LastIndexByte(r.ID, '-')]
		id := fmt.Sprint(instance, r.Decision.Decider, r.Decision.Key, r.Seen, r.Time.UnixNano())
		if groups[id] == nil {
			order = append(order, id)
		}
		groups[id] = append(groups[id], r)
	}
	for _, id := range order {
		if err := c.again(groups[id], taken, changed); err != nil {
			return err
		}
	}
	return nil
}

// again makes the decision again of which these changes landed.
func (c *replays) again(landed []kernel.Record, taken map[place]bool, changed map[kernel.Key]kernel.Seq) error {
	d := landed[0]
	key, err := events.ParseKey(d.Decision.Key)
	if err != nil {
		return err
	}
	all := slices.Concat(c.w.deciders...)
	at := slices.IndexFunc(all, func(one kernel.Decider) bool { return one.Name == d.Decision.Decider })
	wanted, _ := kernel.Decide(c.w.rules, &all[at], c.w.views[d.Seen], key, d.Time)
	what := fmt.Sprintf("%s on %s, seen %d, at %s", d.Source, key, d.Seen, d.Time.Format(time.RFC3339Nano))
	if err := c.w.told.surge.decided(c.w.views[d.Seen], wanted); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	for _, r := range landed {
		i := slices.IndexFunc(wanted, func(o kernel.Record) bool { return o.Key == r.Key })
		if i < 0 {
			return fmt.Errorf("event %d does not replay: %s does not want %s", r.Seq, what, r.Key)
		}
		o := wanted[i]
		if o.Expect != r.Expect || o.Delete != r.Delete || o.Type != r.Type || o.Note != r.Note || o.Decision.Index != r.Decision.Index || !bytes.Equal(o.Body, r.Body) {
			return fmt.Errorf("event %d does not replay: %s wants\n%s %s expecting %d\nwhere the log has\n%s %s expecting %d",
				r.Seq, what, o.Type, o.Body, o.Expect, r.Type, r.Body, r.Expect)
		}
		wanted = slices.Delete(wanted, i, i+1)
	}
	for _, o := range wanted {
		// The place does not tell alone: of an object that is long gone one View
		// knows the last event, and another has forgotten it at a horizon.
		if p := (place{o.Key, o.Expect}); !taken[p] && changed[o.Key] <= d.Seen && !c.dropped[p] {
			return fmt.Errorf("%s wants %s %s expecting %d, which never came", what, o.Type, o.Key, o.Expect)
		}
	}
	return nil
}
