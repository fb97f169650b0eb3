//go:build e2e

package r3

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/jetstream"
)

// long is how long faults follow one another; 0: each kind once.
var (
	long  = flag.Duration("hour", 0, "for how long faults follow one another; 0: each kind once")
	jumps = flag.Bool("jumps", false, "the servers' time of day jumps (test/jumpingclock): what they say of when something was is not believed")
)

const (
	// patience bounds how long the servers may take to serve again after a fault.
	patience = 60 * time.Second
	// settle is how long the load runs undisturbed between two faults.
	settle = time.Second
	// partition is how long a server is cut off: longer than the others take
	// to choose another leader, and than it takes to notice.
	partition = 8 * time.Second
)

// control is three servers.
type control struct {
	t       *testing.T
	dir     string
	bin     string
	machine [3]*machine
	process [3]*exec.Cmd
	load    *load
	alone   bool // the first server is to be alone
	walker  *node

	refilled int   // the server that lost its disk last
	least    int   // so many events there were before that
	own      []own // what servers had that were left alone
}

// own is the beginning of the log as one server has it on its own disk.
type own struct {
	server, events, least int
	sum                   [sha256.Size]byte
}

func (c *control) data(i int) string { return filepath.Join(c.dir, fmt.Sprintf("s%d", i+1)) }

// start starts a server's process.
func (c *control) start(i int) {
	c.t.Helper()
	var others []string
	for n := range c.machine {
		if n != i {
			others = append(others, fmt.Sprintf("192.0.2.%d:7422", n+1))
		}
	}
	address := fmt.Sprintf("198.51.100.%d", i+1)
	args := []string{c.bin, "server", "--data", c.data(i), "--run", c.data(i) + ".run", "--name", fmt.Sprintf("s%d", i+1),
		"--listen", address + ":6443", "--advertise", address, "--http", address + ":80", "--https", address + ":443",
		"--peer-listen", fmt.Sprintf("192.0.2.%d:7422", i+1)}
	if !c.alone {
		args = append(args, "--join", strings.Join(others, ","))
	}
	if i > 0 {
		args = append(args, "--join-file", filepath.Join(c.data(0), "join.json"))
	}
	out, err := os.OpenFile(c.data(i)+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer out.Close()
	p := c.machine[i].command(args...)
	p.Stdout, p.Stderr = out, out
	if err := p.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.process[i] = p
}

// stop ends a server's process by a signal.
func (c *control) stop(i int, how syscall.Signal) {
	if c.process[i] == nil {
		return
	}
	_ = c.process[i].Process.Signal(how)
	_ = c.process[i].Wait()
	c.process[i] = nil
}

// poll asks until the condition holds.
func (c *control) poll(what string, ok func() bool) {
	c.t.Helper()
	begun := time.Now()
	for !ok() {
		if time.Since(begun) > patience {
			for i := range c.process {
				b, _ := os.ReadFile(c.data(i) + ".log")
				c.t.Logf("s%d:\n%s", i+1, b[max(0, len(b)-4<<10):])
			}
			c.t.Fatalf("waiting for %s", what)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if d := time.Since(begun); d > time.Second {
		c.t.Logf("%5.1f s: %s", d.Seconds(), what)
	}
}

// reads tells whether a server reads what is up to date.
func (c *control) reads(i int) bool {
	code, _ := c.load.ask(c.t.Context(), c.load.client(i), i, http.MethodGet, collection+"/kube-root-ca.crt", nil)
	return code == http.StatusOK || code == http.StatusNotFound
}

// whole waits until all three serve, and have a whole copy of the log.
func (c *control) whole(after string) {
	c.t.Helper()
	for i := range c.machine {
		c.poll(fmt.Sprintf("s%d to serve after %s", i+1, after), func() bool { return c.reads(i) })
	}
	for i := range c.machine {
		c.poll(fmt.Sprintf("s%d to be ready after %s", i+1, after), func() bool {
			code, _ := c.load.ask(c.t.Context(), c.load.client(i), i, http.MethodGet, readyPath, nil)
			return code == http.StatusOK
		})
	}
}

// writes waits until a server acknowledges a write.
func (c *control) writes(i int, when string) {
	c.t.Helper()
	c.poll(fmt.Sprintf("s%d to take writes %s", i+1, when), func() bool { return c.tryWrite(i) == http.StatusCreated })
}

func (c *control) tryWrite(i int) int {
	m := configMap{APIVersion: "v1", Kind: "ConfigMap", Data: map[string]string{"n": "probe"}}
	m.Metadata.Name = fmt.Sprintf("probe-%d", c.load.serial.Add(1))
	code, _ := c.load.ask(c.t.Context(), c.load.client(i), i, http.MethodPost, collection, &m)
	return code
}

// newMachines makes three machines for servers, of which none is started.
func newMachines(t *testing.T) *control {
	t.Helper()
	c := &control{t: t, bin: os.Getenv("RUTTER_TEST_RUTTER")}
	var err error
	if c.bin == "" {
		c.bin = filepath.Join("..", "..", "bin", "rutter")
	}
	if c.bin, err = filepath.Abs(c.bin); err == nil {
		_, err = os.Stat(c.bin)
	}
	if err != nil {
		t.Fatalf("%v (make build)", err)
	}
	c.dir = t.TempDir()
	t.Cleanup(func() {
		for i := range c.process {
			c.stop(i, syscall.SIGKILL)
		}
	})
	for i := range c.machine {
		c.machine[i] = newMachine(t, i+1)
	}
	return c
}

// connect waits for the credentials of the servers that were started, and
// prepares their load.
func (c *control) connect() {
	c.t.Helper()
	var files, hosts [3]string
	for i := range files {
		files[i], hosts[i] = filepath.Join(c.data(i), "admin.kubeconfig"), fmt.Sprintf("https://198.51.100.%d:6443", i+1)
		if c.process[i] != nil {
			c.poll("the API's credentials", func() bool { _, err := os.Stat(files[i]); return err == nil })
		} else {
			files[i] = files[0]
		}
	}
	c.load = newLoad(c.t, files, hosts)
}

// newControl starts three servers and waits until all serve.
func newControl(t *testing.T) *control {
	t.Helper()
	c := newMachines(t)
	for i := range c.machine {
		c.start(i)
		if i == 0 {
			join := filepath.Join(c.data(0), "join.json")
			c.poll("the join file", func() bool { _, err := os.Stat(join); return err == nil })
		}
	}
	c.connect()
	c.whole("the start")
	return c
}

// fault is something that is done to the servers, and undone.
type fault struct {
	name string
	do   func(c *control, i int)
}

var faults = []fault{
	{"rolling restart", func(c *control, _ int) {
		for i := range c.machine {
			c.stop(i, syscall.SIGTERM)
			c.writes((i+1)%3, "without s"+fmt.Sprint(i+1))
			c.start(i)
			c.whole("its restart")
		}
	}},
	{"kill -9", func(c *control, i int) {
		c.stop(i, syscall.SIGKILL)
		c.writes((i+1)%3, "after the kill")
		c.start(i)
	}},
	{"partition of each in turn", func(c *control, _ int) {
		first := c.walker.at(c) // it has to go to another, though the server that it is at runs
		for n := range c.machine {
			i := (first + n) % 3
			if n > 0 {
				c.whole("the partition before")
			}
			c.must(c.machine[i].cut())
			c.writes((i+1)%3, "while one is cut off")
			time.Sleep(partition)
			if code := c.tryWrite(i); code != http.StatusServiceUnavailable && code != http.StatusGatewayTimeout {
				c.t.Errorf("s%d, which is cut off, answered a write with %d", i+1, code)
			}
			if code := c.list(i, ""); code != http.StatusServiceUnavailable && code != http.StatusGatewayTimeout {
				c.t.Errorf("s%d, which is cut off, answered a read of what is up to date with %d", i+1, code)
			}
			if code := c.list(i, "?resourceVersion=0"); code != http.StatusOK {
				c.t.Errorf("s%d, which is cut off, answered a read of what it has with %d", i+1, code)
			}
			c.must(c.machine[i].heal())
		}
	}},
	{"a disk lost", func(c *control, i int) {
		i = (i + 1) % 3 // at first not the one that began the log
		_, before, err := c.load.dump(c.t.Context(), (i+1)%3)
		c.must(err)
		c.refilled, c.least = i, len(before)
		c.stop(i, syscall.SIGKILL)
		lost := c.data(i) // it joins as it did at first
		if i == 0 {
			lost = filepath.Join(lost, "log") // nobody else has the cluster's authority for it
		}
		c.must(os.RemoveAll(lost))
		c.start(i)
	}},
	{"two of three lost", func(c *control, _ int) {
		i := c.refilled // so that what it has was brought to it anew
		c.stop((i+1)%3, syscall.SIGKILL)
		c.stop((i+2)%3, syscall.SIGKILL)
		c.poll("the last one to refuse writes", func() bool {
			code := c.tryWrite(i)
			return code == http.StatusServiceUnavailable
		})
		if code := c.list(i, "?resourceVersion=0"); code != http.StatusOK {
			c.t.Errorf("the last one of three, asked for what it has: %d", code)
		}
		c.poll("the last one to read the past", func() bool { // once it knows that it is alone
			code, b := c.load.ask(c.t.Context(), c.load.client(i), i, http.MethodGet, "/rutter/v1/log?from=0&to=100", nil)
			return code == http.StatusOK && strings.Count(string(b), "\n") == 100
		})
		c.past(i)
		c.start((i + 1) % 3)
		c.start((i + 2) % 3)
	}},
	{"kill -9 of EV's leader", func(c *control, _ int) { c.killLeader(jetstream.StreamName) }},
	{"kill -9 of the meta leader", func(c *control, _ int) { c.killLeader(jetstream.MetaName) }},
}

// list asks a server for all ConfigMaps.
func (c *control) list(i int, query string) (code int) {
	c.t.Helper()
	code, _ = c.load.ask(c.t.Context(), c.load.client(i), i, http.MethodGet, collection+query, nil)
	return code
}

// past has a server that is alone list what was there at the last event of the
// history that it has, by a list at an old version and by what rutter get --at
// asks. What it has of the log is remembered.
func (c *control) past(i int) {
	c.t.Helper()
	maps, lines, err := c.load.dump(c.t.Context(), i)
	c.must(err)
	c.own = append(c.own, own{i, len(lines), c.least, sha256.Sum256([]byte(strings.Join(lines, "\n")))})
	at, want := events.Seq(0), map[string]events.Seq{}
	for seq, what := range maps {
		name, _, _ := strings.Cut(what, "=")
		want[name], at = max(want[name], seq), max(at, seq)
	}
	for _, path := range []string{
		fmt.Sprintf("%s?resourceVersionMatch=Exact&resourceVersion=%d", collection, at), fmt.Sprintf("/rutter/v1/at/%d%s", at, collection),
	} {
		code, b := c.load.ask(c.t.Context(), c.load.client(i), i, http.MethodGet, path, nil)
		var got struct {
			Items []configMap `json:"items"`
		}
		if code != http.StatusOK || json.Unmarshal(b, &got) != nil || len(got.Items) == 0 {
			c.t.Errorf("s%d, asked for %s: %d %s", i+1, path, code, b)
		}
		for _, o := range got.Items {
			// Every namespace has an object of this name.
			if name := o.Metadata.Name; want[name] != o.seq() && name != "kube-root-ca.crt" {
				c.t.Errorf("s%d, asked for %s: %s at %d, want %d", i+1, path, name, o.seq(), want[name])
			}
		}
	}
}

// compareOwn compares what servers had on their own disks with the log.
func (c *control) compareOwn() {
	c.t.Helper()
	_, lines, err := c.load.dump(c.t.Context(), 0)
	c.must(err)
	for _, o := range c.own {
		switch {
		case o.events < o.least || o.events > len(lines):
			c.t.Errorf("s%d, left alone after it had been filled again, had %d events; there had been %d before, in the end there are %d", o.server+1, o.events, o.least, len(lines))
		case sha256.Sum256([]byte(strings.Join(lines[:o.events], "\n"))) != o.sum:
			c.t.Errorf("s%d, left alone, had others than the log's first %d events", o.server+1, o.events)
		}
		c.t.Logf("s%d had %d events on its own disk, %d of them from before it was lost", o.server+1, o.events, o.least)
	}
	if len(c.own) == 0 {
		c.t.Error("nobody was left alone")
	}
}

func (c *control) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// TestThreeServers breaks three servers under load in every way there is.
func TestThreeServers(t *testing.T) {
	c := newControl(t)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); c.load.run(ctx) }()
	t.Cleanup(func() { stop(); <-done })
	c.walker = c.newNode()
	begun := time.Now()
	for n := 0; n == 0 || time.Since(begun) < *long; n++ {
		for k, f := range faults {
			i := (n + k) % 3
			time.Sleep(settle)
			t.Logf("%s: %s, s%d", time.Since(begun).Round(time.Second), f.name, i+1)
			f.do(c, i)
			c.whole(f.name)
		}
	}
	time.Sleep(settle)
	stop()
	<-done
	c.whole("all faults")
	c.walker.check(c)
	c.compareOwn()
	c.load.check(c) // stops the servers
	t.Logf("%s of faults", time.Since(begun).Round(time.Second))
}
