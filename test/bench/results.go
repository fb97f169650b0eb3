package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/rutterhq/rutter/test/load"
)

// The names of what is measured.
const (
	createConfigMap = "create ConfigMap (1 KB)"
	createPod       = "create Pod"
	getPod          = "get Pod"
	updateConfigMap = "get + update ConfigMap"
	patchPod        = "strategic merge patch of a Pod"
	apply           = "server-side apply of a ConfigMap"
	listPods        = "list all Pods, JSON"
	watchConfigMap  = "watch: write sent to seen"
	deletePod       = "delete Pod"
	startPod        = "pod, create to Running"
	startContainer  = "ctr run -d"
)

// peer is the column of kube-apiserver and etcd, measured on an
// idle machine of this kind: operations per second, latencies, CPU per
// operation. Zero: not measured, or not comparable. Its last value is our goal.
type peer struct {
	rate     float64
	p50, p99 time.Duration
	cpu      time.Duration
	goal     time.Duration // what we want to need of CPU, once commits are grouped
}

var peers = map[string]peer{
	createConfigMap: {1354, 10800 * time.Microsecond, 27500 * time.Microsecond, 1192 * time.Microsecond, 250 * time.Microsecond},
	createPod:       {1041, 14000 * time.Microsecond, 41600 * time.Microsecond, 1628 * time.Microsecond, 320 * time.Microsecond},
	getPod:          {2395, 5900 * time.Microsecond, 19500 * time.Microsecond, 622 * time.Microsecond, 100 * time.Microsecond},
	updateConfigMap: {748, 19600 * time.Microsecond, 49700 * time.Microsecond, 2108 * time.Microsecond, 400 * time.Microsecond},
	patchPod:        {705, 20400 * time.Microsecond, 53300 * time.Microsecond, 2530 * time.Microsecond, 450 * time.Microsecond},
	apply:           {834, 17600 * time.Microsecond, 45900 * time.Microsecond, 2060 * time.Microsecond, 500 * time.Microsecond},
	deletePod:       {638, 23100 * time.Microsecond, 53500 * time.Microsecond, 2728 * time.Microsecond, 400 * time.Microsecond},
	listPods:        {16, 226 * time.Millisecond, 414 * time.Millisecond, 97 * time.Millisecond, 35000 * time.Microsecond},
	watchConfigMap:  {0, 2900 * time.Microsecond, 6400 * time.Microsecond, 0, 0},
	startContainer:  {0, 99 * time.Millisecond, 0, 0, 0},
}

// result is what one round found for one kind of work.
type result struct {
	rate     float64 // per second
	p50, p99 time.Duration
	cpu      time.Duration // per operation; negative: not measured
}

// results are those of all rounds.
type results struct {
	names []string // in the order in which they were measured
	all   map[string][]result
	sizes []string
	rss   map[string][][2]int64

	services map[int][]load.Comparison // by how many Services there are
}

// work notes one round's figures. cpu is that of all operations together.
func (r *results) work(name string, took []time.Duration, wall, cpu time.Duration) {
	if r.all == nil {
		r.all = map[string][]result{}
	}
	if r.all[name] == nil {
		r.names = append(r.names, name)
	}
	slices.Sort(took)
	n := len(took)
	r.all[name] = append(r.all[name], result{float64(n) / wall.Seconds(), took[n/2], took[n*99/100], cpu / time.Duration(n)})
}

// memory notes how large the process is now.
func (r *results) memory(when string, c *cluster) {
	all, anon, err := c.rss()
	if err != nil {
		return // the process is gone: what comes next says so
	}
	if r.rss == nil {
		r.rss = map[string][][2]int64{}
	}
	if r.rss[when] == nil {
		r.sizes = append(r.sizes, when)
	}
	r.rss[when] = append(r.rss[when], [2]int64{all, anon})
}

// median of the rounds, by what each gives.
func median[T any, V float64 | int64 | time.Duration](rounds []T, of func(T) V) V {
	var vs []V
	for _, r := range rounds {
		vs = append(vs, of(r))
	}
	slices.Sort(vs)
	return vs[len(vs)/2]
}

// service notes how one round's connections to a Service compare.
func (r *results) service(services int, c load.Comparison) {
	if r.services == nil {
		r.services = map[int][]load.Comparison{}
	}
	r.services[services] = append(r.services[services], c)
}

// printServices writes the comparisons as a table in Markdown.
func (r *results) printServices(w io.Writer) {
	fmt.Fprint(w, "\n| Services\t| to the pod, per s\t| to its ClusterIP, per s\t| ratio (of each round)\t|\n|---\t|---\t|---\t|---\t|\n")
	for _, n := range slices.Sorted(maps.Keys(r.services)) {
		rounds, each := r.services[n], ""
		for _, x := range rounds {
			each += fmt.Sprintf(" %.3f", x.Ratio)
		}
		fmt.Fprintf(w, "| %d\t| %.0f\t| %.0f\t| %.3f (%s)\t|\n", n, median(rounds, func(x load.Comparison) float64 { return x.Direct }),
			median(rounds, func(x load.Comparison) float64 { return x.Service }), median(rounds, func(x load.Comparison) float64 { return x.Ratio }), each[1:])
	}
}

// print writes the medians of the rounds beside the peer's figures, as tables
// in Markdown.
func (r *results) print(to io.Writer) {
	w := tabwriter.NewWriter(to, 0, 0, 1, ' ', 0)
	if r.services != nil {
		r.printServices(w)
		_ = w.Flush() // of a terminal or a file: nobody to tell
		return
	}
	fmt.Fprint(w, "\n| work\t| per s\t| p50 / p99, ms\t| CPU per op, µs (of each round)\t| peer: per s\t| peer: p50 / p99, ms\t| peer: CPU, µs\t| CPU ÷ peer's\t| goal: CPU, µs\t|\n")
	fmt.Fprint(w, "|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|\n")
	for _, name := range r.names {
		rounds, p := r.all[name], peers[name]
		cpu := median(rounds, func(x result) time.Duration { return x.cpu })
		each := ""
		for _, x := range rounds {
			each += fmt.Sprintf(" %d", x.cpu.Microseconds())
		}
		fmt.Fprintf(w, "| %s\t| %.0f\t| %.1f / %.1f\t| %s\t| %s\t| %s\t| %s\t| %s\t| %s\t|\n", name,
			median(rounds, func(x result) float64 { return x.rate }),
			milliseconds(median(rounds, func(x result) time.Duration { return x.p50 })),
			milliseconds(median(rounds, func(x result) time.Duration { return x.p99 })),
			known(cpu >= 0, "%d (%s)", cpu.Microseconds(), each[1:]), known(p.rate > 0, "%.0f", p.rate),
			known(p.p50 > 0, "%.1f / %.1f", milliseconds(p.p50), milliseconds(p.p99)),
			known(p.cpu > 0, "%d", p.cpu.Microseconds()), known(p.cpu > 0 && cpu >= 0, "%.2f", float64(cpu)/float64(p.cpu)), known(p.goal > 0, "%d", p.goal.Microseconds()))
	}
	fmt.Fprint(w, "\n| memory of the process\t| RSS, MiB\t| RssAnon, MiB\t|\n|---\t|---\t|---\t|\n")
	for _, when := range r.sizes {
		fmt.Fprintf(w, "| %s\t| %d\t| %d\t|\n", when, median(r.rss[when], func(x [2]int64) int64 { return x[0] >> 20 }),
			median(r.rss[when], func(x [2]int64) int64 { return x[1] >> 20 }))
	}
	_ = w.Flush() // of a terminal or a file: nobody to tell
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// known formats a figure, or nothing.
func known(is bool, format string, args ...any) string {
	if !is {
		return ""
	}
	return fmt.Sprintf(format, args...)
}
