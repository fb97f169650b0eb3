package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	quantity "k8s.io/apimachinery/pkg/api/resource"

	"github.com/rutterhq/rutter/kernel"
)

// snapshotsShown bounds the snapshots in the table; -o json has all.
const snapshotsShown = 10

// window is what the apiserver says of history.
type window struct {
	First  kernel.Seq `json:"first"`
	Last   kernel.Seq `json:"last"`
	Since  time.Time  `json:"since"`
	Bytes  int64      `json:"bytes"`
	PerDay struct {
		Events int64 `json:"events"`
		Bytes  int64 `json:"bytes"`
	} `json:"perDay"`
	Used   int64 `json:"used"`
	Budget int64 `json:"budget"`
	Keep   *struct {
		Age   string `json:"age"`
		Bytes int64  `json:"bytes"`
	} `json:"keep"`
	Snapshots []struct {
		Seq   kernel.Seq `json:"seq"`
		Time  time.Time  `json:"time"`
		Bytes int64      `json:"bytes"`
	} `json:"snapshots"`
}

const historyPath = "/rutter/v1/history"

func (a *app) history() *cobra.Command {
	var keep, size, output string
	c := &cobra.Command{Use: "history", Short: "Show how far back the past can be read, and what it takes; or change it", Args: cobra.NoArgs,
		Example: "  rutter history\n  rutter history --keep 72h --bytes 10Gi",
		RunE: func(c *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return fmt.Errorf("--output: %q: expected json, or nothing", output)
			}
			change, err := keepChange(c.Flags().Changed("keep"), keep, c.Flags().Changed("bytes"), size)
			if err != nil {
				return err
			}
			client, err := a.open()
			if err != nil {
				return err
			}
			method := http.MethodGet
			if change != nil {
				method = http.MethodPut
			}
			body, err := client.do(c.Context(), method, historyPath, nil, "application/json", bytes.NewReader(change))
			if err != nil {
				return err
			}
			defer body.Close()
			var raw json.RawMessage
			if err := json.NewDecoder(body).Decode(&raw); err != nil {
				return fmt.Errorf("read the answer: %w", err)
			}
			if output == "json" {
				_, err := fmt.Fprintf(c.OutOrStdout(), "%s\n", raw)
				return err
			}
			var w window
			if err := json.Unmarshal(raw, &w); err != nil {
				return fmt.Errorf("read the answer: %w", err)
			}
			return a.painter(c).window(&w, time.Now())
		}}
	c.Flags().StringVar(&keep, "keep", "", "keep the past for this long from now on, such as 72h or 7d; 0: however old")
	c.Flags().StringVar(&size, "bytes", "", "let history take this much of the disk, such as 10Gi; 0: as much as the disk budget allows")
	c.Flags().StringVarP(&output, "output", "o", "", "json: as data")
	return c
}

// keepChange is the body of a request that changes what is kept; nil if
// neither flag was given.
func keepChange(hasAge bool, age string, hasBytes bool, size string) ([]byte, error) {
	want := map[string]any{}
	if hasAge {
		d, err := parseAge(age)
		if err != nil {
			return nil, fmt.Errorf("--keep: %w", err)
		}
		want["age"] = d.String()
	}
	if hasBytes {
		q, err := quantity.ParseQuantity(size)
		if err != nil || q.Sign() < 0 {
			return nil, fmt.Errorf("--bytes: %q: expected an amount of bytes such as 10Gi", size)
		}
		want["bytes"] = q.Value()
	}
	if len(want) == 0 {
		return nil, nil
	}
	return json.Marshal(want)
}

// parseAge reads a duration as Go writes it, or whole days: 7d.
func parseAge(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q: expected a time such as 72h or 7d", s)
	}
	return d, nil
}

// window shows what can be read of the past, and what it takes.
func (p Painter) window(w *window, now time.Time) error {
	row := func(name, format string, args ...any) {
		fmt.Fprintf(p.W, "%s %s\n", p.paint(bold, fmt.Sprintf("%-9s", name)), fmt.Sprintf(format, args...))
	}
	if w.Since.IsZero() {
		row("window", "nothing has happened yet")
	} else {
		row("window", "%s until now, %s: events %d to %d", p.paint(cyan, w.Since.Local().Format(time.DateTime)), span(now.Sub(w.Since)), w.First, w.Last)
	}
	row("size", "%s of history%s", p.paint(cyan, amount(w.Bytes)), p.used(w))
	row("growth", "%s and %d events a day", p.paint(cyan, amount(w.PerDay.Bytes)), w.PerDay.Events)
	if w.Keep == nil {
		row("keep", "everything")
		return nil
	}
	age, err := time.ParseDuration(w.Keep.Age)
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	var bounds []string
	if age > 0 {
		bounds = append(bounds, span(age))
	}
	if w.Keep.Bytes > 0 {
		bounds = append(bounds, "at most "+amount(w.Keep.Bytes))
	}
	if len(bounds) == 0 {
		bounds = append(bounds, "as much as the disk budget allows")
	}
	row("keep", "%s", strings.Join(bounds, ", "))
	return p.snapshots(w, now)
}

// used says how full the disk budget is: yellow where snapshots and purges set
// in, red where nothing new can be created.
func (p Painter) used(w *window) string {
	if w.Budget <= 0 {
		return ""
	}
	percent := w.Used * 100 / w.Budget
	code := green
	switch {
	case percent >= 90:
		code = bold + ";" + red
	case percent >= 80:
		code = yellow
	}
	return fmt.Sprintf("; all together %s of %s, %s", amount(w.Used), amount(w.Budget), p.paint(code, fmt.Sprintf("%d %% full", percent)))
}

// snapshots lists the newest of them.
func (p Painter) snapshots(w *window, now time.Time) error {
	fmt.Fprintf(p.W, "%s %d", p.paint(bold, fmt.Sprintf("%-9s", "snapshots")), len(w.Snapshots))
	shown := w.Snapshots[max(0, len(w.Snapshots)-snapshotsShown):]
	if len(shown) < len(w.Snapshots) {
		fmt.Fprintf(p.W, ", the newest %d:", len(shown))
	}
	fmt.Fprintln(p.W)
	if len(shown) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(p.W, 6, 4, 3, ' ', 0)
	fmt.Fprintln(t, "EVENT\tTAKEN\tAGO\tSIZE")
	for _, s := range shown {
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\n", s.Seq, s.Time.Local().Format(time.DateTime), span(now.Sub(s.Time)), amount(s.Bytes))
	}
	return t.Flush()
}

// amount shows bytes as people read them.
func amount(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for ; f >= 1024 && i < len(units)-1; i++ {
		f /= 1024
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

// span shows a duration by its two largest units.
func span(d time.Duration) string {
	d = max(0, d.Round(time.Second))
	days, hours, minutes := int(d/(24*time.Hour)), int(d/time.Hour)%24, int(d/time.Minute)%60
	switch {
	case days > 0 && hours > 0:
		return fmt.Sprintf("%dd%dh", days, hours)
	case days > 0:
		return fmt.Sprintf("%dd", days)
	case hours > 0:
		return fmt.Sprintf("%dh%dm", hours, minutes)
	case minutes > 0:
		return fmt.Sprintf("%dm%ds", minutes, int(d/time.Second)%60)
	}
	return d.String()
}
