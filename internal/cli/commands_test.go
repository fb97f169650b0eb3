package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rutterhq/rutter/events"
)

// run runs a command line as the owner of a kubeconfig.
func (s *server) run(color bool, args ...string) (string, error) {
	s.t.Helper()
	a := &app{color: color, replayer: s.replayer}
	for _, c := range commands(a) {
		if c.Name() != args[0] {
			continue
		}
		var out bytes.Buffer
		c.SetOut(&out)
		c.SetErr(&out)
		c.SilenceUsage, c.SilenceErrors = true, true
		c.SetArgs(append(args[1:], "--kubeconfig", s.kubeconfig("", "token: t")))
		err := c.ExecuteContext(s.t.Context())
		return out.String(), err
	}
	s.t.Fatalf("there is no command %s", args[0])
	return "", nil
}

// local is how Painter shows a time, wherever the test runs.
func local(at string) string {
	t, err := time.Parse(time.RFC3339, at)
	if err != nil {
		panic(err)
	}
	return t.Local().Format("2006-01-02 15:04:05.000")
}

const (
	created = `{"key":"pods/default/web","seq":7,"source":"user:admin","type":"pod.created","time":"2026-11-01T12:00:00Z"}`
	bound   = `{"key":"pods/default/web","seq":9,"expect":7,"source":"scheduler","type":"pod.bound","time":"2026-11-01T12:00:01Z","cause":[7],"note":"n1 of 2\nfree: 3"}`
)

func TestTodayNeedsNoDate(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.Local)
	for ago, want := range map[time.Duration]string{time.Hour: "11:00:00.000", 13 * time.Hour: "2026-10-31 23:00:00.000", -13 * time.Hour: "2026-11-02 01:00:00.000"} {
		if got := clock(now.Add(-ago), now); got != want {
			t.Errorf("%s ago: %s, want %s", ago, got, want)
		}
	}
}

func TestLogIsShown(t *testing.T) {
	s := newServer(t, map[string]string{"/rutter/v1/log": created + "\n" + bound})
	out, err := s.run(false, "log")
	want := "7 " + local("2026-11-01T12:00:00Z") + " user:admin pod.created pods/default/web\n" +
		"9 " + local("2026-11-01T12:00:01Z") + " scheduler pod.bound pods/default/web\n      n1 of 2\n      free: 3\n"
	if diff := cmp.Diff(want, out); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if out, err = s.run(false, "log", "-o", "json"); err != nil || out != created+"\n"+bound+"\n" {
		t.Errorf("%v: json is not what came:\n%s", err, out)
	}
	if _, err = s.run(false, "log", "-o", "xml"); err == nil || !strings.Contains(err.Error(), `"xml": expected json`) {
		t.Errorf("xml: %v", err)
	}
}

// Colour is only added: without its escapes the text is the same.
func TestLogInColour(t *testing.T) {
	s := newServer(t, map[string]string{"/rutter/v1/log": created + "\n" + strings.Replace(bound, "pod.bound", "pod.deleted", 1)})
	plain, _ := s.run(false, "log")
	colored, err := s.run(true, "log")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\x1b[32mpod.created\x1b[0m", "\x1b[31mpod.deleted\x1b[0m", "\x1b[36mpods/default/web\x1b[0m"} {
		if !strings.Contains(colored, want) {
			t.Errorf("%q is not in %q", want, colored)
		}
	}
	var without strings.Builder
	for i, part := range strings.Split(colored, "\x1b[") {
		if i > 0 {
			_, part, _ = strings.Cut(part, "m")
		}
		without.WriteString(part)
	}
	if diff := cmp.Diff(plain, without.String()); diff != "" {
		t.Errorf("without colour (-want +got):\n%s", diff)
	}
	if strings.Contains(plain, "\x1b") {
		t.Errorf("there is colour in %q", plain)
	}
}

func TestLogAsksForWhatItIsAsked(t *testing.T) {
	s := newServer(t, map[string]string{"/rutter/v1/log": created})
	if _, err := s.run(false, "log", "--from", "-15m", "--to", "90", "--object", "po/web", "--kind", "rs", "--actor", "user:admin", "--type", "pod", "--tail", "3", "-f", "-n", "shop"); err != nil {
		t.Fatal(err)
	}
	want := "/rutter/v1/log?actor=user%3Aadmin&follow=true&from=-15m&key=pods%2Fshop%2Fweb&resource=replicasets.apps&tail=3&to=90&type=pod"
	if diff := cmp.Diff([]string{want}, s.asked); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhyIsATree(t *testing.T) {
	s := newServer(t, map[string]string{"/rutter/v1/why": `{"record":` + bound + `,"outside":true,"causes":[
		{"record":{"key":"replicasets.apps/default/w","seq":6,"source":"controllers/deployment","type":"replicaset.created","time":"2026-11-01T12:00:00Z","cause":[5],"note":"made"},"outside":true,"causes":[
			{"record":{"key":"deployments.apps/default/w","seq":5,"source":"user:admin","type":"deployment.created","time":"2026-11-01T12:00:00Z"},"outside":true}]},
		{"record":{"key":"deployments.apps/default/w","seq":5,"source":"user:admin","type":"deployment.created","time":"2026-11-01T12:00:00Z"},"outside":true,"shown":true}]}`})
	out, err := s.run(false, "why", "pods/web", "--at", "12")
	at := local("2026-11-01T12:00:00Z")
	want := `9 ` + local("2026-11-01T12:00:01Z") + ` scheduler pod.bound pods/default/web
      n1 of 2
      free: 3
├─ because 6 ` + at + ` controllers/deployment replicaset.created replicasets.apps/default/w
│        made
│  └─ because 5 ` + at + ` user:admin deployment.created deployments.apps/default/w ← from outside
└─ because 5 ` + at + ` user:admin deployment.created deployments.apps/default/w (shown above)
`
	if diff := cmp.Diff(want, out); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if diff := cmp.Diff([]string{"/rutter/v1/why?at=12&key=pods%2Fdefault%2Fweb"}, s.asked); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
	if out, err = s.run(false, "why", "pods/web", "-o", "json"); err != nil || !json.Valid([]byte(out)) {
		t.Errorf("%v: %s", err, out)
	}
}

func TestGetAtATime(t *testing.T) {
	table := `{"columnDefinitions":[{"name":"Name"},{"name":"Ready"},{"name":"IP","priority":1}],
		"rows":[{"cells":["web","1/1","10.0.0.1"],"object":{"metadata":{"namespace":"shop"}}}]}`
	s := newServer(t, map[string]string{
		"/rutter/v1/at/-10m/api/v1/pods": table, "/rutter/v1/at/7/api/v1/namespaces/default/pods/web": table,
		"/api/v1/nodes": table, "/api/v1/namespaces/default/pods/web?pretty=true": "kind: Pod"})
	for args, want := range map[string]string{
		"get po -A --at -10m":  "NAMESPACE   NAME   READY\nshop        web    1/1\n",
		"get pods/web --at 7":  "NAME   READY\nweb    1/1\n",
		"get nodes":            "NAME   READY\nweb    1/1\n",
		"get pods/web -o yaml": "kind: Pod\n",
	} {
		out, err := s.run(false, strings.Fields(args)...)
		if diff := cmp.Diff(want, strings.ReplaceAll(out, " \n", "\n")); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", args, err, diff)
		}
	}
	if _, err := s.run(false, "get", "nodes", "-o", "wide"); err == nil {
		t.Error("an output that is not known is taken")
	}
}

func TestDiffEventByEvent(t *testing.T) {
	s := newServer(t, map[string]string{"/rutter/v1/diff": `[{"seq":7,"time":"2026-11-01T12:00:00Z","source":"user:admin","type":"pod.created","changes":[{"path":"spec.a","new":"1"}]},
		{"seq":9,"time":"2026-11-01T12:00:00Z","source":"scheduler","type":"pod.bound","changes":[{"path":"spec.a","old":"1","new":"2"},{"path":"spec.b","old":"3"}]}]`})
	out, err := s.run(false, "diff", "pods/web", "--from", "6", "--to", "-1s")
	at := local("2026-11-01T12:00:00Z")
	want := "7 " + at + " user:admin pod.created pods/default/web\n    + spec.a: 1\n9 " + at +
		" scheduler pod.bound pods/default/web\n    ~ spec.a: 1 → 2\n    - spec.b: 3\n"
	if diff := cmp.Diff(want, out); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if diff := cmp.Diff([]string{"/rutter/v1/diff?from=6&key=pods%2Fdefault%2Fweb&to=-1s"}, s.asked); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
	if out, _ := s.run(true, "diff", "pods/web"); !strings.Contains(out, "\x1b[32m+ spec.a: 1\x1b[0m") || !strings.Contains(out, "\x1b[31m- spec.b: 3\x1b[0m") {
		t.Errorf("no colour in %q", out)
	}
}

func TestPainterKnowsNoColourInPipes(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	if onTerminal() {
		t.Error("NO_COLOR is set, yet there would be colour")
	}
	var b bytes.Buffer
	Painter{W: &b, Color: true}.Event(&events.Record{Seq: 1})
	if !strings.Contains(b.String(), "\x1b[") {
		t.Errorf("no colour in %q", b.String())
	}
}
