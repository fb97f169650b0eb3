//go:build e2e

package r3

import (
	"fmt"
	"syscall"
	"time"
)

// leaderless is for how long after a leader was lost none of the others can have
// become one: they wait for at least four seconds to hear of it.
const leaderless = 3 * time.Second

// leaders are the servers that say that they lead a group, without one: -1 is
// none.
func (c *control) leaders(stream string, without int) (all []int) {
	for i := range c.machine {
		if i == without {
			continue
		}
		if leads, ok := c.metric(i, "rutter_log_leader", stream); ok && leads == 1 {
			all = append(all, i)
		}
	}
	return all
}

// leader waits until exactly one server says that it leads.
func (c *control) leader(stream string, without int) int {
	c.t.Helper()
	var all []int
	c.poll("one leader of "+stream, func() bool {
		all = c.leaders(stream, without)
		return len(all) == 1
	})
	return all[0]
}

// killLeader kills the server that leads a stream, or the group that keeps the
// list of streams, and starts it again once another one leads. That it led until
// it was killed shows in that nobody leads just after that. If it was too late to
// see that, or it had ceased to lead at that very moment, it is done once more.
func (c *control) killLeader(stream string) {
	c.t.Helper()
	const tries = 3
	for range tries {
		i := c.leader(stream, -1)
		c.stop(i, syscall.SIGKILL)
		killed := time.Now()
		others := c.leaders(stream, i)
		asked := time.Since(killed)
		c.writes((i+1)%3, "after the leader's kill")
		took := time.Since(killed)
		next := c.leader(stream, i)
		c.t.Logf("s%d led %s and was killed; %d ms later these led: %v; a write was taken after %.1f s, s%d leads after %.1f s",
			i+1, stream, asked.Milliseconds(), names(others), took.Seconds(), next+1, time.Since(killed).Seconds())
		c.start(i)
		if len(others) == 0 && asked < leaderless {
			return
		}
		c.whole("the kill of a server that may not have led")
	}
	c.t.Errorf("in %d attempts no leader of %s was killed for certain", tries, stream)
}

// names are the servers' names.
func names(servers []int) (all []string) {
	for _, i := range servers {
		all = append(all, fmt.Sprintf("s%d", i+1))
	}
	return all
}
