package sim

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"
)

// Step is one thing that happens in a world: a verb, and a number from which
// the verb draws all that it has to choose. So a step means the same whatever
// steps there are beside it, and a scenario can be cut down.
type Step struct {
	Verb string
	N    uint64
}

// Scenario is all that happens in a world while there are faults. What comes
// after, when the world comes to rest, follows from it.
type Scenario struct {
	Seed uint64
	// Calm leaves out what no single leader does: there is one process of each
	// service, and a write of a process that was killed does not land later.
	Calm bool
	// Unlimited leaves out the quota, which no build but this test knows.
	Unlimited bool
	Steps     []Step
}

// Generate draws the scenario that a seed stands for. Every third is calm.
func Generate(seed uint64, steps int) Scenario {
	s := draw(seed, steps, func(v verb) int { return v.weight })
	s.Calm = seed%3 == 0
	return s
}

// connections is how often happens, beside the others, what has to do with who
// is connected to whom; all else does not happen.
var connections = map[string]int{
	"node": 60, "serve": 60, "followall": 10, "tick": 40, "wait": 6,
	"crash-apiserver": 4, "cut-apiserver": 4, "lose-words": 6, "cut-stream": 6, "kill-agent": 3, "two-agents": 2,
	"node-dies": 1, "node-cut-off": 1, "node-returns": 4,
}

// GenerateConnections draws a scenario of nodes that connect to apiservers, and
// what goes wrong between them. In as many steps much more of that happens than
// in a whole life.
func GenerateConnections(seed uint64, steps int) Scenario {
	return draw(seed, steps, func(v verb) int { return connections[v.name] })
}

// draw draws steps. Each seed has its own weather: of every fault between none
// and twice as many as usual.
func draw(seed uint64, steps int, usual func(verb) int) Scenario {
	s := Scenario{Seed: seed, Steps: make([]Step, steps)}
	rng := rand.New(rand.NewPCG(seed, 0x5eed))
	weights := make([]int, len(verbs))
	total := 0
	for i, v := range verbs {
		weights[i] = usual(v)
		if v.fault {
			weights[i] = rng.IntN(2*weights[i] + 1)
		}
		total += weights[i]
	}
	for i := range s.Steps {
		n := rng.IntN(total)
		at := 0
		for n >= weights[at] {
			n -= weights[at]
			at++
		}
		s.Steps[i] = Step{verbs[at].name, rng.Uint64() >> 16}
	}
	return s
}

// Write gives the scenario as text, a step per line.
func (s Scenario) Write(to io.Writer) error {
	_, err := fmt.Fprintf(to, "seed %d\ncalm %t\nunlimited %t\n", s.Seed, s.Calm, s.Unlimited)
	for _, one := range s.Steps {
		if err == nil {
			_, err = fmt.Fprintf(to, "%s %d\n", one.Verb, one.N)
		}
	}
	return err
}

// Parse reads what Write wrote. Lines that begin with # say what it is about.
func Parse(from io.Reader) (Scenario, error) {
	var s Scenario
	lines := bufio.NewScanner(from)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		word, rest, _ := strings.Cut(line, " ")
		var err error
		switch word {
		case "", "#":
		case "seed":
			_, err = fmt.Sscan(rest, &s.Seed)
		case "calm":
			_, err = fmt.Sscan(rest, &s.Calm)
		case "unlimited":
			_, err = fmt.Sscan(rest, &s.Unlimited)
		default:
			step := Step{Verb: word}
			if _, ok := verbOf(word); !ok {
				return s, fmt.Errorf("line %d: nothing in a world is called %q", n, word)
			}
			_, err = fmt.Sscan(rest, &step.N)
			s.Steps = append(s.Steps, step)
		}
		if err != nil {
			return s, fmt.Errorf("line %d: %q: %w", n, line, err)
		}
	}
	return s, lines.Err()
}

// verb is one thing that may happen.
type verb struct {
	name   string
	weight int // how often, beside the others
	fault  bool
	do     func(w *World, d *dice)
}

func verbOf(name string) (*verb, bool) {
	for i := range verbs {
		if verbs[i].name == name {
			return &verbs[i], true
		}
	}
	return nil, false
}

// verbs is filled in init, because what they do leads back to it.
var verbs []verb

func init() {
	withProcess := func(do func(p *process, d *dice)) func(*World, *dice) {
		return func(w *World, d *dice) { do(w.processes[d.below(len(w.processes))], d) }
	}
	// Of those that have something to send, or to hear: others would do nothing.
	busyProcess := func(busy func(*process) bool, do func(p *process, d *dice)) func(*World, *dice) {
		return func(w *World, d *dice) {
			at := d.below(len(w.processes))
			for i := range w.processes {
				if p := w.processes[(at+i)%len(w.processes)]; busy(p) {
					do(p, d)
					return
				}
			}
		}
	}
	sends := func(p *process) bool { return len(p.outbox) > 0 }
	hears := func(p *process) bool { return len(p.answers) > 0 }
	withServer := func(do func(s *server, d *dice)) func(*World, *dice) {
		return func(w *World, d *dice) { do(w.servers[d.below(len(w.servers))], d) }
	}
	withMachine := func(do func(m *machine, d *dice)) func(*World, *dice) {
		return func(w *World, d *dice) { do(w.machines[d.below(len(w.machines))], d) }
	}
	verbs = []verb{
		{"decide", 120, false, withProcess(func(p *process, _ *dice) { p.decide() })},
		{"send", 110, false, busyProcess(sends, func(p *process, d *dice) { p.send(d) })},
		{"hear", 110, false, busyProcess(hears, func(p *process, d *dice) { p.hear(d, false) })},
		{"read", 50, false, withProcess(func(p *process, d *dice) { p.read(1 + d.below(3)) })},
		{"readall", 60, false, withProcess(func(p *process, _ *dice) { p.read(everything) })},
		{"serve", 160, false, withServer(func(s *server, d *dice) { s.serve(d) })},
		{"follow", 40, false, withServer(func(s *server, d *dice) { s.read(1 + d.below(3)) })},
		{"followall", 40, false, withServer(func(s *server, _ *dice) { s.read(everything) })},
		{"node", 160, false, withMachine(func(m *machine, d *dice) { m.step(d) })},
		{"user", 25, false, func(w *World, d *dice) { w.users.act(d) }},
		{"ask", 50, false, func(w *World, d *dice) { w.users.ask(d) }},
		{"tick", 60, false, func(w *World, d *dice) { w.pass(d.between(0, 300*time.Millisecond)) }},
		{"wait", 14, false, func(w *World, d *dice) { w.pass(d.between(0, 20*time.Second)) }},
		{"long", 3, false, func(w *World, d *dice) { w.pass(d.between(0, 10*time.Minute)) }},

		{"lose-answer", 8, true, busyProcess(hears, func(p *process, d *dice) { p.hear(d, true) })},
		{"crash", 4, true, withProcess(func(p *process, d *dice) { p.crash(d) })},
		{"skew", 1, true, func(w *World, d *dice) { w.skew(d) }},
		{"land-late", 20, true, func(w *World, d *dice) { w.landLate(d) }},
		{"crash-apiserver", 2, true, withServer(func(s *server, d *dice) { s.crash(d) })},
		{"lose-reply", 5, true, withServer(func(s *server, d *dice) { s.lose(d) })},
		{"cut-stream", 3, true, withMachine(func(m *machine, d *dice) { m.breakStream(d) })},
		{"kill-agent", 2, true, withMachine(func(m *machine, d *dice) { m.restartAgent(d) })},
		{"two-agents", 1, true, withMachine(func(m *machine, _ *dice) { m.duplicate() })},
		{"node-dies", 1, true, withMachine(func(m *machine, _ *dice) { m.die() })},
		{"node-cut-off", 1, true, withMachine(func(m *machine, _ *dice) { m.cutOff() })},
		{"node-returns", 3, true, withMachine(func(m *machine, _ *dice) { m.comeBack() })},
		{"node-lost", 1, true, withMachine(func(m *machine, d *dice) {
			if d.once(4) {
				m.lose()
			}
		})},
		{"cut-apiserver", 1, true, func(w *World, d *dice) { w.cutServer(d) }},
		{"lose-words", 2, true, func(w *World, d *dice) { w.deafen(d) }},
		{"snapshot", 3, true, func(w *World, d *dice) { w.keeper.snapshot(d) }},
		{"purge", 3, true, func(w *World, d *dice) { w.keeper.purge(d) }},
	}
}

// everything is more events than any world has.
const everything = 1 << 30

// dice draws numbers from one number (splitmix64).
type dice struct{ state uint64 }

func (d *dice) next() uint64 {
	d.state += 0x9e3779b97f4a7c15
	z := d.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// below draws a number below n; without dice it is 0.
func (d *dice) below(n int) int {
	if d == nil || n <= 1 {
		return 0
	}
	return int(d.next() % uint64(n))
}

// once is true once in n times; without dice never.
func (d *dice) once(n int) bool { return d != nil && d.below(n) == 0 }

// between draws a duration; without dice it is the shortest.
func (d *dice) between(least, most time.Duration) time.Duration {
	if d == nil || most <= least {
		return least
	}
	return least + time.Duration(d.next()%uint64(most-least+1))
}
