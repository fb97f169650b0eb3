package apiserver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/memory"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// boundedLog is a log in memory with a disk that is as full as a test says.
type boundedLog struct {
	*memory.Log
	looked chan struct{} // gets something whenever somebody looks how full it is
	mu     sync.Mutex    // protects usage
	usage  events.Usage
}

func newBoundedLog(log events.Log) *boundedLog {
	return &boundedLog{Log: log.(*memory.Log), looked: make(chan struct{}), usage: events.Usage{Budget: 1000, Keep: events.Keep{Age: 7 * 24 * time.Hour}}}
}

func (l *boundedLog) Usage(ctx context.Context) (events.Usage, error) {
	select {
	case l.looked <- struct{}{}:
	default:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.usage, ctx.Err()
}

func (l *boundedLog) SetKeep(_ context.Context, k events.Keep) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.usage.Keep = k
	return nil
}

func (l *boundedLog) Append(ctx context.Context, r kernel.Record) (kernel.Seq, error) {
	l.mu.Lock()
	full := l.usage.Used >= l.usage.Budget
	l.mu.Unlock()
	if full {
		return 0, fmt.Errorf("append: %w", events.ErrFull)
	}
	return l.Log.Append(ctx, r)
}

// fill says how full it is, and lets an apiserver know.
func (l *boundedLog) fill(a *api, used int64) {
	l.mu.Lock()
	l.usage.Used = used
	l.mu.Unlock()
	if err := a.s.lookAtUsage(a.t.Context()); err != nil {
		a.t.Error(err)
	}
}

func TestLittleRoom(t *testing.T) {
	c := newCluster(t)
	log := newBoundedLog(c.log)
	c.log = log
	a := c.start()
	<-log.looked
	<-log.looked // an apiserver looks again and again
	for _, name := range []string{"one", "two"} {
		a.want(201, "POST", configMaps, configMap(name))
	}
	log.fill(a, 899)
	a.want(201, "POST", configMaps, configMap("three"))
	log.fill(a, 900)
	refused := func(method, path, body string, says string) {
		t.Helper()
		s := a.with("Content-Type", map[string]string{"PATCH": patchApply}[method]).want(507, method, path, body)
		if str(s, "reason") != "InsufficientStorage" || str(s, "kind") != "Status" || !strings.Contains(str(s, "message"), says) || !strings.Contains(str(s, "message"), "rutter history") {
			t.Errorf("%s %s: %v", method, path, s)
		}
	}
	refused("POST", configMaps, configMap("four"), "the log takes 900 of the 1000 bytes that it may: at 90 % nothing new can be created")
	refused("POST", configMaps+"?dryRun=All", configMap("four"), "at 90 %")
	refused("PATCH", configMaps+"/four?fieldManager=me", configMap("four"), "at 90 %")
	patch := a.with("Content-Type", patchMerge)
	patch.want(200, "PATCH", configMaps+"/one", `{"data":{"a":"b"}}`)
	patch.want(200, "PATCH", "/api/v1/namespaces/default/status", `{"metadata":{"annotations":{"a":"b"}}}`)
	a.want(200, "DELETE", configMaps+"/one", "")
	a.want(409, "POST", configMaps, configMap("two")) // is not for lack of room
	// What a cluster itself creates goes on.
	row, _ := kinds.RowFor(kinds.ConfigMaps.Resource)
	o := kinds.ConfigMaps.New()
	o.Namespace, o.Name = "default", "made"
	if _, err := a.s.write(t.Context(), write{row: row, key: kinds.ConfigMaps.Key("default", "made"), by: author{source: "controllers/test"},
		propose: func(*kernel.View, *kernel.Entry) (kernel.Write, error) { return kernel.Write{New: o}, nil }}); err != nil {
		t.Errorf("a component: %v", err)
	}
	if _, out, _ := a.do("GET", "/metrics", ""); !strings.Contains(out, "\nrutter_log_bytes 900\n") || !strings.Contains(out, "\nrutter_log_budget_bytes 1000\n") ||
		!strings.Contains(out, "\nrutter_history_replays 0\n") {
		t.Errorf("metrics: %s", out)
	}
	log.fill(a, 1000)
	refused("DELETE", configMaps+"/two", "", "the log is full: nothing was written")
	log.fill(a, 500)
	a.want(200, "DELETE", configMaps+"/two", "")
	a.want(201, "POST", configMaps, configMap("four"))
}

// pastOf is a history of which only the window is known, and where it was at
// a time.
type pastOf struct {
	events.History
	seqAt func(t time.Time) (events.Seq, error)
}

func (p pastOf) SeqAt(_ context.Context, t time.Time) (events.Seq, error) { return p.seqAt(t) }

// TestGrowth: the newest day, or as much of it as there is, says what a day
// takes.
func TestGrowth(t *testing.T) {
	t.Parallel()
	at := func(seq events.Seq, err error) func(time.Time) (events.Seq, error) {
		return func(day time.Time) (events.Seq, error) {
			if ago := time.Since(day); ago < 23*time.Hour || ago > 25*time.Hour {
				t.Errorf("asked for %s ago", ago)
			}
			return seq, err
		}
	}
	never := func(time.Time) (events.Seq, error) { return 0, errors.New("not to be asked") }
	for name, c := range map[string]struct {
		window events.Window
		age    time.Duration
		seqAt  func(time.Time) (events.Seq, error)
		want   growth
	}{
		"nothing yet":          {events.Window{}, 0, never, growth{}},
		"all is forgotten":     {events.Window{First: 11, Last: 10}, 0, never, growth{}},
		"an hour":              {events.Window{First: 1, Last: 1000, Bytes: 500_000}, time.Hour, never, growth{24_000, 12_000_000}},
		"three days":           {events.Window{First: 1, Last: 4000, Bytes: 400_000}, 72 * time.Hour, at(3000, nil), growth{1000, 100_000}},
		"nothing of late":      {events.Window{First: 1, Last: 4000, Bytes: 400_000}, 72 * time.Hour, at(4000, nil), growth{}},
		"purged, three days":   {events.Window{First: 2001, Last: 4000, Bytes: 400_000}, 72 * time.Hour, at(3500, nil), growth{500, 100_000}},
		"it has moved on":      {events.Window{First: 3001, Last: 4000, Bytes: 400_000}, 25 * time.Hour, at(0, events.ErrGone), growth{1000, 400_000}},
		"begins within a day":  {events.Window{First: 3001, Last: 4000, Bytes: 400_000}, 12 * time.Hour, never, growth{2000, 800_000}},
		"began this very time": {events.Window{First: 1, Last: 1, Bytes: 10}, 0, never, growth{86_400, 864_000}},
	} {
		if c.window.Last > 0 && c.window.First <= c.window.Last {
			c.window.Since = time.Now().Add(-c.age)
		}
		d := debug{s: &Server{cfg: Config{History: pastOf{seqAt: c.seqAt}}}}
		got, err := d.growth(t.Context(), c.window)
		near := func(a, b int64) bool { return a >= b-b/1000 && a <= b+b/1000 }
		if err != nil || !near(got.Events, c.want.Events) || !near(got.Bytes, c.want.Bytes) {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, c.want)
		}
	}
}

func TestWhatIsKept(t *testing.T) {
	c := newCluster(t)
	log := newBoundedLog(c.log)
	c.log = log
	a := c.start()
	const path = "/rutter/v1/history"
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	log.mu.Lock()
	log.usage.Used, log.usage.Saved = 100, []events.Saved{{Seq: 7, Time: at, Bytes: 50}}
	log.mu.Unlock()
	h := a.want(200, "GET", path, "")
	last, perDay := at_(h, "last").(float64), at_(h, "perDay", "events").(float64)
	if fmt.Sprint(last) != c.mark() || at_(h, "first") != 1.0 || perDay < last || at_(h, "bytes").(float64) <= 0 || !strings.HasPrefix(str(h, "since"), "20") {
		t.Errorf("the window: %v", h)
	}
	for _, member := range []string{"first", "last", "since", "bytes", "perDay"} {
		delete(h, member)
	}
	if diff := cmp.Diff(map[string]any{"used": 100.0, "budget": 1000.0, "keep": map[string]any{"age": "168h0m0s", "bytes": 0.0},
		"snapshots": []any{map[string]any{"seq": 7.0, "time": "2026-11-01T12:00:00Z", "bytes": 50.0}}}, h); diff != "" {
		t.Errorf("what it takes (-want +got):\n%s", diff)
	}
	if h := a.want(200, "PUT", path, `{"bytes":500}`); at_(h, "keep", "bytes") != 500.0 || str(h, "keep", "age") != "168h0m0s" {
		t.Errorf("other bytes: %v", h)
	}
	a.want(200, "PUT", path, `{"age":"72h"}`)
	if log.usage.Keep != (events.Keep{Age: 72 * time.Hour, Bytes: 500}) {
		t.Errorf("kept is %+v", log.usage.Keep)
	}
	a.want(422, "PUT", path, `{"age":"-1h"}`)
	a.want(400, "PUT", path, `{"age":"long"}`)
	a.want(405, "POST", path, `{}`)
	a.want(405, "PUT", "/rutter/v1/log", `{}`)
	// It needs the right to read, and another one to change.
	ann := c.client(a.url, "ann")
	ann.want(403, "GET", path, "")
	a.want(201, "POST", rbacPath+"clusterroles", `{"metadata":{"name":"reader"},"rules":[{"verbs":["get"],"nonResourceURLs":["/rutter/v1/history"]}]}`)
	a.want(201, "POST", rbacPath+"clusterrolebindings", `{"metadata":{"name":"ann"},
		"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"reader"},"subjects":[{"kind":"User","name":"ann"}]}`)
	ann.want(200, "GET", path, "")
	ann.want(403, "PUT", path, `{"age":"1h"}`)
}

func TestALogWithoutBoundsKeepsAll(t *testing.T) {
	a := newCluster(t).start()
	if h := a.want(200, "GET", "/rutter/v1/history", ""); at_(h, "keep") != nil || at_(h, "budget") != nil || at_(h, "first") != 1.0 {
		t.Errorf("%v", h)
	}
	a.want(400, "PUT", "/rutter/v1/history", `{"age":"1h"}`)
}
