// Package logs is a corpus of recordings that every build replays: whole logs
// of clusters, real and simulated, in which things went well and went wrong.
//
//	shop      the example's life in a real cluster: applied, updated under load, killed, and so on (test/)
//	expiry    an Event object goes after its hour                              testdata/expiry.txtar
//	rollout   a Deployment behind an Ingress, updated, scaled, rolled back     testdata/rollout.txtar
//	nodeloss  a node falls silent, its pods move, it comes back                testdata/nodeloss.txtar
//	refused   pods that must not be, and Deployments that say so               testdata/refused.txtar
//	leaders   two leaders of everything, with crashes and lost answers         simulator, by seed
//	storm     eight of each, who take every second write from one another      simulator, by seed
//
// A recording is made by one build and replayed by all that follow. corpus.txt
// says how that went: a build that decides otherwise changes it, and whoever
// changed a decider sees there, and with `rutter replay --what-if`, which
// decisions differ now, before a user does.
//
//	go test ./sim/logs -update             records anew what is simulated, and writes corpus.txt
//	go test ./sim/logs -run Again -again 1000
//
// The shop's comes from a run of test/, with its Secrets as hashes:
//
//	go test -tags e2e ./test -run 'TestShop$' -args -recording $PWD/sim/logs/shop.rec
//
// What it does not do: say that what was decided was right. That is what
// scenarios and the simulator's checkers are for.
package logs

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/kernel"
	"github.com/rutterhq/rutter/kinds"
	"github.com/rutterhq/rutter/services/controllers"
	"github.com/rutterhq/rutter/services/ingress"
	"github.com/rutterhq/rutter/services/scheduler"
)

//go:embed *.rec corpus.txt
var embedded embed.FS

// files are the recordings, and what they come to, in the program: who replays them needs no folder.
var files fs.FS = embedded

// Names are the recordings there are.
func Names() []string {
	found, err := fs.Glob(files, "*.rec")
	if err != nil {
		panic(err) // the pattern is not one
	}
	var out []string
	for _, file := range found {
		out = append(out, strings.TrimSuffix(file, ".rec"))
	}
	return out
}

// Open opens a recording by its name.
func Open(name string) (*history.Recording, error) {
	b, err := fs.ReadFile(files, name+".rec")
	if err != nil {
		return nil, err
	}
	r, err := history.OpenRecording(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("recording %s: %w", name, err)
	}
	return r, nil
}

// Deciders are all that a cluster runs.
func Deciders() []kernel.Decider {
	return slices.Concat(scheduler.Deciders(), controllers.Deciders(controllers.Default()), ingress.Deciders())
}

// Replay makes every decision of a recording again.
func Replay(name string, deciders []kernel.Decider) (*history.Report, error) {
	r, err := Open(name)
	if err != nil {
		return nil, err
	}
	p := &history.Replayer{Schema: &kinds.Schema{Cluster: r.Cluster}, Deciders: deciders}
	return p.Replay(r.Past())
}
