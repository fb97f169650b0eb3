//go:build e2e

package r3

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/jetstream"
)

// dump is the whole log as one server's API gives it: each event of a ConfigMap
// by its Seq, and a line for every event. It may be another server's copy that
// is read; only one that is left alone reads its own.
func (l *load) dump(ctx context.Context, i int) (maps map[events.Seq]string, lines []string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.clients[i].Host+"/rutter/v1/log?from=0", nil)
	if err != nil {
		return nil, nil, err
	}
	res, err := l.client(i).Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(res.Body)
		return nil, nil, fmt.Errorf("%s: %s", res.Status, b)
	}
	maps = map[events.Seq]string{}
	for d := json.NewDecoder(res.Body); ; {
		var r events.Record
		if err := d.Decode(&r); errors.Is(err, io.EOF) {
			return maps, lines, nil
		} else if err != nil {
			return maps, lines, err
		}
		lines = append(lines, lineOf(r))
		if what, ok := writtenBy(r); ok {
			maps[r.Seq] = what
		}
	}
}

// lineOf is an event in one line.
func lineOf(r events.Record) string {
	return fmt.Sprintf("%d %s %s %s", r.Seq, r.Key, r.ID, r.Body)
}

// writtenBy returns what was written to which ConfigMap, if an event says so.
func writtenBy(r events.Record) (what string, ok bool) {
	var c configMap
	if r.Key.Plural != "configmaps" || json.Unmarshal(r.Body, &c) != nil {
		return "", false
	}
	return r.Key.Name + "=" + c.Data["n"], true
}

// stores stops all three servers, once each says that its own copies of the log
// and of history have come to the end of the log, and compares what is on their
// disks: each store, by itself, has all events, and no two copies differ in any.
// What an API answers would not tell, for it may be read from one copy only.
// visit is called with each event; the last one's Seq is returned.
func (c *control) stores(visit func(events.Record)) events.Seq {
	c.t.Helper()
	code, b := c.load.ask(c.t.Context(), c.load.client(0), 0, http.MethodGet, collection, nil)
	var list configMap
	if code != http.StatusOK || json.Unmarshal(b, &list) != nil || list.seq() == 0 {
		c.t.Fatalf("the end of the log: %d %s", code, b)
	}
	end := list.seq()
	var dirs []string
	for i := range c.machine {
		dirs = append(dirs, filepath.Join(c.data(i), "log"))
		for _, stream := range []string{jetstream.StreamName, jetstream.HistName} {
			c.poll(fmt.Sprintf("s%d's copy of %s to have all %d events", i+1, stream, end), func() bool {
				at, ok := c.metric(i, "rutter_log_copy_seq", stream)
				return ok && at >= uint64(end)
			})
		}
	}
	c.agree()
	for i := range c.process { // all at once: what one does because another one leaves is no longer in question
		c.must(c.process[i].Process.Signal(syscall.SIGTERM))
	}
	for i, p := range c.process {
		_ = p.Wait() // how it ended, its disk tells
		c.process[i] = nil
	}
	copies, err := jetstream.CompareStores(dirs, 1, end, visit)
	if err != nil {
		c.t.Errorf("the servers' disks: %v", err)
	}
	for _, own := range copies {
		c.t.Logf("on disk: %s", own)
	}
	return end
}

// agree fails if a server has found that what the three folded, or have on their
// disks, is not the same: they compare both while they run.
func (c *control) agree() {
	c.t.Helper()
	for i := range c.machine {
		_, b := c.load.ask(c.t.Context(), c.load.client(i), i, http.MethodGet, "/metrics", nil)
		said := 0
		for line := range strings.Lines(string(b)) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "rutter_state_compared_seq ") {
				c.t.Logf("s%d since its last start: %s", i+1, line)
			}
			for _, name := range []string{"rutter_state_differs_total", "rutter_store_differs_total"} {
				if strings.HasPrefix(line, name+"{") {
					if said++; !strings.HasSuffix(line, " 0") {
						c.t.Errorf("s%d: %s", i+1, line)
					}
				}
			}
		}
		if said != 2 {
			c.t.Errorf("s%d does not say whether the three agree:\n%s", i+1, b)
		}
	}
}

// metric asks a server for a number that it says of a stream.
func (c *control) metric(i int, name, stream string) (n uint64, ok bool) {
	_, b := c.load.ask(c.t.Context(), c.load.client(i), i, http.MethodGet, "/metrics", nil)
	for line := range strings.Lines(string(b)) {
		if of, ok := strings.CutPrefix(line, fmt.Sprintf("%s{stream=%q} ", name, stream)); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(of), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// check compares what clients were told with what the log holds on all disks.
func (l *load) check(c *control) {
	l.t.Helper()
	maps := map[events.Seq]string{}
	end := c.stores(func(r events.Record) {
		if what, ok := writtenBy(r); ok {
			maps[r.Seq] = what
		}
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	at := map[string]events.Seq{}
	for seq, what := range maps {
		at[what] = seq
	}
	var counts [3]int
	lost, undead := 0, 0
	for _, w := range l.tolds {
		counts[w.outcome]++
		seq := at[w.name+"="+w.value]
		if w.outcome == acknowledged && seq != w.seq {
			lost++
			l.t.Errorf("%s=%s was acknowledged as %d; in the log: %d", w.name, w.value, w.seq, seq)
		}
		if w.outcome == refused && seq != 0 {
			undead++
			l.t.Errorf("%s=%s was refused; in the log: %d", w.name, w.value, seq)
		}
	}
	seen := 0
	for i, watched := range l.watched {
		seen += len(watched)
		for seq, what := range watched {
			if maps[seq] != what {
				l.t.Errorf("s%d's watcher was shown %s as %d; in the log: %q", i+1, what, seq, maps[seq])
			}
		}
	}
	for _, e := range l.errors {
		l.t.Error(e)
	}
	l.t.Logf("%d events; writes: %d acknowledged, %d refused, %d of unknown outcome; lost: %d, refused and there: %d; %d reads, none stale; %d events watched, one order; slowest answer %.1f s; codes %v",
		end, counts[acknowledged], counts[refused], counts[unknown], lost, undead, l.reads, seen, l.slowest.Seconds(), l.codes)
	if counts[acknowledged] == 0 || seen == 0 || l.reads == 0 {
		l.t.Error("nothing was tried")
	}
}
