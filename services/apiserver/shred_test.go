package apiserver

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/memory"
	"github.com/rutterhq/rutter/kinds"
)

const (
	secretsPath = "/api/v1/namespaces/default/secrets"
	canary      = "canary-7b1e"
)

func secretNamed(name string) string {
	return `{"metadata":{"name":"` + name + `"},"stringData":{"password":"` + canary + `"}}`
}

// password is what an answer tells of it: the text, or what stands in its place.
func password(o map[string]any) string {
	b, err := base64.StdEncoding.DecodeString(str(o, "data", "password"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// keysGone waits until there are as many keys as wanted.
func (c *cluster) keysGone(want int) {
	c.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		all, err := c.keys.All(c.t.Context())
		if err != nil {
			c.t.Fatal(err)
		}
		if len(all) == want {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%d keys, want %d: %v", len(all), want, all)
		}
	}
}

// TestSecretsKeyGoesWithIt deletes Secrets: whoever had read them, nobody reads
// any more what they were, and others stay as they are.
func TestSecretsKeyGoesWithIt(t *testing.T) {
	c := newCluster(t)
	c.keys = new(memory.Keys)
	a := c.start()
	proto := a.with("Accept", "application/vnd.kubernetes.protobuf")
	stays := a.want(201, "POST", secretsPath, secretNamed("stays"))
	a.want(201, "POST", secretsPath, secretNamed("goes"))
	then := c.mark()
	past := "/rutter/v1/at/" + then + secretsPath
	from := secretsPath + "?watch=true&resourceVersion=" + str(stays, "metadata", "resourceVersion")
	readable := func(name string) []bool { // by all ways there are
		t.Helper()
		var got []bool
		got = append(got, password(a.want(200, "GET", past+"/"+name, "")) == canary)
		for _, path := range []string{past, past + "/" + name} {
			_, out, _ := proto.do("GET", path, "")
			got = append(got, strings.Contains(out, canary))
		}
		return got
	}
	for _, name := range []string{"stays", "goes"} {
		for i, can := range readable(name) {
			if !can {
				t.Fatalf("%s cannot be read while it lives (way %d)", name, i)
			}
		}
	}
	w := a.watch(from)
	if _, o := w.next(); password(o) != canary {
		t.Fatalf("watched: %v", o)
	}

	a.want(200, "DELETE", secretsPath+"/goes", "")
	c.keysGone(1)
	if got := readable("goes"); got[0] || got[2] {
		t.Errorf("a Secret that is gone can still be read: %v", got)
	}
	if was := password(a.want(200, "GET", past+"/goes", "")); !strings.HasPrefix(was, "sha256:") {
		t.Errorf("in its place: %q", was)
	}
	if _, o := a.watch(from).next(); password(o) == canary {
		t.Errorf("a watch from before still brings it: %v", o)
	}
	if got := password(a.want(200, "GET", secretsPath+"/stays", "")); got != canary {
		t.Errorf("the other: %q", got)
	}
	// The name is free, and its next owner has nothing to do with the last.
	a.want(201, "POST", secretsPath, secretNamed("goes"))
	c.keysGone(2)
	if got := password(a.want(200, "GET", secretsPath+"/goes", "")); got != canary {
		t.Errorf("of the same name: %q", got)
	}
	if got := readable("goes"); got[0] || got[2] {
		t.Error("its key opens what was before it")
	}
	c.bodies(func(r events.Record) {
		if bytes.Contains(r.Body, []byte(canary)) || bytes.Contains(r.Body, []byte(base64.StdEncoding.EncodeToString([]byte(canary)))) {
			t.Errorf("event %d holds it: %s", r.Seq, r.Body)
		}
	})
}

// bodies calls do for every event of the log.
func (c *cluster) bodies(do func(events.Record)) {
	c.t.Helper()
	last, err := c.log.Last(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	for r, err := range c.log.Follow(c.t.Context(), 0) {
		if err != nil {
			c.t.Fatal(err)
		}
		if do(r); r.Seq >= last {
			return
		}
	}
}

// TestSweep: keys whose objects went while nobody looked go at the next start;
// those of objects that live, or may be on their way, stay.
func TestSweep(t *testing.T) {
	c := newCluster(t)
	keys := new(memory.Keys)
	c.keys = keys
	a := c.start()
	uid := func(o map[string]any) string { return str(o, "metadata", "uid") }
	lives, goes := uid(a.want(201, "POST", secretsPath, secretNamed("lives"))), uid(a.want(201, "POST", secretsPath, secretNamed("goes")))
	a.want(200, "DELETE", secretsPath+"/goes", "")
	c.keysGone(1)
	for _, id := range []string{goes, "on-its-way"} { // as if that had not happened
		if err := keys.Make(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	b := c.start()
	c.keysGone(2)
	if keys.Key(lives) == nil || keys.Key("on-its-way") == nil || keys.Key(goes) != nil {
		t.Errorf("kept: lives %v, on its way %v, gone %v", keys.Key(lives) != nil, keys.Key("on-its-way") != nil, keys.Key(goes) != nil)
	}
	later := &Server{cfg: b.s.cfg, out: b.s.out}
	if n, err := later.sweepKeys(t.Context()); n != 0 || err != nil {
		t.Errorf("at once: %d destroyed, %v", n, err)
	}
	later.out.Now = func() time.Time { return time.Now().Add(keyUnused + time.Minute) }
	if n, err := later.sweepKeys(t.Context()); n != 1 || err != nil || keys.Key("on-its-way") != nil || keys.Key(lives) == nil {
		t.Errorf("much later: %d destroyed, %v", n, err)
	}
}

// TestAKeyThatTheClockMakesOld: the wall clock is set forward by hours, or is ahead
// of that of the log's server, while a Secret's key is made and it is not yet
// written. The key must be there when it is.
func TestAKeyThatTheClockMakesOld(t *testing.T) {
	c := newCluster(t)
	keys := new(memory.Keys)
	c.keys = keys
	a := c.start()
	ahead := time.Now().Add(3 * time.Hour)
	var past time.Duration
	s := &Server{cfg: a.s.cfg, out: a.s.out}
	s.out.Now = func() time.Time { return ahead.Add(past) }
	if err := keys.Make(t.Context(), "on-its-way"); err != nil {
		t.Fatal(err)
	}
	for _, past = range []time.Duration{0, keyUnused / 2, keyUnused, keyUnused + time.Second} {
		want := 0
		if past > keyUnused {
			want = 1
		}
		if n, err := s.sweepKeys(t.Context()); n != want || err != nil {
			t.Errorf("after %s: %d destroyed, %v, want %d", past, n, err, want)
		}
	}
}

// TestSecretsFromBefore: those that the cluster's key sealed are read as ever,
// and get a key of their own with the next write of a user.
func TestSecretsFromBefore(t *testing.T) {
	c := newCluster(t)
	c.start().want(201, "POST", secretsPath, secretNamed("old"))
	c.keys = new(memory.Keys)
	a := c.start()
	if got := password(a.want(200, "GET", secretsPath+"/old", "")); got != canary {
		t.Fatalf("read: %q", got)
	}
	c.keysGone(0)
	a.with("Content-Type", patchMerge).want(200, "PATCH", secretsPath+"/old", `{"metadata":{"labels":{"a":"b"}}}`)
	c.keysGone(1)
	if got := password(a.want(200, "GET", secretsPath+"/old", "")); got != canary {
		t.Errorf("after a write: %q", got)
	}
	marks := map[string]int{}
	c.bodies(func(r events.Record) {
		if r.Key != kinds.Secrets.Key("default", "old") {
			return
		}
		for _, mark := range []string{"rutter:seal:1:", "rutter:seal:2:"} {
			if bytes.Contains(r.Body, []byte(base64.StdEncoding.EncodeToString([]byte(mark))[:18])) {
				marks[mark]++
			}
		}
	})
	if marks["rutter:seal:1:"] != 1 || marks["rutter:seal:2:"] != 1 {
		t.Errorf("how its two events are sealed: %v", marks)
	}
}
