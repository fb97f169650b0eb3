package apiserver

import (
	"context"
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
