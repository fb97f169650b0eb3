package controllers

import (
	"time"

	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// eventTTL is for how long an Event object is kept after its last change
// (kube-apiserver's --event-ttl).
const eventTTL = time.Hour

// eventsExpire removes Event objects that nodes and users wrote when they are old.
// Those of our own components are no objects, but a view of the log.
var eventsExpire = kernel.Decider{
	Name:   "controllers/events",
	Reads:  []kernel.Resource{kinds.Events.Resource},
	Writes: []kernel.Resource{kinds.Events.Resource},
	Wakes:  func(_ *kernel.View, e kernel.Event) []kernel.Key { return []kernel.Key{e.Key} },
	Decide: func(v *kernel.View, k kernel.Key, now time.Time) kernel.Decision {
		e := v.Entry(k)
		if e == nil || e.Delete {
			return kernel.Decision{}
		}
		if until := e.Time.Add(eventTTL); until.After(now) {
			return kernel.Decision{Revisit: until}
		}
		ev, _ := kinds.Events.Get(v, k.Namespace, k.Name)
		return kernel.Decision{Changes: []kernel.Change{kinds.Events.Remove(ev, "event.expired", "")}}
	},
}
