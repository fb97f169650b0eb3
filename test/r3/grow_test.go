//go:build e2e

package r3

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rutterhq/rutter/events"
)

// TestOneBecomesThree begins a log with one server alone, which then becomes
// one of three, and is killed while it brings the log to the others: every
// object and every event keeps its version, at all three, and writes go on.
func TestOneBecomesThree(t *testing.T) {
	const objects = 300
	c := newMachines(t)
	c.alone = true
	c.start(0)
	c.connect()
	c.poll("one server to serve", func() bool { return c.reads(0) })
	for n := range objects {
		m := configMap{APIVersion: "v1", Kind: "ConfigMap", Data: map[string]string{"n": fmt.Sprint(n)}}
		m.Metadata.Name = fmt.Sprintf("before-%d", n)
		if code, b := c.load.ask(t.Context(), c.load.client(0), 0, http.MethodPost, collection, &m); code != http.StatusCreated {
			t.Fatalf("%d %s", code, b)
		}
	}
	before := c.versions(0)
	_, lines, err := c.load.dump(t.Context(), 0)
	c.must(err)
	c.stop(0, syscall.SIGTERM)

	c.alone = false
	for i := range c.machine {
		c.start(i)
	}
	aside := filepath.Join(c.data(0), "log.alone")
	c.poll("the log to be set aside", func() bool { _, err := os.Stat(aside); return err == nil })
	for n := range 4 { // somewhere in the middle of it
		time.Sleep(time.Duration(n+1) * settle)
		c.stop(0, syscall.SIGKILL)
		c.start(0)
	}
	c.connect()
	c.whole("one has become three")
	b, err := os.ReadFile(c.data(0) + ".log")
	c.must(err)
	t.Logf("brought in %d attempts", strings.Count(string(b), "is brought to three"))
	for i := range c.machine {
		c.writes(i, "as one of three")
		after := c.versions(i)
		for name, version := range before {
			if after[name] != version {
				t.Errorf("s%d has %s at %q, which was at %s", i+1, name, after[name], version)
			}
		}
	}
	var now []string
	c.stores(func(r events.Record) { now = append(now, lineOf(r)) })
	for n, line := range lines {
		if n >= len(now) || now[n] != line {
			t.Fatalf("the servers have %d events, of %d; the first that differs was %s", len(now), len(lines), line)
		}
	}
	if _, err := os.Stat(aside); err == nil {
		t.Error("the log of one is left over")
	}
}

// versions lists the ConfigMaps at a server: the version of each.
func (c *control) versions(i int) map[string]string {
	c.t.Helper()
	code, b := c.load.ask(c.t.Context(), c.load.client(i), i, http.MethodGet, collection, nil)
	var list struct {
		Items []configMap `json:"items"`
	}
	if code != http.StatusOK {
		c.t.Fatalf("s%d: %d %s", i+1, code, b)
	}
	c.must(json.Unmarshal(b, &list))
	all := map[string]string{}
	for _, o := range list.Items {
		all[o.Metadata.Name] = o.Metadata.ResourceVersion
	}
	return all
}
