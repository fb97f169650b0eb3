package kernel_test

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/events/memory"
	"github.com/rutterhq/rutter/kernel"
)

// overtaken is a log to which something happens after it was asked where it
// ends, and before it is followed. What it yields comes slowly.
type overtaken struct {
	*memory.Log
	meanwhile func()
	once      sync.Once
}

func (l *overtaken) Follow(ctx context.Context, after events.Seq) iter.Seq2[events.Record, error] {
	return func(yield func(events.Record, error) bool) {
		l.once.Do(l.meanwhile)
		for r, err := range l.Log.Follow(ctx, after) {
			time.Sleep(time.Second) // of the bubble's clock
			if !yield(r, err) {
				return
			}
		}
	}
}

// changed gives the n-th event of a log: object m, of one of two resources, is
// created by event m, which is odd, and changed by 2m, 4m, ...
func changed(t *testing.T, n kernel.Seq) kernel.Record {
	m, expect := n, kernel.Seq(0)
	for ; m%2 == 0; m /= 2 {
		expect = n / 2
	}
	r := record(t, fmt.Sprint("o", m), fmt.Sprint(n), expect)
	if r.Seen = n - 1; m%4 == 3 {
		r.Key.Plural = "others"
	}
	return r
}

// TestNobodySeesAPartOfAKeptState keeps a state, and purges the log up to it,
// just between a Mirror's two questions. Every View that is seen must be the one
// at its Seq, and the events those that lead from one to the next.
func TestNobodySeesAPartOfAKeptState(t *testing.T) {
	for _, c := range []struct {
		name          string
		before, until kernel.Seq // where the log ends when it is asked, and where the state is kept
		only          []kernel.Resource
	}{
		{"some", 3, 9, nil},
		{"some of one resource", 3, 9, []kernel.Resource{configMaps}},
		{"none", 0, 9, nil},
		{"none of one resource", 0, 9, []kernel.Resource{configMaps}},
		{"many", 5, 601, nil},
		{"many after none", 0, 601, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			log := &overtaken{Log: memory.New()}
			views := []map[kernel.Key]kernel.Seq{{}}
			write := func(upTo kernel.Seq) {
				for n := kernel.Seq(len(views)); n <= upTo; n++ {
					r := changed(t, n)
					if _, err := log.Append(t.Context(), r); err != nil {
						t.Error(err)
						return
					}
					v := maps.Clone(views[n-1])
					if c.only == nil || slices.Contains(c.only, r.Key.Resource) {
						v[r.Key] = n
					}
					views = append(views, v)
				}
			}
			write(c.before)
			log.meanwhile = func() {
				write(c.until)
				log.Purge(log.SaveNow())
				write(c.until + 3)
			}
			mirroredOnly(t, log, c.only, func(ctx context.Context, m *kernel.Mirror) {
				told := map[kernel.Key]kernel.Seq{}
				for step := range m.Follow(ctx) {
					has := map[kernel.Key]kernel.Seq{}
					for e := range step.View.All() {
						has[e.Key] = e.Seq
					}
					for _, e := range step.Events {
						told[e.Key] = e.Seq
					}
					want := views[step.View.Seq()]
					if !maps.Equal(want, has) || !maps.Equal(want, told) {
						t.Errorf("the View at %d, and what was told until then (-want +got):\n%s\n%s",
							step.View.Seq(), cmp.Diff(want, has), cmp.Diff(want, told))
						return
					}
					if step.View.Seq() == c.until+3 {
						return
					}
				}
			})
		})
	}
}

// scripted is a log that yields these Records, slowly.
type scripted []kernel.Record

func (s scripted) Append(context.Context, kernel.Record) (kernel.Seq, error) {
	return 0, events.ErrUnavailable
}

func (s scripted) Last(context.Context) (kernel.Seq, error) { return 4, nil }

func (s scripted) Follow(ctx context.Context, _ kernel.Seq) iter.Seq2[kernel.Record, error] {
	return func(yield func(kernel.Record, error) bool) {
		for _, r := range s {
			time.Sleep(time.Second) // of the bubble's clock
			if !yield(r, nil) {
				return
			}
		}
		<-ctx.Done()
	}
}

// TestWhatANodeIsToldOfAtOnceIsSeenAtOnce reads a log as a node's door gives it:
// a pod that was bound to the node at 8 brings a Secret of long ago with it.
func TestWhatANodeIsToldOfAtOnceIsSeenAtOnce(t *testing.T) {
	at := func(name string, seq kernel.Seq) kernel.Record { return sequenced(record(t, name, "1", 0), seq) }
	log := scripted{at("own", 2), at("service", 4), {Seq: 4}, at("secret", 3), at("pod", 8), {Seq: 8}}
	mirrored(t, log, func(ctx context.Context, m *kernel.Mirror) {
		var got []string
		for step := range m.Follow(ctx) {
			names := ""
			for _, e := range step.Events {
				names += " " + e.Key.Name
			}
			if got = append(got, fmt.Sprint(step.View.Seq(), ":", names)); step.View.Seq() == 8 {
				break
			}
		}
		if diff := cmp.Diff([]string{"4: own service", "8: secret pod"}, got); diff != "" {
			t.Errorf("the steps (-want +got):\n%s", diff)
		}
	})
}
