package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/kernel"
)

// Replayer gives what a recording of a cluster is replayed with: the schema of
// its objects, this build's deciders, and the build's name.
type Replayer func(cluster string) *history.Replayer

// ErrUnexplained is returned when a replay found a difference.
var ErrUnexplained = errors.New("replay found changes that it cannot explain")

// replayFlags are what is to be replayed, and how.
type replayFlags struct {
	from, to, decider, file, output string
	whatIf                          bool
	times                           int
}

func (a *app) replay() *cobra.Command {
	var o replayFlags
	c := &cobra.Command{Use: "replay [FILE]", Short: "Make every recorded decision again, and compare", Args: cobra.MaximumNArgs(1),
		Long: "Make every recorded decision again, of the cluster's log or of a recording, and compare.\n\n" +
			"A recording needs no cluster. Every decision is made on what it had seen then; what would have followed another\n" +
			"decision is not played on. The exit code is 1 if something differs and --what-if is not given.",
		Example: "  rutter replay --from -1h\n  rutter replay yesterday.rec --what-if\n  rutter replay yesterday.rec --decider scheduler --times 1000",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				if o.file != "" {
					return errors.New("a recording is given twice: as FILE and with --file")
				}
				o.file = args[0]
			}
			if o.output != "" && o.output != "json" {
				return fmt.Errorf("--output: %q: expected json, or nothing", o.output)
			}
			report, err := a.replayed(c.Context(), o)
			if err != nil {
				return err
			}
			switch {
			case o.output == "json":
				err = json.NewEncoder(c.OutOrStdout()).Encode(report)
			case o.whatIf:
				a.painter(c).WhatIf(report)
			default:
				a.painter(c).Report(report)
			}
			if err == nil && report.Failed() && !o.whatIf {
				err = ErrUnexplained
			}
			return err
		}}
	f := c.Flags()
	f.StringVar(&o.from, "from", "", "decisions made from this position on, a time or how long ago")
	f.StringVar(&o.to, "to", "", "decisions made until this position, time or how long ago")
	f.StringVar(&o.decider, "decider", "", "only this decider's")
	f.StringVar(&o.file, "file", "", "a recording, instead of the cluster's log; the same as FILE")
	f.BoolVar(&o.whatIf, "what-if", false, "show what this build decides otherwise, as a table, and do not fail for it")
	f.IntVar(&o.times, "times", 1, "make every decision so often; a recording only")
	f.StringVarP(&o.output, "output", "o", "", "json: the report as data")
	return c
}

func (a *app) replayed(ctx context.Context, o replayFlags) (*history.Report, error) {
	if o.file == "" {
		return a.replayCluster(ctx, o)
	}
	return replayFile(o, a.replayer)
}

func (a *app) replayCluster(ctx context.Context, o replayFlags) (*history.Report, error) {
	if o.times > 1 {
		return nil, errors.New("--times: only for a recording: make one with rutter record export")
	}
	client, err := a.open()
	if err != nil {
		return nil, err
	}
	q := url.Values{}
	for name, v := range map[string]string{"from": o.from, "to": o.to, "decider": o.decider} {
		if v != "" {
			q.Set(name, v)
		}
	}
	var report history.Report
	return &report, client.JSON(ctx, "/rutter/v1/replay", q, &report)
}

// ReplayFile replays a recording with this build's deciders. decider names the
// only one to look at; empty: all.
func ReplayFile(file string, r Replayer, decider string) (*history.Report, error) {
	return replayFile(replayFlags{file: file, decider: decider}, r)
}

func replayFile(o replayFlags, r Replayer) (*history.Report, error) {
	f, err := os.Open(o.file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rec, err := history.OpenRecording(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.file, err)
	}
	p := r(rec.Cluster)
	p.Times = o.times
	if o.decider != "" {
		p.Deciders = slices.DeleteFunc(slices.Clone(p.Deciders), func(d kernel.Decider) bool { return d.Name != o.decider })
		if len(p.Deciders) == 0 {
			return nil, fmt.Errorf("there is no decider %q", o.decider)
		}
	}
	if p.From, err = position(rec, "from", o.from); err != nil {
		return nil, err
	}
	if p.To, err = position(rec, "to", o.to); err != nil {
		return nil, err
	}
	report, err := p.Replay(rec.Past())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.file, err)
	}
	return report, nil
}

// position finds a Seq in a recording by itself, or by a time: the last event
// until then. "" is 0.
func position(rec *history.Recording, name, value string) (kernel.Seq, error) {
	if value == "" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(value, 10, 64); err == nil {
		if seq := kernel.Seq(n); seq < rec.From || seq > rec.To {
			return 0, fmt.Errorf("--%s: %d: the recording is from %d to %d", name, seq, rec.From, rec.To)
		}
		return kernel.Seq(n), nil
	}
	at, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return 0, fmt.Errorf("--%s: %q: expected a position of the recording, or a time such as 2026-11-23T15:04:05Z", name, value)
	}
	seq := rec.From
	for r, err := range rec.Past().Records {
		if err != nil {
			return 0, err
		}
		if !r.Time.After(at) {
			seq = max(seq, r.Seq)
		}
	}
	return seq, nil
}

func (a *app) record() *cobra.Command {
	c := a.export()
	c.Use, c.Short = "record FILE", "Write the log to a file that replays anywhere; Secrets as hashes"
	c.Example = "  rutter record export yesterday.rec --from -24h\n  rutter record everything.rec"
	export := a.export()
	export.Use, export.Short = "export FILE", "Write a part of the log to a file that replays anywhere; Secrets as hashes"
	export.Example = "  rutter record export yesterday.rec --from -24h\n  rutter record export part.rec --from 4711 --to 2026-11-23T15:04:05Z"
	c.AddCommand(export)
	return c
}

func (a *app) export() *cobra.Command {
	var from, to string
	c := &cobra.Command{Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.open()
			if err != nil {
				return err
			}
			q := url.Values{}
			for name, v := range map[string]string{"from": from, "to": to} {
				if v != "" {
					q.Set(name, v)
				}
			}
			h, state, err := client.export(c.Context(), q, args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%d events in %s", h.To-h.From, args[0])
			if h.From > 0 {
				fmt.Fprintf(c.OutOrStdout(), ", after the state at %d of %d objects", h.From, state)
			}
			fmt.Fprintln(c.OutOrStdout())
			return nil
		}}
	c.Flags().StringVar(&from, "from", "", "begin with the state at this position, time or how long ago (-15m); empty: as early as possible")
	c.Flags().StringVar(&to, "to", "", "until this position, time or how long ago; empty: now")
	return c
}

// export writes a recording, all of it or none. It returns how many records its
// state has.
func (c *Client) export(ctx context.Context, q url.Values, file string) (h history.Heading, state int, err error) {
	body, err := c.Get(ctx, "/rutter/v1/record", q, "")
	if err != nil {
		return h, 0, err
	}
	defer body.Close()
	lines := history.NewLines(body)
	if h, err = history.ReadHeading(lines); err != nil {
		return h, 0, fmt.Errorf("what the server sent: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".recording-*")
	if err != nil {
		return h, 0, err
	}
	defer os.Remove(tmp.Name()) // fails when all went well
	out, err := history.NewRecorder(tmp, h)
	if err != nil {
		return h, 0, errors.Join(err, tmp.Close())
	}
	err = history.EachRecord(lines, h, func(_ []byte, r kernel.Record) error {
		if r.Seq <= h.From {
			state++
		}
		return out.Add(r)
	})
	if err != nil {
		return h, 0, errors.Join(err, tmp.Close())
	}
	if err := errors.Join(out.Close(), tmp.Chmod(0o644), tmp.Close()); err != nil {
		return h, 0, err
	}
	return h, state, os.Rename(tmp.Name(), file)
}
