package sim

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// envelopes: every event that a decider made names its decision and its
// causes, which lie in what it had seen, and changes what the decider declares,
// or tells of a refusal.
// Nothing from outside does; a node says what woke it. An id is used once.
type envelopes struct {
	deciders [][]kernel.Decider
	ids      map[string]bool
}

func (c *envelopes) see(e kernel.Event) error {
	if c.ids == nil {
		c.ids = map[string]bool{}
	}
	if c.ids[e.ID] {
		return fmt.Errorf("event %d: the id %s is there already", e.Seq, e.ID)
	}
	c.ids[e.ID] = true
	if e.Seen >= e.Seq {
		return fmt.Errorf("event %d: its decision had seen %d", e.Seq, e.Seen)
	}
	d := c.decider(e.Source)
	if d == nil {
		if e.Decision != nil || len(e.Cause) > 0 && !strings.HasPrefix(e.Source, "nodeagent/") {
			return fmt.Errorf("event %d: %s is no decider, yet it names a decision or causes", e.Seq, e.Source)
		}
		return nil
	}
	if e.Decision == nil || e.Decision.Decider != e.Source || e.Decision.Index < 0 || e.Decision.Index >= e.Decision.Count && e.Key.Resource != kinds.Refusals.Resource || e.Decision.Build != build {
		return fmt.Errorf("event %d: its decision is %+v", e.Seq, e.Decision)
	}
	if len(e.Cause) == 0 || len(e.Cause) > 8 || !slices.IsSorted(e.Cause) || e.Cause[len(e.Cause)-1] > e.Seen {
		return fmt.Errorf("event %d: its causes are %v, its decision had seen %d", e.Seq, e.Cause, e.Seen)
	}
	if !slices.Contains(d.Writes, e.Key.Resource) && e.Key.Resource != kinds.Refusals.Resource {
		return fmt.Errorf("event %d: %s does not declare that it writes %s", e.Seq, d.Name, e.Key.Resource)
	}
	return nil
}

func (c *envelopes) decider(name string) *kernel.Decider {
	for _, ds := range c.deciders {
		for i := range ds {
			if ds[i].Name == name {
				return &ds[i]
			}
		}
	}
	return nil
}

func (c *envelopes) end() error { return nil }
