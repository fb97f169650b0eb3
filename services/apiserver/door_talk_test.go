package apiserver

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/memory"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
)

// reach is the network of several apiservers, each called by a letter: who does
// not reach what. "AB": A does not hear B; "A": it has neither log nor others;
// "": the log has no leader.
type reach struct {
	*memory.Log
	node kernel.Seq // that is judged

	mu      sync.Mutex // protects the following field
	without map[string]bool
}

func (r *reach) lacks(what ...string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(what, func(w string) bool { return r.without[w] })
}

func (r *reach) cut(what string, is bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.without[what] = is
}

// cable is one apiserver's way to the log and the others.
type cable struct {
	*reach
	name string
}

var errUnreached = errors.New("the log is not reached")

// wait waits for the log, as events.Log's methods do.
func (c cable) wait(ctx context.Context) error {
	for c.lacks("", c.name) {
		select {
		case <-time.After(lookEvery / 10):
		case <-ctx.Done():
			return errUnreached
		}
	}
	return nil
}

func (c cable) Append(ctx context.Context, r events.Record) (events.Seq, error) {
	if err := c.wait(ctx); err != nil {
		return 0, err
	}
	return c.Log.Append(ctx, r)
}

func (c cable) Last(ctx context.Context) (events.Seq, error) {
	if err := c.wait(ctx); err != nil {
		return 0, err
	}
	return c.Log.Last(ctx)
}

// Tell says who tells, so that who does not reach it can miss it.
func (c cable) Tell(topic string, words []byte) error {
	return c.Log.Tell(topic, append([]byte(c.name), words...))
}

func (c cable) Listen(ctx context.Context, topic string) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for b, err := range c.Log.Listen(ctx, topic) {
			if from := string(b[:1]); from != c.name && c.lacks(c.name, from, c.name+from) {
				continue
			}
			if !yield(b[1:], err) {
				return
			}
		}
	}
}

func newReach(t *testing.T) *reach {
	t.Helper()
	r := &reach{Log: memory.New(), without: map[string]bool{}}
	node := kinds.Nodes.New()
	node.Name = "n1"
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	body, err := (&kinds.Schema{Cluster: "test"}).Encode(node)
	if err != nil {
		t.Fatal(err)
	}
	if r.node, err = r.Append(t.Context(), events.Record{Key: kinds.Nodes.Key("", "n1"), Body: body, Envelope: events.Envelope{ID: "1"}}); err != nil {
		t.Fatal(err)
	}
	return r
}

// start runs the presence of an apiserver, whose name is a letter, until it is killed.
func (r *reach) start(t *testing.T, name string) (p *presence, kill func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cfg := Default()
	at := cable{r, name}
	cfg.Log, cfg.Talker, cfg.Schema, cfg.Logger = at, at, &kinds.Schema{Cluster: "test"}, zerolog.Nop()
	cfg.Mirror = kernel.NewMirror(r.Log, cfg.Schema, nil)
	s := &Server{cfg: cfg}
	s.out = s.real()
	p = newPresence(s)
	var g errgroup.Group
	g.Go(func() error { return cfg.Mirror.Run(ctx) })
	<-cfg.Mirror.Ready()
	g.Go(func() error { return p.run(ctx) })
	g.Go(func() error { return p.converse(ctx) })
	return p, func() {
		cancel()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// expect compares what was observed of the node until now.
func (r *reach) expect(t *testing.T, when string, want ...string) {
	t.Helper()
	synctest.Wait()
	rs, err := r.After(r.node)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, one := range rs {
		got = append(got, strings.TrimPrefix(one.Type, "node."))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

// TestPresenceOfTwo: what one apiserver hears the other one knows, whoever of
// them and of the nodes dies.
func TestPresenceOfTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReach(t)
		a, killA := r.start(t, "A")
		b, killB := r.start(t, "B")
		a.enter("n1")
		time.Sleep(time.Minute)
		r.expect(t, "with a stream at A")

		killA() // without a word: the stream is not seen to end
		time.Sleep(silentAfter + moveWithin - tellEvery - lookEvery)
		r.expect(t, "A is dead, and the node on its way")
		leave := b.enter("n1")
		a, killA = r.start(t, "A")
		time.Sleep(time.Minute)
		r.expect(t, "the node is at B, and A again there")

		second := a.enter("n1")
		leave()
		time.Sleep(time.Minute)
		r.expect(t, "the node moved to A")
		second()
		time.Sleep(silentAfter)
		r.expect(t, "not yet")
		time.Sleep(2 * tellEvery)
		r.expect(t, "both know that the node is gone", "silent")
		time.Sleep(time.Minute)
		r.expect(t, "it is said once", "silent")

		a.enter("n1")
		time.Sleep(2 * lookEvery)
		r.expect(t, "it is back at A", "silent", "heard")
		time.Sleep(time.Minute)
		r.expect(t, "and B agrees", "silent", "heard")
		killA() // and the node with it
		time.Sleep(silentAfter + moveWithin - tellEvery)
		r.expect(t, "it may be on its way", "silent", "heard")
		time.Sleep(2 * tellEvery)
		r.expect(t, "both are dead", "silent", "heard", "silent")
		killB()
	})
}

// TestPresenceThroughAThird: two apiservers that reach the log, but not each
// other, know by a third what they hear, and forget it together.
func TestPresenceThroughAThird(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReach(t)
		r.cut("AB", true)
		r.cut("BA", true)
		a, killA := r.start(t, "A")
		_, killB := r.start(t, "B")
		_, killC := r.start(t, "C")
		leave := a.enter("n1")
		time.Sleep(time.Minute)
		r.expect(t, "with a stream at A")
		leave()
		time.Sleep(silentAfter + 3*tellEvery)
		r.expect(t, "what is passed on is not told for ever", "silent")
		killA()
		killB()
		killC()
	})
}

// TestPresenceCutOff: an apiserver that loses the log and the others lets its
// nodes go before they are called silent; one that loses only one of them does not.
func TestPresenceCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReach(t)
		a, killA := r.start(t, "A")
		b, killB := r.start(t, "B")
		leave := a.enter("n1")
		time.Sleep(time.Minute)

		r.cut("A", true)
		begun := time.Now()
		<-a.cutOff()
		if took := time.Since(begun); took > silentAfter+moveWithin-time.Second {
			t.Errorf("A knows after %s, when it is too late for its nodes to go", took)
		}
		leave()
		leave = b.enter("n1")
		time.Sleep(time.Minute)
		r.expect(t, "the node went to B")

		r.cut("A", false)
		time.Sleep(askLog + 2*tellEvery)
		select {
		case <-a.cutOff():
			t.Error("A does not know that it is back")
		default:
		}
		time.Sleep(time.Minute)
		r.expect(t, "A is back")

		killB()
		leave()
		a.enter("n1")
		time.Sleep(time.Minute)
		select {
		case <-a.cutOff():
			t.Error("A calls itself cut off because B was stopped")
		default:
		}
		r.expect(t, "B was stopped")
		killA()
	})
}

// TestPresenceCutOffFromTheStart: an apiserver that began a moment ago, and was
// cut off before it heard of the others, calls nobody silent who went to them.
func TestPresenceCutOffFromTheStart(t *testing.T) {
	for _, lasts := range []time.Duration{silentAfter + lookEvery, 20 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			r := newReach(t)
			r.cut("AB", true)
			b, killB := r.start(t, "B")
			a, killA := r.start(t, "A")
			leave := a.enter("n1")
			time.Sleep(tellEvery)
			leave()
			b.enter("n1")
			time.Sleep(tellEvery)
			r.cut("A", true)
			time.Sleep(lasts)
			r.cut("A", false)
			time.Sleep(tellEvery + lookEvery) // the log answers before B says anything
			r.cut("AB", false)
			time.Sleep(time.Minute)
			r.expect(t, fmt.Sprintf("the node was at B all the time, A cut off for %s", lasts))
			killA()
			killB()
		})
	}
}

// TestPresenceOfOneThatMoved: a node has two streams, for the apiserver that it
// left takes a while to notice. That it notices says nothing of the other stream,
// whose apiserver is cut off then: the node has as long as ever to move again.
func TestPresenceOfOneThatMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReach(t)
		a, killA := r.start(t, "A")
		b, killB := r.start(t, "B")
		leave := b.enter("n1")
		a.enter("n1")
		time.Sleep(time.Minute + lookEvery/2)
		leave()
		r.cut("A", true)
		time.Sleep(silentAfter + moveWithin - tellEvery)
		b.enter("n1")
		time.Sleep(time.Minute)
		r.expect(t, "the node was at A, and then at B")
		killA()
		killB()
	})
}

// TestPresenceLetsGoFromTheStart: an apiserver that is cut off before it heard
// of any other sends its nodes away all the same: there may be others.
func TestPresenceLetsGoFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReach(t)
		a, killA := r.start(t, "A")
		a.enter("n1")
		time.Sleep(time.Minute)
		gone := a.cutOff()
		if isClosed(gone) {
			t.Error("it is cut off, though the log answers")
		}
		r.cut("A", true)
		time.Sleep(tellEvery + askLog + lookEvery)
		if !isClosed(gone) {
			t.Error("the node stays where nothing that it says is heard")
		}
		r.cut("A", false)
		time.Sleep(tellEvery + askLog + lookEvery) // a question that it asks in vain comes first
		if isClosed(a.cutOff()) {
			t.Error("the log answers again, and it lets nobody in")
		}
		killA()
	})
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// TestPresenceCutOffOnceItIsAlone: an apiserver that hears no other, because there
// is none, and is cut off in the moment in which one begins, calls nobody silent
// whose time ran out since the log answered last.
func TestPresenceCutOffOnceItIsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReach(t)
		a, killA := r.start(t, "A")
		leave := a.enter("n1")
		time.Sleep(time.Minute)
		leave()
		time.Sleep(silentAfter - lookEvery/2)
		r.cut("A", true)
		b, killB := r.start(t, "B")
		b.enter("n1")
		time.Sleep(20 * time.Second)
		r.cut("A", false)
		time.Sleep(time.Minute)
		r.expect(t, "the node was at B since A was cut off")
		killA()
		killB()
	})
}

// TestPresenceBackBeforeItKnew: an apiserver that is cut off just too short to
// know it hears nobody, and the log answers. That is no reason to call a node
// silent that went to the other one meanwhile.
func TestPresenceBackBeforeItKnew(t *testing.T) {
	const phase = tellEvery * 3 / 4 // B speaks as late as can be after A judged
	for lasts := lonelyAfter + lookEvery; lasts <= lonelyAfter+tellEvery+askLog; lasts += lookEvery / 2 {
		synctest.Test(t, func(t *testing.T) {
			r := newReach(t)
			_, killA := r.start(t, "A")
			time.Sleep(phase)
			b, killB := r.start(t, "B")
			time.Sleep(silentAfter + moveWithin + lookEvery/2 - lasts)
			r.cut("A", true)
			b.enter("n1")
			time.Sleep(lasts)
			r.cut("A", false)
			time.Sleep(time.Minute)
			r.expect(t, fmt.Sprintf("the node was at B, A cut off for %s", lasts))
			killA()
			killB()
		})
	}
}

// TestElection: while the log has no leader, the apiservers hear one another,
// and nobody is sent away or called silent.
func TestElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReach(t)
		var all []*presence
		var kills []func()
		for _, name := range []string{"A", "B"} {
			p, kill := r.start(t, name)
			all, kills = append(all, p), append(kills, kill)
		}
		all[0].enter("n1")
		time.Sleep(time.Minute)
		r.cut("", true)
		time.Sleep(time.Minute)
		for _, p := range all {
			if isClosed(p.cutOff()) {
				t.Error("cut off, because there is no leader")
			}
		}
		r.expect(t, "no leader")
		for _, kill := range kills {
			kill()
		}
	})
}

// TestDoorClosesWhenCutOff: the stream of a node ends, another one is refused
// until the log answers again.
func TestDoorClosesWhenCutOff(t *testing.T) {
	c := newCluster(t)
	a := c.start()
	a.want(201, "POST", "/api/v1/nodes", `{"metadata":{"name":"n1"}}`)
	n1 := c.doorOf(a.url, "n1")
	s := n1.stream(t)
	s.until(c.last())
	a.s.presence.cut(true)
	for s.lines.Scan() {
	}
	if err := s.lines.Err(); err != nil {
		t.Errorf("the stream of a server that is cut off ends with %v, not in order", err)
	}
	n1.want(http.StatusServiceUnavailable, "GET", doorPrefix+"n1/log", "")
	a.s.presence.cut(false)
	n1.stream(t).until(c.last())
}

// TestDoorOfOneThatReads: who is still reading the log sends a node on, to
// another server, and does not let it wait.
func TestDoorOfOneThatReads(t *testing.T) {
	c := newCluster(t)
	s, url := c.server()
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { return s.Run(ctx) }) // and nobody runs its Mirror
	c.doorOf(url, "n1").want(http.StatusServiceUnavailable, "GET", doorPrefix+"n1/log", "")
	cancel()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// TestOneIsSilentForTwo: two apiservers that observe the same at once write one
// event, and the loser says nothing of it in its log.
func TestOneIsSilentForTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for n := range 20 {
			r := newReach(t)
			_, killA := r.start(t, "A")
			time.Sleep(time.Duration(n) * time.Millisecond)
			_, killB := r.start(t, "B")
			time.Sleep(time.Minute)
			r.expect(t, fmt.Sprintf("B began %d ms after A", n), "silent")
			killA()
			killB()
		}
	})
}

// TestWords: what is told of the nodes is what is known, and who is too old
// for anybody is left out.
func TestWords(t *testing.T) {
	now := time.Unix(1000, 0)
	s := &Server{}
	s.out = s.real()
	s.out.Steady = func() time.Time { return now }
	a, b := newPresence(s), newPresence(s)
	a.enter("open")
	a.enter("closed")()
	a.note("old", a.self, sign{at: now.Add(-silentAfter - time.Millisecond)})
	if err := b.told(a.words(now), now.Add(3*time.Hour)); err != nil { // by another clock
		t.Fatal(err)
	}
	then := now.Add(3 * time.Hour)
	if want := map[string]map[string]sign{"open": {a.self: {then, true}}, "closed": {a.self: {then, false}}}; !cmp.Equal(want, b.signs, cmp.AllowUnexported(sign{})) {
		t.Errorf("B knows %v", b.signs)
	}
	if err := b.told([]byte("nonsense"), then); err == nil {
		t.Error("nonsense is understood")
	}
	if err := a.told(a.words(now), then); err != nil || !a.peer.Equal(now) {
		t.Errorf("what it said itself it takes for another's words: %v", err)
	}
	// A newer sign stays, whatever comes late.
	late := a.words(now)
	b.note("open", a.self, sign{at: then.Add(time.Second)})
	if err := b.told(late, then.Add(time.Second/2)); err != nil || b.signs["open"][a.self].open {
		t.Errorf("late words win: %v", err)
	}
}
