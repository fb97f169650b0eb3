package apiserver

import (
	"fmt"
	"testing"
	"time"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/kernel"
)

// act appends what a component of ours would: a change of a ConfigMap with a note.
func (a *api) act(name, source, ceType, note string, at time.Time) {
	a.t.Helper()
	v, err := a.s.index.view(a.t.Context())
	if err != nil {
		a.t.Fatal(err)
	}
	key := kernel.Key{Resource: kernel.Resource{Plural: "configmaps"}, Namespace: "default", Name: name}
	e := v.Entry(key)
	_, err = a.s.cfg.Log.Append(a.t.Context(), kernel.Record{Key: key, Expect: e.Seq, Body: e.Body,
		Envelope: events.Envelope{ID: fmt.Sprint(name, e.Seq), Source: source, Type: ceType, Note: note, Time: at}})
	if err != nil {
		a.t.Fatal(err)
	}
}

const eventsPath = "/api/v1/namespaces/default/events"

func TestProjectedEvents(t *testing.T) {
	c := newCluster(t)
	a := c.start()
	a.want(201, "POST", configMaps, configMap("web"))
	w := a.watch(eventsPath + "?watch=1")
	now, before := time.Now(), c.mark()
	a.act("web", "scheduler", "pod.bound", "assigned default/web to n1", now)
	a.act("web", "nodeagent/n1", "container.died", "exit code 1", now)
	a.act("web", "nodeagent/n1", "container.died", "exit code 1", now.Add(time.Second))
	a.act("web", "scheduler", "pod.bound", "", now) // nothing was said: nothing is shown
	a.want(201, "POST", eventsPath, `{"metadata":{"name":"stored"},"involvedObject":{"namespace":"default","kind":"ConfigMap","name":"web"},"reason":"Mine","type":"Normal"}`)
	for _, want := range []string{"ADDED Scheduled 1", "ADDED ContainerDied 1", "MODIFIED ContainerDied 2", "ADDED Mine 0"} {
		kind, o := w.next()
		count, _ := at_(o, "count").(float64)
		if got := fmt.Sprintf("%s %s %v", kind, str(o, "reason"), count); got != want {
			t.Errorf("watch: %s, want %s", got, want)
		}
	}
	list := a.want(200, "GET", eventsPath+"?fieldSelector=involvedObject.name%3Dweb", "")
	var died map[string]any
	items, _ := at_(list, "items").([]any)
	for _, i := range items {
		if str(i, "reason") == "ContainerDied" {
			died = i.(map[string]any)
		}
	}
	if len(items) != 3 || str(died, "message") != "exit code 1" || str(died, "type") != "Warning" ||
		str(died, "source", "component") != "nodeagent" || str(died, "source", "host") != "n1" || str(died, "involvedObject", "kind") != "ConfigMap" {
		t.Errorf("list: %v", list)
	}
	a.want(200, "GET", eventsPath+"/"+str(died, "metadata", "name"), "")
	if old := listed(a.want(200, "GET", eventsPath+"?resourceVersionMatch=Exact&resourceVersion="+before, "")); len(old) != 0 {
		t.Errorf("before it happened: %v", old)
	}
	// Another server makes the same of the log, as does one that starts later.
	b := (&cluster{t: t, log: a.s.cfg.Log, ca: a.s.cfg.CA}).start()
	if again := b.want(200, "GET", eventsPath, ""); len(listed(again)) != 3 {
		t.Errorf("another server: %v", listed(again))
	}
}

func TestProjectionIsBounded(t *testing.T) {
	p := newProjection()
	start := time.Now().Add(-2 * time.Hour)
	about := kernel.Key{Resource: kernel.Resource{Plural: "pods"}, Namespace: "default", Name: "p"}
	add := func(seq int, k kernel.Key, note string, at time.Time) {
		p.add(&kernel.Record{Key: k, Seq: kernel.Seq(seq), Envelope: events.Envelope{Source: "scheduler", Type: "pod.bound", Note: note, Time: at}})
	}
	for i := range 100 {
		add(i+1, about, fmt.Sprint("note ", i), start)
	}
	if n := len(p.seen); n != eventsPerObject {
		t.Errorf("%d events of one object, want %d", n, eventsPerObject)
	}
	for i := range eventsInAll + 5000 {
		k := about
		k.Name = fmt.Sprint("p", i)
		add(i+101, k, "note", start.Add(time.Duration(i)*time.Millisecond))
	}
	if n := len(p.seen); n != eventsInAll {
		t.Errorf("%d events in all, want %d", n, eventsInAll)
	}
	add(eventsInAll+5101, about, "much later", start.Add(2*time.Hour))
	if n := len(p.seen); n != 1 || len(p.byObj) != 1 || len(p.places) != 1 {
		t.Errorf("%d events after an hour of silence, %d objects, %d places", n, len(p.byObj), len(p.places))
	}
}
