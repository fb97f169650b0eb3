package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/memory"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// happened is what a watch tells of an event, up to the object named "end".
func (w *watching) happened() (all []string, versions []kernel.Seq) {
	for {
		kind, o := w.next()
		version, err := parseVersion(str(o, "metadata", "resourceVersion"))
		if err != nil {
			w.t.Errorf("%s %v: %v", kind, o, err)
			return all, versions
		}
		all = append(all, fmt.Sprintf("%s %s %d %v", kind, str(o, "metadata", "name"), version, at_(o, "data")))
		versions = append(versions, version)
		if str(o, "metadata", "name") == "end" {
			return all, versions
		}
	}
}

// churn changes ConfigMaps at random: some come into and leave the selection
// in=yes, some are deleted and made again.
func churn(a *client, random *rand.Rand, n int) {
	patch := a.with("Content-Type", patchMerge)
	for i := range n {
		name := fmt.Sprint("m", random.IntN(12))
		body := fmt.Sprintf(`{"metadata":{"name":%q,"labels":{"in":%q}},"data":{"i":"%d"}}`, name, []string{"yes", "no"}[random.IntN(2)], i)
		if code, _, _ := a.do("POST", configMaps, body); code == 201 {
			continue
		}
		if random.IntN(3) == 0 {
			a.want(200, "DELETE", configMaps+"/"+name, "")
		} else {
			patch.want(200, "PATCH", configMaps+"/"+name, body)
		}
	}
}

// TestOldWatchesSeeWhatLiveOnesSaw starts watches at random old positions, on a
// server whose ring has none of it and whose log's beginning is purged, while
// more is written.
func TestOldWatchesSeeWhatLiveOnesSaw(t *testing.T) {
	c := newCluster(t)
	log := c.log.(*memory.Log)
	a := c.start()
	random := rand.New(rand.NewPCG(1, 2))
	start, err := parseVersion(c.mark())
	if err != nil {
		t.Fatal(err)
	}
	queries := []string{"", "&labelSelector=in%3Dyes", "&fieldSelector=metadata.name%3Dend"}
	var live []*watching
	for _, q := range queries {
		live = append(live, a.watch(fmt.Sprintf("%s?watch=1&resourceVersion=%d%s", configMaps, start, q)))
	}
	churn(a.client, random, 120)
	log.SaveNow()
	churn(a.client, random, 120)
	log.Purge(log.SaveNow())
	churn(a.client, random, 60)
	end, err := parseVersion(c.mark())
	if err != nil {
		t.Fatal(err)
	}
	b := c.start()
	type late struct {
		from  kernel.Seq
		query int
		got   []string
	}
	lates := make([]late, 60)
	var g errgroup.Group
	g.SetLimit(8) // more than are served at once: some are told to come back
	g.Go(func() error {
		churn(a.client, rand.New(rand.NewPCG(3, 4)), 60)
		a.want(201, "POST", configMaps, `{"metadata":{"name":"end","labels":{"in":"yes"}}}`)
		return nil
	})
	for i := range lates {
		lates[i].from, lates[i].query = start+kernel.Seq(random.Uint64N(uint64(end-start))), i%len(queries)
		g.Go(func() error {
			l := &lates[i]
			path := fmt.Sprintf("%s?watch=1&resourceVersion=%d%s", configMaps, l.from, queries[l.query])
			l.got, _ = b.patientWatch(path).happened()
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for q := range queries {
		want, versions := live[q].happened()
		for _, l := range lates {
			if l.query != q {
				continue
			}
			first, _ := slices.BinarySearch(versions, l.from+1)
			if diff := cmp.Diff(want[first:], l.got); diff != "" {
				t.Errorf("a watch from %d%s (-live +late):\n%s", l.from, queries[q], diff)
			}
		}
	}
	for b.s.replays.count() > 0 {
		b.s.replays.mu.Lock()
		left := b.s.replays.left
		b.s.replays.mu.Unlock()
		if b.s.replays.count() > 0 {
			<-left // or the test never ends
		}
	}
}

// patientWatch is watch by a client that comes back when it is told to.
func (c *client) patientWatch(path string) *watching {
	for {
		w, code := c.tryWatch(path)
		if code == 200 {
			return w
		}
		if code != 429 {
			c.t.Errorf("watch %s: %d", path, code)
		}
	}
}

// diskLog is a log whose past is read as from a disk: with bytes of its own,
// one read at a time if a gate is set.
type diskLog struct {
	*memory.Log
	gate  chan struct{}
	reads chan [2]kernel.Seq // nil, or where every read of events is announced
}

func fromDisk(rs iter.Seq2[kernel.Record, error], gate chan struct{}) iter.Seq2[kernel.Record, error] {
	return func(yield func(kernel.Record, error) bool) {
		if gate != nil {
			<-gate
		}
		for r, err := range rs {
			r.Body = slices.Clone(r.Body)
			if !yield(r, err) {
				return
			}
		}
	}
}

func (l *diskLog) Read(ctx context.Context, after, to kernel.Seq) iter.Seq2[kernel.Record, error] {
	if l.reads != nil {
		l.reads <- [2]kernel.Seq{after, to}
	}
	return fromDisk(l.Log.Read(ctx, after, to), l.gate)
}

func (l *diskLog) Snapshot(ctx context.Context, at kernel.Seq) (kernel.Seq, iter.Seq2[kernel.Record, error], error) {
	seq, rs, err := l.Log.Snapshot(ctx, at)
	if err != nil {
		return seq, rs, err
	}
	return seq, fromDisk(rs, nil), nil
}

func TestTheFifthOldWatchWaits(t *testing.T) {
	c := newCluster(t)
	log := &diskLog{Log: c.log.(*memory.Log)}
	c.log = log
	a := c.start()
	start, err := strconv.Atoi(c.mark())
	if err != nil {
		t.Fatal(err)
	}
	churn(a.client, rand.New(rand.NewPCG(1, 2)), 20)
	b := c.start()
	log.gate, log.reads = make(chan struct{}), make(chan [2]kernel.Seq, 100)
	from := func(i int) string { return fmt.Sprintf("%s?watch=1&resourceVersion=%d", configMaps, start+i) }
	var g errgroup.Group
	got := make([][]string, 6)
	for i := range got {
		g.Go(func() error {
			got[i], _ = b.patientWatch(from(i % 4)).happened() // two pairs begin at one position
			return nil
		})
	}
	for range replaysAtOnce { // as many as may be have begun to read
		<-log.reads
	}
	code, body, h := b.do("GET", from(4), "")
	if code != 429 || h.Get("Retry-After") != "1" || !strings.Contains(body, `"TooManyRequests"`) {
		t.Errorf("the fifth position: %d %v %s", code, h, body)
	}
	if code, body, h := b.do("GET", fmt.Sprintf("%s?resourceVersion=%d&resourceVersionMatch=Exact", configMaps, start+4), ""); code != 429 || h.Get("Retry-After") != "1" {
		t.Errorf("a list at the fifth position: %d %v %s", code, h, body)
	}
	a.want(201, "POST", configMaps, configMap("end"))
	close(log.gate)
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if diff := cmp.Diff(got[i], got[i+4]); diff != "" || len(got[i]) < 20 {
			t.Errorf("two watches from one position (-one +other):\n%s", diff)
		}
	}
	b.watch(from(4)) // there is room again
}

// oldWatches are replays over a log of n events of 100 KiB, none of which a
// ring has.
func oldWatches(t testing.TB, n int) (*replays, *diskLog) {
	t.Helper()
	schema := &kinds.Schema{Cluster: "test", Seal: []byte("0123456789abcdef0123456789abcdef")}
	log := &diskLog{Log: memory.New()}
	var last kernel.Seq
	for range n {
		r := kernel.Record{Key: kinds.ConfigMaps.Key("default", "one"), Expect: last, Envelope: events.Envelope{Seen: last},
			Body: fmt.Appendf(nil, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"one","namespace":"default"},"data":{"a":%q}}`, strings.Repeat("x", 100<<10))}
		var err error
		if last, err = log.Append(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	mirror := kernel.NewMirror(log, schema, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { return mirror.Run(ctx) })
	t.Cleanup(func() { cancel(); _ = g.Wait() })
	<-mirror.Ready()
	rs := newReplays(newPast(log, mirror, schema), func(_ context.Context, seq kernel.Seq) bool { return seq >= last })
	return rs, log
}

// TestSlowOldWatchesHoldLittle lets one watch of a replay stand still while
// another goes to the end.
func TestSlowOldWatchesHoldLittle(t *testing.T) {
	rs, _ := oldWatches(t, 300)
	slow, err := rs.join(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	fast, err := rs.join(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if slow.replay != fast.replay {
		t.Fatal("two watches from one position do not share a replay")
	}
	if err := slow.more(t.Context()); err != nil {
		t.Fatal(err)
	}
	held, at := slow.part, kernel.Seq(1)
	if err := fast.steps(t.Context(), func(step kernel.Step) bool {
		for _, e := range step.Events {
			if e.Seq != at+1 {
				t.Fatalf("event %d comes after %d", e.Seq, at)
			}
			at = e.Seq
		}
		return true
	}); err != nil || at != 300 {
		t.Fatalf("the fast one came to %d: %v", at, err)
	}
	bytes := 0
	for p := held; p != nil; p = p.next {
		for _, e := range p.step.Events {
			bytes += len(e.Body)
		}
	}
	if bytes > replayAhead+2*replayBytes {
		t.Errorf("the slow one holds %d bytes", bytes)
	}
	if err := slow.more(t.Context()); !errors.Is(err, errBehind) {
		t.Errorf("it goes on with what was let go: %v", err)
	}
	third, err := rs.join(t.Context(), 1)
	if err != nil || third.replay == slow.replay {
		t.Errorf("a replay whose beginning was let go can be joined: %v", err)
	}
}

// TestStalledOldWatchesGiveWay lets watches that do not read keep others out
// for no longer than they may.
func TestStalledOldWatchesGiveWay(t *testing.T) {
	rs, _ := oldWatches(t, 30)
	var stalled []*member
	for seq := range replaysAtOnce {
		m, err := rs.join(t.Context(), kernel.Seq(seq+1))
		if err != nil {
			t.Fatal(err)
		}
		stalled = append(stalled, m)
	}
	if _, err := rs.join(t.Context(), 9); statusOf(err).Code != 429 {
		t.Errorf("one more than there is room for: %v", err)
	}
	rs.mu.Lock()
	stalled[2].replay.moved = stalled[2].replay.moved.Add(-replayStalled - 1)
	rs.mu.Unlock()
	m, err := rs.join(t.Context(), 9)
	if err != nil {
		t.Fatal(err)
	}
	if err := stalled[2].more(t.Context()); !errors.Is(err, errBehind) {
		t.Errorf("it reads on without a place: %v", err)
	}
	m.leave()
	m.leave() // again is harmless
	if _, err := rs.join(t.Context(), 9); err != nil {
		t.Errorf("the place of one that has left: %v", err)
	}
}

// TestOldViewsAreBounded reads more states than are held, and looks at whether
// they share what is still as it was.
func TestOldViewsAreBounded(t *testing.T) {
	c := newCluster(t)
	c.log = &diskLog{Log: c.log.(*memory.Log)}
	a := c.start()
	a.want(201, "POST", configMaps, configMap("same"))
	churn(a.client, rand.New(rand.NewPCG(1, 2)), 40)
	end, err := strconv.Atoi(c.mark())
	if err != nil {
		t.Fatal(err)
	}
	for seq := end - 30; seq < end; seq++ {
		a.want(200, "GET", fmt.Sprintf("%s?resourceVersion=%d&resourceVersionMatch=Exact", configMaps, seq), "")
	}
	a.s.past.mu.Lock()
	defer a.s.past.mu.Unlock()
	if n := len(a.s.past.held); n != rebuiltKept {
		t.Errorf("%d Views are held, want %d", n, rebuiltKept)
	}
	key := kinds.ConfigMaps.Key("default", "same")
	now := a.s.cfg.Mirror.View().Entry(key)
	for _, h := range a.s.past.held {
		if then := h.view.Entry(key); &then.Body[0] != &now.Body[0] {
			t.Errorf("the View at %d has a copy of an object that has not changed", h.view.Seq())
		}
	}
}

// TestBeforeTheWindow asks in every way for what is no longer kept.
func TestBeforeTheWindow(t *testing.T) {
	c := newCluster(t)
	log := c.log.(*memory.Log)
	a := c.start()
	for i := range 4 {
		a.want(201, "POST", configMaps, configMap(fmt.Sprint("m", i)))
	}
	token := str(a.want(200, "GET", configMaps+"?limit=2", ""), "metadata", "continue")
	old := c.mark()
	a.want(200, "DELETE", configMaps+"/m3", "")
	kept := log.SaveNow()
	a.want(201, "POST", configMaps, configMap("new"))
	log.Purge(kept + 1)
	log.Drop(kept + 1)
	b := c.start()
	gone := func(path string) map[string]any {
		t.Helper()
		s := b.want(410, "GET", path, "")
		if m := str(s, "message"); str(s, "reason") != "Expired" || !strings.Contains(m, "history is kept from ") {
			t.Errorf("%s: %v", path, s)
		}
		return s
	}
	if m := str(gone(configMaps+"?resourceVersionMatch=Exact&resourceVersion="+old), "message"); !strings.HasPrefix(m, "too old resource version: "+old+" (history is kept from "+fmt.Sprint(kept)+" on, since 20") {
		t.Error(m)
	}
	gone(configMaps + "/m3?resourceVersionMatch=Exact&resourceVersion=" + old)
	gone("/rutter/v1/at/" + old + configMaps)
	gone("/rutter/v1/at/-24h" + configMaps)
	gone("/rutter/v1/log?from=" + old)
	gone("/rutter/v1/diff?key=configmaps/default/m0&from=" + old)
	gone("/rutter/v1/why?key=configmaps/default/m0&at=" + old)
	kind, o := b.watch(configMaps + "?watch=1&resourceVersion=" + old).next()
	if code, _ := at_(o, "code").(float64); kind != "ERROR" || code != 410 || str(o, "reason") != "Expired" {
		t.Errorf("a watch: %s %v", kind, o)
	}
	s := b.want(410, "GET", configMaps+"?continue="+url.QueryEscape(token), "")
	rest := b.want(200, "GET", configMaps+"?continue="+url.QueryEscape(str(s, "metadata", "continue")), "")
	if got := strings.Join(listed(rest), " "); got != "m2 new" {
		t.Errorf("the list went on with %s", got)
	}
	// The window itself can be read.
	at := fmt.Sprint(kept)
	if got := strings.Join(listed(b.want(200, "GET", configMaps+"?resourceVersionMatch=Exact&resourceVersion="+at, "")), " "); got != "m0 m1 m2" {
		t.Errorf("at the window's beginning: %s", got)
	}
	if o := b.want(200, "GET", configMaps+"/m0?resourceVersionMatch=Exact&resourceVersion="+at, ""); str(o, "metadata", "name") != "m0" {
		t.Errorf("one object there: %v", o)
	}
	b.want(404, "GET", configMaps+"/new?resourceVersionMatch=Exact&resourceVersion="+at, "")
	b.want(400, "GET", configMaps+"/m0?resourceVersionMatch=Exact&resourceVersion=0", "")
	if diff := cmp.Diff([]string{"configmap.created configmaps/default/new"}, b.logged("")); diff != "" {
		t.Errorf("all of the log (-want +got):\n%s", diff)
	}
	// m0 was made before the window: its chain ends where history does.
	b.with("Content-Type", patchMerge).want(200, "PATCH", configMaps+"/m0", `{"data":{"a":"b"}}`)
	var changes []change
	_, out, _ := b.do("GET", "/rutter/v1/diff?key=configmaps/default/m0", "")
	if err := json.Unmarshal([]byte(out), &changes); err != nil || len(changes) != 1 || changes[0].Changes[0].String() != `+ data.a: "b"` {
		t.Errorf("diff: %v %s", err, out)
	}
}

// silent is a log of which nothing new is told from some moment on.
type silent struct {
	*memory.Log
	from atomic.Bool
}

func (l *silent) Follow(ctx context.Context, after events.Seq) iter.Seq2[events.Record, error] {
	return func(yield func(events.Record, error) bool) {
		for r, err := range l.Log.Follow(ctx, after) {
			if l.from.Load() {
				<-ctx.Done()
				yield(events.Record{}, ctx.Err())
				return
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

// TestThePastThatWasNotFollowed: a server that can follow the log no more still
// lists what was there at the end of the history that it can read.
func TestThePastThatWasNotFollowed(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	plain := c.log.(*memory.Log)
	deaf := &silent{Log: plain}
	c.log = deaf
	a := c.start()
	c.log = plain
	b := c.start()
	deaf.from.Store(true)
	b.want(201, "POST", configMaps, `{"metadata":{"name":"last"}}`)
	end := c.mark()
	list := a.want(200, "GET", configMaps+"?resourceVersionMatch=Exact&resourceVersion="+end, "")
	if got := fmt.Sprint(list); !strings.Contains(got, "name:last") {
		t.Errorf("at %s there is no ConfigMap of that moment: %s", end, got)
	}
	past, err := parseVersion(end)
	if err != nil {
		t.Fatal(err)
	}
	a.want(504, "GET", fmt.Sprintf("%s?resourceVersionMatch=Exact&resourceVersion=%d", configMaps, past+1000), "")
}
