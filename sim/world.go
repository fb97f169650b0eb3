package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/memory"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/controllers"
	"github.com/rutterhq/rutter/services/scheduler"
)

const (
	// build stands for the program in ce-decision.
	build = "sim"
	// namespace is where users work.
	namespace = "default"
	// nodeCount is how many nodes there are; they have room for all pods.
	nodeCount = 3
	// maxSkew is by how much a process' clock may be wrong, either way.
	maxSkew = 500 * time.Millisecond
	// settleWithin bounds the simulated time from the last fault until what the
	// users asked for is reached. A rollout waits for a deadline at most once.
	settleWithin = 30 * time.Minute
	// sumUpWithin is for how long statuses may then still be summed up.
	sumUpWithin = 10 * time.Second
	// quietFor is for how long nothing may happen after that.
	quietFor = 30 * time.Minute
	// maxRounds bounds the rounds of settling. More is a storm of events.
	maxRounds = 20_000
)

// start is the time at which every world begins.
var start = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// Options are a seed and what may happen in its world.
type Options struct {
	Seed  uint64
	Steps int // of the part with faults
	// Calm leaves out what no single leader does: there is one process of each
	// service, and a write of a process that was killed does not land later.
	Calm bool
	// Deciders takes the place of the real ones of the controllers and the
	// scheduler, for tests of the checkers; nil: the real ones.
	Deciders [][]kernel.Decider
}

// Result tells what happened in a world that held.
type Result struct {
	Events    int
	Crashes   int
	Conflicts int
	Lost      int           // answers that never came
	Late      int           // writes that landed after their process was killed
	Simulated time.Duration // how much time passed in the world
}

// World is one simulated cluster.
type World struct {
	Options
	rng       *rand.Rand
	schema    *kinds.Schema
	now       time.Time
	log       *memory.Log
	views     []*kernel.View // the true View at every Seq
	records   []kernel.Record
	processes []*process
	nodes     []*node
	users     *users
	late      []kernel.Record // on their way, of processes that are no more
	checkers  []checker
	replays   *replays // one of checkers
	surge     *surge   // another
	faulty    bool     // faults may happen
	broken    error
	result    Result
}

// Run runs one world and returns an error as soon as a checker finds one.
func Run(o Options) (*World, error) {
	w := newWorld(o)
	w.populate()
	w.faulty = true
	for i := 0; i < o.Steps && w.broken == nil; i++ {
		w.step()
	}
	w.faulty = false
	if err := w.settle(); err != nil {
		return w, fmt.Errorf("seed %d: at event %d, %s: %w", o.Seed, len(w.records), w.now.Format(time.TimeOnly), err)
	}
	return w, nil
}

// Result tells what happened so far.
func (w *World) Result() Result {
	r := w.result
	r.Events, r.Simulated = len(w.records), w.now.Sub(start)
	return r
}

// Records are all events so far.
func (w *World) Records() []kernel.Record { return w.records }

func newWorld(o Options) *World {
	s := &kinds.Schema{Cluster: "5eed0000-0000-4000-8000-000000000000"}
	w := &World{
		Options: o, rng: rand.New(rand.NewPCG(o.Seed, 0x5eed)), schema: s, now: start, log: memory.New(),
		views: []*kernel.View{kernel.NewView(s)},
	}
	if w.Deciders == nil {
		w.Deciders = [][]kernel.Decider{controllers.Deciders(controllers.Default()), scheduler.Deciders()}
	}
	leaders := 2
	if o.Calm {
		leaders = 1
	}
	for i, ds := range w.Deciders {
		for n := range leaders {
			w.processes = append(w.processes, newProcess(w, fmt.Sprintf("service%d-%d", i, n), ds))
		}
	}
	for i := range nodeCount {
		w.nodes = append(w.nodes, newNode(w, fmt.Sprintf("n%d", i+1)))
	}
	w.users = newUsers(w)
	w.checkers = newCheckers(w)
	return w
}

// populate makes what a cluster has before the first user comes.
func (w *World) populate() {
	w.create("apiserver", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	room := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("16"), corev1.ResourceMemory: resource.MustParse("64Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	for _, n := range w.nodes {
		w.create("nodeagent/"+n.name, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: n.name},
			Status: corev1.NodeStatus{
				Capacity: room, Allocatable: room,
				Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			},
		})
	}
	for i := range maxDeployments {
		w.create("user:admin", &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: deploymentName(i), Namespace: namespace},
			Spec: corev1.ServiceSpec{
				Selector: map[string]string{"app": deploymentName(i)}, ClusterIP: fmt.Sprintf("10.43.1.%d", i+1),
				Ports: []corev1.ServicePort{{Port: 80}},
			},
		})
	}
}

// view is the true View: of all that happened.
func (w *World) view() *kernel.View { return w.views[len(w.views)-1] }

// chance is true once in n times, while there are faults.
func (w *World) chance(n int) bool { return w.faulty && w.rng.IntN(n) == 0 }

// between draws a duration.
func (w *World) between(least, most time.Duration) time.Duration {
	return least + time.Duration(w.rng.Int64N(int64(most-least)+1))
}

// step lets one of all things happen that may.
func (w *World) step() {
	switch n := w.rng.IntN(100); {
	case n < 60:
		w.processes[w.rng.IntN(len(w.processes))].step()
	case n < 80:
		w.nodes[w.rng.IntN(len(w.nodes))].step()
	case n < 83:
		w.users.step()
	case n < 86:
		w.landLate()
	case n == 86:
		w.nodes[w.rng.IntN(len(w.nodes))].silence(w.rng.IntN(3) == 0)
	case n < 99:
		w.now = w.now.Add(w.between(0, 200*time.Millisecond))
	case w.rng.IntN(8) > 0:
		w.now = w.now.Add(w.between(0, 20*time.Second))
	default: // long enough for evictions
		w.now = w.now.Add(w.between(0, 10*time.Minute))
	}
}

// landLate lets a write land whose process was killed after it was sent.
func (w *World) landLate() {
	if len(w.late) == 0 {
		return
	}
	i := w.rng.IntN(len(w.late))
	r := w.late[i]
	w.late = slices.Delete(w.late, i, i+1)
	if _, err := w.append(r); err == nil {
		w.result.Late++
	}
}

// append is the log's, and shows the event to the checkers.
func (w *World) append(r kernel.Record) (kernel.Seq, error) {
	seq, err := w.log.Append(context.Background(), r)
	if err != nil {
		if errors.Is(err, events.ErrConflict) {
			w.result.Conflicts++
		} else if w.broken == nil {
			w.broken = err
		}
		return 0, err
	}
	after, err := w.log.After(seq - 1)
	if err != nil {
		panic(err) // it was just appended
	}
	v, es := w.view().Fold(after[0])
	w.views, w.records = append(w.views, v), append(w.records, after[0])
	for _, c := range w.checkers {
		if err := c.see(es[0]); err != nil && w.broken == nil {
			w.broken = err
		}
	}
	return seq, nil
}

// create writes an object that there is not yet.
func (w *World) create(source string, o kernel.Object) {
	if err := w.write(source, w.view(), kernel.Write{Key: w.schema.KeyOf(o), Subresource: kernel.Whole, New: o}); err != nil {
		w.fail(err)
	}
}

// write makes a write from outside, decided upon with the View.
func (w *World) write(source string, v *kernel.View, wr kernel.Write) error {
	wr.By = source
	r, refusal := w.schema.Propose(v, wr, w.now)
	if refusal != nil {
		return fmt.Errorf("write of %s by %s: %w", wr.Key, source, refusal)
	}
	if r == nil {
		return nil
	}
	r.ID = fmt.Sprintf("outside-%d", len(w.records))
	_, err := w.append(*r)
	return err
}

// fail ends the world.
func (w *World) fail(err error) {
	if w.broken == nil {
		w.broken = err
	}
}

// settle lets everything come to rest without faults, and checks what is then.
func (w *World) settle() error {
	for len(w.late) > 0 {
		w.landLate()
	}
	for _, n := range w.nodes {
		n.silence(false)
	}
	found := w.calmDown()
	if w.broken != nil {
		return w.broken // what a checker saw first says most
	}
	for _, c := range w.checkers {
		found = errors.Join(found, c.end())
	}
	return found
}

// calmDown waits until all is as the users want it, and that nothing follows.
func (w *World) calmDown() error {
	if err := w.rest(w.now.Add(settleWithin), true); err != nil {
		return err
	}
	if err := w.rest(w.now.Add(sumUpWithin), false); err != nil {
		return err
	}
	at := len(w.records)
	if err := w.rest(w.now.Add(quietFor), false); err != nil {
		return err
	}
	if n := len(w.records) - at; n > 0 {
		r := w.records[at]
		return fmt.Errorf("all was as the users wanted it, yet %d events followed; the first: %d %s %s %s", n, r.Seq, r.Source, r.Type, r.Key)
	}
	return nil
}

// rest lets everybody do what there is to do, and follows timers, until the
// time given, or with stop until what the users asked for is reached.
func (w *World) rest(until time.Time, stop bool) error {
	for range maxRounds {
		if w.broken != nil {
			return w.broken
		}
		busy := false
		for _, p := range w.processes {
			busy = p.round() || busy
		}
		for _, n := range w.nodes {
			busy = n.step() || busy
		}
		if busy {
			w.now = w.now.Add(time.Millisecond)
			continue
		}
		missing := reached(w)
		if missing == nil && stop {
			return nil
		}
		next := w.next()
		if next.IsZero() || next.After(until) {
			w.now = until
			return missing
		}
		w.now = next
	}
	return fmt.Errorf("it does not come to rest in %d rounds: %w", maxRounds, reached(w))
}

// next is the earliest time at which somebody has something to do.
func (w *World) next() time.Time {
	var next time.Time
	earlier := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for _, p := range w.processes {
		earlier(p.next())
	}
	for _, n := range w.nodes {
		earlier(n.next())
	}
	if !next.After(w.now) && !next.IsZero() {
		next = w.now.Add(time.Millisecond)
	}
	return next
}
