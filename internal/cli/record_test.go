package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kernel/kerneltest"
)

func TestReplayTellsAndFails(t *testing.T) {
	s := newServer(t, map[string]string{
		"/rutter/v1/replay": `{"events":12,"decisions":3,"changes":5,"explained":1,"unexplained":0}`,
		"/rutter/v1/replay?decider=scheduler&from=2&to=9": `{"events":12,"decisions":3,"changes":5,"explained":0,"unexplained":2,"first":"scheduler on queue\n"}`})
	out, err := s.run(false, "replay")
	want := "events read                  12\ndecisions recomputed          3\nchanges compared              5\nexplained                     1\nunexplained                   0\n"
	if diff := cmp.Diff(want, out); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	out, err = s.run(false, "replay", "--from", "2", "--to", "9", "--decider", "scheduler")
	if !errors.Is(err, ErrUnexplained) || !strings.HasSuffix(out, "unexplained                   2\n\nthe first that differs:\nscheduler on queue\n") {
		t.Errorf("%v:\n%s", err, out)
	}
	if out, err = s.run(false, "replay", "-o", "json", "--from", "2", "--to", "9", "--decider", "scheduler"); !errors.Is(err, ErrUnexplained) || !json.Valid([]byte(out)) {
		t.Errorf("%v: %s", err, out)
	}
}

var configMaps = kernel.Resource{Plural: "configmaps"}

type plain = kerneltest.Plain

// planted gives a decider that copies ConfigMap a to b, with something added.
func planted(more string) Replayer {
	return func(string) *history.Replayer {
		rs := []kernel.Resource{configMaps}
		return &history.Replayer{Build: "b2", Schema: plain{}, Deciders: []kernel.Decider{{Name: "copy", Reads: rs, Writes: rs,
			Wakes: func(*kernel.View, kernel.Event) []kernel.Key { return nil },
			Decide: func(v *kernel.View, k kernel.Key, _ time.Time) kernel.Decision {
				from, ok := v.Get(k)
				if !ok {
					return kernel.Decision{}
				}
				to := from.(*corev1.ConfigMap).DeepCopy()
				to.Name, to.ResourceVersion = "b", ""
				to.Data["value"] += more
				return kernel.Decision{Changes: []kernel.Change{{Key: plain{}.KeyOf(to), Object: to}}}
			}}}}
	}
}

const (
	aPut    = `{"key":"configmaps/d/a","seq":1,"id":"u-1","source":"user:u","type":"configmap.created","time":"2026-11-01T12:00:00Z","body":{"metadata":{"name":"a","namespace":"d"},"data":{"value":"1"}}}`
	bCopied = `{"key":"configmaps/d/b","seq":2,"id":"x-1","source":"copy","type":"configmap.created","time":"2026-11-01T12:00:01Z","seen":1,"cause":[1],"decision":{"decider":"copy","key":"configmaps/d/a","index":0,"count":1,"build":"b1"},"body":{"metadata":{"name":"b","namespace":"d"},"data":{"value":"1"}}}`
	aAgain  = `{"key":"configmaps/d/a","seq":3,"expect":1,"id":"u-2","source":"user:u","type":"configmap.updated","time":"2026-11-01T12:00:02Z","body":{"metadata":{"name":"a","namespace":"d"},"data":{"value":"2"}}}`
	bAgain  = `{"key":"configmaps/d/b","seq":4,"expect":2,"id":"x-2","source":"copy","type":"configmap.updated","time":"2026-11-01T12:00:03Z","seen":3,"cause":[3],"decision":{"decider":"copy","key":"configmaps/d/a","index":0,"count":1,"build":"b1"},"body":{"metadata":{"name":"b","namespace":"d"},"data":{"value":"2"}}}`
)

// recorded records what a server sends, and returns the file.
func recorded(t *testing.T, says string, lines ...string) string {
	t.Helper()
	s := newServer(t, map[string]string{"/rutter/v1/record": strings.Join(lines, "\n")})
	file := filepath.Join(t.TempDir(), "recording")
	if out, err := s.run(false, "record", "export", file); err != nil || out != strings.ReplaceAll(says, "FILE", file) {
		t.Fatalf("%v: %s", err, out)
	}
	return file
}

// What record writes, replay reads, with no cluster at hand; a planted change is
// found in it, and shown as what this build would have done.
func TestRecordAndReplay(t *testing.T) {
	file := recorded(t, "2 events in FILE\n", `{"recording":2,"cluster":"c1","from":0,"to":2}`, aPut, bCopied)
	s := newServer(t, nil)
	for _, args := range [][]string{{"replay", file}, {"replay", "--file", file}, {"replay", file, "--what-if", "--times", "5"}} {
		out, err := s.run(false, args...)
		if err != nil || !strings.Contains(out, "1 of 1 changes were decided by build b1; this is build b2.\n") ||
			!strings.Contains(out, "changes compared              1\n") && !strings.Contains(out, "nothing differs: 1 decisions, 1 changes") {
			t.Errorf("%v: %v:\n%s", args, err, out)
		}
	}
	report, err := ReplayFile(file, planted("!"), "copy")
	if err != nil || report.Unexplained != 1 || !strings.Contains(report.First, `~ data.value: "1" → "1!"`) {
		t.Errorf("%v: %+v", err, report)
	}
	s.replayer = planted("!")
	out, err := s.run(false, "replay", file, "--what-if")
	want := `
1 of 1 changes were decided by build b1; this is build b2.

DECIDER   KEY              SEEN   OBJECT           RECORDED                      NOW
copy      configmaps/d/a   1      configmaps/d/b   configmap.created (event 2)   configmap.created
    ~ data.value: "1" → "1!"

differ: 1 changes, in 1 of 1 decisions. Each was made on what had been seen then; what would have followed is not played on.
`
	if diff := cmp.Diff(want, out); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if out, _ := s.run(true, "replay", file, "--what-if"); !strings.Contains(out, "\x1b[33m~ data.value: \"1\" → \"1!\"\x1b[0m") || !strings.Contains(out, "\x1b[1;31mdiffer\x1b[0m") {
		t.Errorf("no colour in %q", out)
	}
	out, err = s.run(false, "replay", file, "--what-if", "-o", "json")
	var asData history.Report
	if e := json.Unmarshal([]byte(out), &asData); err != nil || e != nil || len(asData.Differences) != 1 || asData.Differences[0].Object != "configmaps/d/b" {
		t.Errorf("%v, %v: %s", err, e, out)
	}
	if _, err = s.run(false, "replay", file); !errors.Is(err, ErrUnexplained) {
		t.Errorf("a difference is no failure: %v", err)
	}
}

func TestReplayOfAPartOfARecording(t *testing.T) {
	file := recorded(t, "3 events in FILE, after the state at 1 of 1 objects\n", `{"recording":2,"cluster":"c1","from":1,"to":4}`, aPut, bCopied, aAgain, bAgain)
	s := newServer(t, nil)
	for args, decisions := range map[string]string{
		"": "2", "--from 2": "1", "--to 1": "1", "--from 2026-11-01T12:00:01Z": "1", "--to 2026-11-01T12:00:00Z": "1", "--from 4": "0",
	} {
		out, err := s.run(false, append([]string{"replay", file}, strings.Fields(args)...)...)
		if err != nil || !strings.Contains(out, "decisions recomputed          "+decisions+"\n") {
			t.Errorf("%s: %v, want %s decisions:\n%s", args, err, decisions, out)
		}
	}
	for args, want := range map[string]string{
		"--from 0": "the recording is from 1 to 4", "--to 5": "the recording is from 1 to 4", "--to -15m": "expected a position", "--decider other": `no decider "other"`,
		"--file x": "given twice", "-o xml": "expected json",
	} {
		if _, err := s.run(false, append([]string{"replay", file}, strings.Fields(args)...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}

// A recording with holes would not replay, so it is not made.
func TestRecordNeedsAllEvents(t *testing.T) {
	for name, c := range map[string]struct{ sent, want string }{
		"a hole":         {`{"recording":2,"from":0,"to":3}` + "\n" + aPut + "\n" + aAgain, "event 2 is missing"},
		"no beginning":   {`{"recording":2,"from":0,"to":2}` + "\n" + bCopied, "event 1 is missing"},
		"cut off":        {`{"recording":2,"from":0,"to":3}` + "\n" + aPut + "\n" + bCopied, "event 3 is missing"},
		"twice":          {`{"recording":2,"from":1,"to":2}` + "\n" + aPut + "\n" + aPut + "\n" + bCopied, "out of order"},
		"beyond its end": {`{"recording":2,"from":0,"to":1}` + "\n" + aPut + "\n" + bCopied, "beyond the end"},
		"no heading":     {aPut, "it is no recording"},
	} {
		s := newServer(t, map[string]string{"/rutter/v1/record": c.sent})
		folder := t.TempDir()
		if _, err := s.run(false, "record", "export", filepath.Join(folder, "r")); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
			t.Errorf("%s: %v: %v was left behind", name, err, left)
		}
	}
}

func TestRecordAsksForAPart(t *testing.T) {
	s := newServer(t, map[string]string{"/rutter/v1/record": `{"recording":2,"from":0,"to":0}`})
	if _, err := s.run(false, "record", "export", filepath.Join(t.TempDir(), "r"), "--from", "-15m", "--to", "90"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/rutter/v1/record?from=-15m&to=90"}, s.asked); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestReplayOfWhatIsNoRecording(t *testing.T) {
	zipped := func(text string) []byte {
		var b bytes.Buffer
		z, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := z.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	whole := zipped("{\"recording\":2,\"to\":1}\n" + aPut + "\n")
	for name, b := range map[string][]byte{
		"text": []byte("x"), "empty": zipped(""), "other": zipped("{}\n"), "version 1": zipped("{\"recording\":1}\n"),
		"no records": zipped("{\"recording\":2}\nx\n"), "cut off": whole[:len(whole)-9], "damaged": append(whole[:40:40], append([]byte{whole[40] ^ 1}, whole[41:]...)...),
	} {
		file := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReplayFile(file, planted(""), ""); err == nil {
			t.Errorf("%s: it is replayed", name)
		}
	}
	if _, err := ReplayFile(filepath.Join(t.TempDir(), "none"), planted(""), ""); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}
