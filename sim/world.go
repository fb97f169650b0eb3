package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/memory"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/apiserver"
	"github.com/rutterhq/rutter/services/controllers"
	"github.com/rutterhq/rutter/services/ingress"
	"github.com/rutterhq/rutter/services/scheduler"
)

const (
	// build stands for the program in ce-decision.
	build = "sim"
	// machineCount is how many nodes there are; together they have room for
	// all pods that are ever wanted, but one may well be full.
	machineCount = 4
	// settleWithin bounds the simulated time from the last fault until what the
	// users asked for is reached: a crashed container waits for 5 minutes, a
	// rollout for a deadline, and a pod of a dead node for its eviction. What a
	// clock that was ahead has put off is looked at as soon as it is right again.
	settleWithin = 45 * time.Minute
	// sumUpWithin is for how long statuses may then still be summed up, and
	// claims of addresses that nobody has be given back. To it comes by how much
	// a clock was wrong: how old a claim is only the times of events tell, and one
	// that is given back too early is given twice.
	sumUpWithin = 15 * time.Minute
	// quietFor is for how long nothing may happen after that.
	quietFor = 30 * time.Minute
	// maxRounds bounds the rounds of settling. More is a storm of events.
	maxRounds = 20_000
	// presenceFor is for how long apiservers look closely who is heard, after
	// a stream was opened or closed.
	presenceFor = 16 * time.Second
)

// start is the time at which every world begins.
var start = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// admin is who the users are, to an apiserver.
var admin = &apiserver.User{Name: "admin", Groups: []string{"system:masters"}}

// World is one simulated cluster.
type World struct {
	Scenario
	deciders  [][]kernel.Decider
	schema    *kinds.Schema
	rules     kernel.Schema // schema, a quota for what deciders make, and a memo
	now       time.Time
	log       *memory.Log
	views     []*kernel.View  // the true View at every Seq
	records   []kernel.Record // all events
	landed    []time.Time     // when each was appended, by no process' clock
	processes []*process
	servers   []*server
	machines  []*machine
	users     *users
	keeper    *keeper
	late      []lateWrite // on their way, of processes that are no more
	present   time.Time   // until when it is looked closely who is heard
	worstSkew time.Duration
	checkers  []checker
	told      witnesses
	faulty    bool // faults may happen
	broken    error
	counts    map[string]int
}

// DefaultDeciders are those of a cluster: one set per process.
func DefaultDeciders() [][]kernel.Decider {
	return [][]kernel.Decider{controllers.Deciders(controllers.Default()), scheduler.Deciders(), ingress.Deciders()}
}

// Run plays a scenario, and returns an error as soon as a checker finds one.
func Run(s Scenario) (*World, error) { return RunWith(s, DefaultDeciders()) }

// RunWith is Run with other deciders, for tests of the checkers.
func RunWith(s Scenario, deciders [][]kernel.Decider) (*World, error) {
	w := newWorld(s, deciders)
	w.populate()
	w.faulty = true
	for _, one := range s.Steps {
		if w.broken != nil {
			break
		}
		v, ok := verbOf(one.Verb)
		if !ok {
			return w, fmt.Errorf("nothing in a world is called %q", one.Verb)
		}
		v.do(w, &dice{one.N})
	}
	w.faulty = false
	if err := w.settle(); err != nil {
		return w, fmt.Errorf("seed %d: at event %d, %s: %w", s.Seed, len(w.records), w.now.Format(time.TimeOnly), err)
	}
	return w, nil
}

// Records are all events so far.
func (w *World) Records() []kernel.Record { return w.records }

// Simulated is how much time passed in the world.
func (w *World) Simulated() time.Duration { return w.now.Sub(start) }

// Counts tell how often what happened.
func (w *World) Counts() map[string]int { return w.counts }

func (w *World) count(what string) { w.counts[what]++ }

func newWorld(s Scenario, deciders [][]kernel.Decider) *World {
	schema := &kinds.Schema{Cluster: "5eed0000-0000-4000-8000-000000000000"}
	w := &World{Scenario: s, deciders: deciders, schema: schema, rules: schema, now: start, log: memory.New(), counts: map[string]int{}}
	if !s.Unlimited {
		w.rules = quota{schema}
	}
	w.rules = newMemo(w.rules)
	w.views = []*kernel.View{kernel.NewView(w.rules)}
	w.keeper = &keeper{w: w}
	newCheckers(w)
	each := 2
	if s.Calm {
		each = 1
	}
	for i := range each {
		w.servers = append(w.servers, newServer(w, fmt.Sprintf("apiserver-%d", i)))
	}
	for i, ds := range deciders {
		for n := range each {
			w.processes = append(w.processes, newProcess(w, fmt.Sprintf("service%d-%d", i, n), ds))
		}
	}
	for i := range machineCount {
		w.machines = append(w.machines, newMachine(w, i))
	}
	w.users = newUsers(w)
	return w
}

// populate makes what a cluster has before the first user comes.
func (w *World) populate() {
	s := w.servers[0]
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, "kube-node-lease"} {
		s.call(func(ctx context.Context) error {
			_, err := s.writer.Create(ctx, admin, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
			return err
		}, func(err error) {
			if err != nil {
				w.fail(err)
			}
		})
	}
	for s.round() {
		w.now = w.now.Add(time.Millisecond)
	}
}

// view is the true View: of all that happened.
func (w *World) view() *kernel.View { return w.views[len(w.views)-1] }

func (w *World) end() kernel.Seq { return kernel.Seq(len(w.records)) }

// hash is a number that follows from the seed and the parts alone, so that how
// long something takes does not depend on what happened beside it.
func (w *World) hash(parts ...any) uint64 {
	h := uint64(14695981039346656037) ^ w.Seed
	for _, b := range fmt.Append(nil, parts...) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return (&dice{h}).next()
}

// between is a duration that follows from the seed and the parts.
func (w *World) between(least, most time.Duration, parts ...any) time.Duration {
	return (&dice{w.hash(parts...)}).between(least, most)
}

// pass lets time pass. While it is open who is heard, the apiservers look as
// often as they do.
func (w *World) pass(d time.Duration) {
	for until := w.now.Add(d); w.now.Before(until); {
		step := until.Sub(w.now)
		if w.now.Before(w.present) {
			step = min(step, lookEvery)
		}
		w.now = w.now.Add(step)
		if w.now.Before(w.present) {
			w.talk()
			for _, s := range w.servers {
				s.look()
			}
		}
	}
}

// watchPresence says that a stream was opened or closed.
func (w *World) watchPresence() {
	if until := w.now.Add(presenceFor); until.After(w.present) {
		w.present = until
	}
}

// skew makes a clock jump: mostly by seconds, sometimes by hours.
func (w *World) skew(d *dice) {
	by := d.between(0, 40*time.Second) - 20*time.Second
	if d.once(4) {
		by = d.between(0, 6*time.Hour) - 3*time.Hour
	}
	w.count("jump of a clock")
	w.worstSkew = max(w.worstSkew, by.Abs())
	switch d.below(3) {
	case 0:
		w.servers[d.below(len(w.servers))].off = by
	case 1:
		w.processes[d.below(len(w.processes))].off = by
	case 2:
		w.machines[d.below(len(w.machines))].skew(by)
	}
}

// die is what becomes of a write whose process is killed: it lands late, or never.
func (w *World) die(r kernel.Record, d *dice) {
	if !w.Calm && d.once(2) {
		w.late = append(w.late, lateWrite{r, w.now})
		return
	}
	w.told.replays.drop(r)
}

// lateWrite is a write whose process was killed after it was sent.
type lateWrite struct {
	kernel.Record
	sent time.Time
}

// landLate lets a write land whose process was killed after it was sent.
func (w *World) landLate(d *dice) {
	if len(w.late) == 0 {
		return
	}
	i := d.below(len(w.late))
	r := w.late[i]
	w.late = slices.Delete(w.late, i, i+1)
	if w.now.Sub(r.sent) > oldAge {
		w.told.replays.drop(r.Record)
		return
	}
	if _, err := w.append(r.Record); err == nil {
		w.count("late write")
		w.users.reopen(r.Key)
	}
}

// after are at most n events after a Seq, or ErrGone.
func (w *World) after(seq kernel.Seq, n int) ([]kernel.Record, error) {
	rs, err := w.log.After(seq)
	if err != nil {
		return nil, err
	}
	return rs[:min(n, len(rs))], nil
}

// mustAfter is after where the log is known to reach back so far.
func (w *World) mustAfter(seq kernel.Seq) []kernel.Record {
	rs, err := w.log.After(seq)
	if err != nil {
		panic(err)
	}
	return rs
}

// fold reads the log from its beginning, be it purged.
func (w *World) fold(who string) *kernel.View {
	v, _ := kernel.NewView(w.rules).Fold(w.mustAfter(0)...)
	if err := w.told.starts.began(who, v); err != nil {
		w.fail(err)
	}
	return v
}

// append is the log's, and shows the event to the checkers.
func (w *World) append(r kernel.Record) (kernel.Seq, error) {
	seq, err := w.log.Append(context.Background(), r)
	if err != nil {
		switch {
		case errors.Is(err, events.ErrConflict):
			w.count("conflict")
		case errors.Is(err, events.ErrGone):
			w.count("write refused after a purge")
			w.told.replays.drop(r)
		default:
			w.fail(err)
		}
		return 0, err
	}
	appended := w.mustAfter(seq - 1)[0]
	v, es := w.view().Fold(appended)
	w.views, w.records, w.landed = append(w.views, v), append(w.records, appended), append(w.landed, w.now)
	for _, c := range w.checkers {
		if err := c.see(es[0]); err != nil {
			w.fail(found(c, err))
		}
	}
	return seq, nil
}

// fail ends the world. What was first says most.
func (w *World) fail(err error) {
	if w.broken == nil {
		w.broken = err
	}
}

// settle lets everything come to rest without faults, and checks what is then.
func (w *World) settle() error {
	for len(w.late) > 0 {
		w.landLate(nil)
	}
	for _, m := range w.machines {
		m.comeBack()
		m.skew(0)
	}
	for _, s := range w.servers {
		s.off = 0
		s.heal()
	}
	for _, p := range w.processes {
		p.off = 0
	}
	w.users.sober()
	rested := w.calmDown()
	if w.broken != nil {
		return w.broken
	}
	for _, c := range w.checkers {
		if err := c.end(); err != nil {
			return errors.Join(found(c, err), rested)
		}
	}
	return rested
}

// calmDown waits until all is as the users want it, and that nothing follows.
func (w *World) calmDown() error {
	if err := w.rest(w.now.Add(settleWithin), true); err != nil {
		return err
	}
	if err := w.rest(w.now.Add(sumUpWithin+w.worstSkew), false); err != nil {
		return err
	}
	at := len(w.records)
	if err := w.rest(w.now.Add(quietFor), false); err != nil {
		return err
	}
	more := slices.DeleteFunc(slices.Clone(w.records[at:]), func(r kernel.Record) bool { return r.Type == "event.expired" })
	if len(more) > 0 {
		r := more[0]
		return finding{"quiet", fmt.Errorf("all was as the users wanted it, yet %d events followed; the first: %d %s %s %s", len(more), r.Seq, r.Source, r.Type, r.Key)}
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
		if w.round() {
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
			if missing != nil {
				missing = finding{"reached", missing}
			}
			return missing
		}
		w.now = next
	}
	return finding{"rest", fmt.Errorf("it does not come to rest in %d rounds: %w", maxRounds, reached(w))}
}

// round does all that there is to do now, and tells whether that was anything.
func (w *World) round() bool {
	busy := false
	for _, p := range w.processes {
		busy = p.round() || busy
	}
	for _, s := range w.servers {
		busy = s.round() || busy
	}
	for _, m := range w.machines {
		busy = m.round() || busy
	}
	return w.users.round() || busy
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
	for _, m := range w.machines {
		earlier(m.next())
	}
	earlier(w.users.next())
	for _, s := range w.servers {
		for _, c := range s.calls {
			if !c.over {
				earlier(c.waits.until)
			}
		}
	}
	if w.now.Before(w.present) {
		earlier(w.now.Add(lookEvery))
	}
	if !next.After(w.now) && !next.IsZero() {
		next = w.now.Add(time.Millisecond)
	}
	return next
}
