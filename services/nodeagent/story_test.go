package nodeagent

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/rutterhq/rutter/kinds"
)

var update = flag.Bool("update", false, "rewrite the stories' want sections; look at the diff")

// TestStories plays pods' lives: Decide says what to do, a world of words does
// it at once, and StatusOf tells. The section "story" holds what happens:
//
//	advance DURATION         time passes
//	exit CONTAINER CODE      a process ends
//	probe CONTAINER ready|unready|started|sick
//	delete SECONDS           the pod is asked to go
//	vanish                   the pod is gone from the log
//	image NAME               an image can be had from now on
//	routed yes|no            an endpoint names the pod as ready
//	change                   a ConfigMap that it mounts changes
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := newStory(t, string(ar.Files[0].Data))
			s.settle()
			for line := range strings.Lines(string(ar.Files[1].Data)) {
				s.happen(strings.Fields(line))
			}
			if *update {
				ar.Files[2].Data = []byte(s.out.String())
				if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if d := cmp.Diff(string(ar.Files[2].Data), s.out.String()); d != "" {
				t.Errorf("the story went otherwise (-want +got); -update rewrites it:\n%s", d)
			}
		})
	}
}

type story struct {
	t      *testing.T
	g      Goal
	w      World
	now    time.Time
	begin  time.Time
	images map[string]bool
	said   string // the last status that was told
	over   bool
	out    strings.Builder
}

func newStory(t *testing.T, spec string) *story {
	p := &corev1.Pod{}
	if err := yaml.UnmarshalStrict([]byte(spec), p); err != nil {
		t.Fatal(err)
	}
	kinds.Pods.DefaultObject(p)
	begin := time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)
	return &story{t: t, g: Goal{Pod: p}, w: World{Since: begin}, now: begin, begin: begin, images: map[string]bool{"app": true}}
}

func (s *story) happen(f []string) {
	if len(f) == 0 {
		return
	}
	fmt.Fprintf(&s.out, "> %s\n", strings.Join(f, " "))
	switch f[0] {
	case "advance":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			s.t.Fatal(err)
		}
		s.advance(s.now.Add(d))
		return
	case "exit":
		var code int32
		fmt.Sscan(f[2], &code)
		s.ends(f[1], code)
	case "probe":
		c := s.w.container(f[1])
		switch f[2] {
		case "ready", "unready":
			c.Ready = f[2] == "ready"
		case "started":
			c.Started = true
		case "sick":
			s.w.Stop(f[1], podGrace(s.g.Pod), "Unhealthy", s.now)
		}
	case "delete":
		var seconds int64
		fmt.Sscan(f[1], &seconds)
		s.g.Stopping, s.g.Grace = true, time.Duration(seconds)*time.Second
		if s.w.StopSince.IsZero() {
			s.w.StopSince = s.now
		}
	case "vanish":
		s.g.Gone = true
	case "image":
		s.images[f[1]] = true
	case "routed":
		s.g.Routed = f[1] == "yes"
	case "change":
		s.g.Sources += "+"
	default:
		s.t.Fatalf("nobody knows what %q is", f[0])
	}
	s.settle()
}

// ends is what containerd tells of a process that ended.
func (s *story) ends(name string, code int32) {
	c := s.w.container(name)
	c.Phase = Ended
	c.Last = &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.NewTime(s.now)}
}

// settle does what Decide says until it says wait, and returns until when.
func (s *story) settle() time.Time {
	for n := 0; ; n++ {
		if n > 100 {
			s.t.Fatalf("it does not settle:\n%s", s.out.String())
		}
		before := fmt.Sprintf("%+v", s.w)
		a := Decide(s.g, &s.w, s.now)
		if after := fmt.Sprintf("%+v", s.w); after != before {
			s.t.Fatalf("Decide changed the world:\n%s\n%s", before, after)
		}
		if again := Decide(s.g, &s.w, s.now); again != a {
			s.t.Fatalf("decided twice, differently: %+v and %+v", a, again)
		}
		if a.Do == Wait || s.over {
			s.tell()
			return a.Until
		}
		fmt.Fprintf(&s.out, "%6s %s %s\n", s.now.Sub(s.begin), a.Do, a.Container)
		s.do(a)
	}
}

func (s *story) advance(to time.Time) {
	for {
		next := s.settle()
		if next.IsZero() || next.After(to) {
			s.now = to
			s.settle()
			return
		}
		s.now = next
	}
}

// tell writes the status if it is a new one.
func (s *story) tell() {
	if s.g.Gone || s.over {
		return
	}
	status := StatusOf(s.g.Pod, &s.w, []string{"10.0.0.1"}, s.now)
	s.g.Pod = s.g.Pod.DeepCopy()
	s.g.Pod.Status = status
	var b strings.Builder
	fmt.Fprintf(&b, "%s", status.Phase)
	for _, c := range status.Conditions {
		if c.Type != corev1.PodScheduled && c.Type != corev1.ContainersReady {
			fmt.Fprintf(&b, " %s=%s", strings.TrimPrefix(string(c.Type), "Pod"), c.Status)
		}
	}
	for _, list := range [][]corev1.ContainerStatus{status.InitContainerStatuses, status.ContainerStatuses} {
		for _, c := range list {
			fmt.Fprintf(&b, "\n       | %s: %s", c.Name, state(c.State))
			if c.Ready {
				b.WriteString(" ready")
			}
			if c.RestartCount > 0 {
				fmt.Fprintf(&b, " restarts=%d", c.RestartCount)
			}
			if c.LastTerminationState.Terminated != nil {
				fmt.Fprintf(&b, " last: %s", state(c.LastTerminationState))
			}
		}
	}
	if b.String() == s.said {
		return
	}
	s.said = b.String()
	fmt.Fprintf(&s.out, "%6s = %s\n", s.now.Sub(s.begin), s.said)
}

func state(s corev1.ContainerState) string {
	switch {
	case s.Running != nil:
		return "running"
	case s.Terminated != nil:
		return fmt.Sprintf("%s(%d)", s.Terminated.Reason, s.Terminated.ExitCode)
	case s.Waiting != nil:
		return strings.TrimSpace(s.Waiting.Reason + " " + s.Waiting.Message)
	}
	return "?"
}

// do does one thing, in words.
func (s *story) do(a Action) {
	spec := findContainer(s.g.Pod, a.Container)
	c := s.w.container(a.Container)
	switch a.Do {
	case Admit:
		s.w.Admitted = true
	case Sandbox:
		s.w.Sandbox, s.w.IPs = Step{Done: true}, []string{"10.42.0.2"}
	case Mount:
		s.w.Volumes, s.w.VolumesAt = Step{Done: true}, s.g.Sources
	case Pull:
		if s.images[spec.Image] {
			c.Image = Step{Done: true}
			return
		}
		c.Image.fail(reasonPullFailed, "not found", s.now, pullDelayFirst, pullDelayMax)
	case Start:
		attempt := c.Attempt
		if c.Phase == Exited {
			attempt++
		}
		s.w.Begin(s.g.Pod, spec, fmt.Sprintf("%s%d", spec.Name, attempt), attempt, s.now)
	case PostStart:
		c.PostStart = HookDone
	case Stopping:
		s.w.Stop(a.Container, a.Grace, a.Reason, s.now)
	case PreStop:
		c.Stop.PreStop = HookDone
	case Term:
		c.Stop.Termed = s.now
	case Kill:
		c.Stop.Killed = s.now
		s.ends(a.Container, 137)
	case Reap:
		code := c.Last.ExitCode
		reason := "Error"
		if code == 0 {
			reason = "Completed"
		}
		s.w.Exit(a.Container, &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, FinishedAt: metav1.NewTime(s.now)})
	case Finish:
		s.tell()
		s.w.Final = true
	case Teardown:
		s.w.Sandbox, s.w.Volumes, s.w.IPs, s.w.TornDown = Step{}, Step{}, nil, true
	case Delete:
		s.g.Gone = true
	case Forget:
		s.over = true
	default:
		s.t.Fatalf("nobody can do %s", a.Do)
	}
}
