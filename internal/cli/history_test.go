package cli

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// windowOf is an answer about a window that is a week old; used is of a budget
// of 10 GiB.
func windowOf(used int64, snapshots int) string {
	var all []string
	for i := range snapshots {
		all = append(all, fmt.Sprintf(`{"seq":%d,"time":%q,"bytes":2097152}`, 1000*(i+1), time.Now().Add(-time.Hour).Format(time.RFC3339)))
	}
	return fmt.Sprintf(`{"first":1001,"last":51000,"since":%q,"bytes":1288490188,"perDay":{"events":7142,"bytes":184549376},
		"used":%d,"budget":10737418240,"keep":{"age":"168h0m0s","bytes":5368709120},"snapshots":[%s]}`,
		time.Now().Add(-7*24*time.Hour).Format(time.RFC3339), used, strings.Join(all, ","))
}

func TestHistoryIsShown(t *testing.T) {
	s := newServer(t, map[string]string{historyPath: windowOf(2<<30, 2)})
	out, err := s.run(false, "history")
	if err != nil {
		t.Fatal(err)
	}
	since, taken := time.Now().Add(-7*24*time.Hour), time.Now().Add(-time.Hour)
	want := "window    " + since.Format(time.DateOnly) + " … until now, 7d: events 1001 to 51000\n" +
		"size      1.2 GiB of history; all together 2.0 GiB of 10.0 GiB, 20 % full\n" +
		"growth    176.0 MiB and 7142 events a day\n" +
		"keep      7d, at most 5.0 GiB\n" +
		"snapshots 2\n" +
		"EVENT   TAKEN        AGO    SIZE\n" +
		"1000    " + taken.Format(time.DateOnly) + "   1h0m   2.0 MiB\n" +
		"2000    " + taken.Format(time.DateOnly) + "   1h0m   2.0 MiB\n"
	var got []string
	for line := range strings.Lines(out) { // without the times of day
		for _, at := range []time.Time{since, taken} {
			if i := strings.Index(line, at.Format(time.DateOnly)+" "); i >= 0 && len(line) > i+19 {
				cut := map[bool]string{true: " …", false: ""}[strings.HasPrefix(line, "window")]
				line = line[:i+10] + cut + line[i+19:]
				break
			}
		}
		got = append(got, strings.ReplaceAll(line, "TAKEN                 ", "TAKEN        "))
	}
	if diff := cmp.Diff(want, strings.Join(got, "")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if out, err = s.run(false, "history", "-o", "json"); err != nil || out != windowOf(2<<30, 2)+"\n" {
		t.Errorf("%v: json is not what came:\n%s", err, out)
	}
	if _, err = s.run(false, "history", "-o", "xml"); err == nil {
		t.Error("xml is taken")
	}
}

func TestHistoryWarns(t *testing.T) {
	for used, want := range map[int64]string{7 << 30: "\x1b[32m70 % full\x1b[0m", 85 << 30 / 10: "\x1b[33m85 % full\x1b[0m", 9 << 30: "\x1b[1;31m90 % full\x1b[0m"} {
		s := newServer(t, map[string]string{historyPath: windowOf(used, 12)})
		if out, err := s.run(true, "history"); err != nil || !strings.Contains(out, want) || !strings.Contains(out, "12, the newest 10:") || strings.Contains(out, "\n2000 ") {
			t.Errorf("%v: %q is not in\n%s", err, want, out)
		}
	}
}

func TestHistoryOfALogWithoutBounds(t *testing.T) {
	s := newServer(t, map[string]string{historyPath: `{"first":1,"last":0,"since":null,"bytes":0,"perDay":{"events":0,"bytes":0}}`})
	out, err := s.run(false, "history")
	if diff := cmp.Diff("window    nothing has happened yet\nsize      0 B of history\ngrowth    0 B and 0 events a day\nkeep      everything\n", out); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	s := newServer(t, map[string]string{historyPath: windowOf(0, 0)})
	for args, want := range map[string]string{
		"--keep 72h --bytes 10Gi": `PUT {"age":"72h0m0s","bytes":10737418240}`,
		"--keep 7d":               `PUT {"age":"168h0m0s"}`,
		"--keep 0 --bytes 0":      `PUT {"age":"0s","bytes":0}`,
		"":                        "GET ",
	} {
		s.sent = ""
		if _, err := s.run(false, strings.Fields("history "+args)...); err != nil || s.sent != want {
			t.Errorf("%s: %v: sent %s, want %s", args, err, s.sent, want)
		}
	}
	for args, want := range map[string]string{"--keep -1h": "--keep", "--keep 3x": "72h or 7d", "--bytes many": "--bytes", "--bytes -1": "--bytes"} {
		s.sent = ""
		if _, err := s.run(false, strings.Fields("history "+args)...); err == nil || !strings.Contains(err.Error(), want) || s.sent != "" {
			t.Errorf("%s: %v, sent %s", args, err, s.sent)
		}
	}
}
