package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rutterhq/rutter/events"
	"github.com/rutterhq/rutter/internal/history"
	"github.com/rutterhq/rutter/kernel"
)

// defaultKubeconfig is where `rutter up` puts the administrator's.
const defaultKubeconfig = "/var/lib/rutter/admin.kubeconfig"

// app is what the commands share.
type app struct {
	kubeconfig string
	namespace  string
	color      bool
	replayer   Replayer
}

// painter shows things where the command's output goes.
func (a *app) painter(c *cobra.Command) Painter { return Painter{W: c.OutOrStdout(), Color: a.color} }

// Commands are the debugging commands.
func Commands(r Replayer) []*cobra.Command {
	return commands(&app{color: onTerminal(), replayer: r})
}

func commands(a *app) []*cobra.Command {
	all := []*cobra.Command{a.log(), a.why(), a.get(), a.diff(), a.history(), a.replay(), a.record()}
	for _, c := range all {
		c.PersistentFlags().StringVar(&a.kubeconfig, "kubeconfig", "", "kubeconfig file; empty: $KUBECONFIG, else the administrator's")
		c.PersistentFlags().StringVarP(&a.namespace, "namespace", "n", "", "namespace of names that say none; empty: the kubeconfig's")
	}
	return all
}

// open finds the cluster.
func (a *app) open() (*Client, error) {
	file := a.kubeconfig
	if file == "" {
		file, _, _ = strings.Cut(os.Getenv("KUBECONFIG"), string(os.PathListSeparator))
	}
	if file == "" {
		file = defaultKubeconfig
	}
	c, err := Open(file)
	if err != nil {
		return nil, err
	}
	if a.namespace != "" {
		c.Namespace = a.namespace
	}
	return c, nil
}

// resource is what discovery says about one.
type resource struct {
	metav1.APIResource
	group, version string
}

// path is the resource's path in the API.
func (r *resource) path(namespace, name string) string {
	p := "/api/" + r.version
	if r.group != "" {
		p = "/apis/" + r.group + "/" + r.version
	}
	if r.Namespaced && namespace != "" {
		p += "/namespaces/" + url.PathEscape(namespace)
	}
	p += "/" + r.Name
	if name != "" {
		p += "/" + url.PathEscape(name)
	}
	return p
}

// resolve finds a resource by any of its names: pods, pod, po, deployments.apps.
func (c *Client) resolve(ctx context.Context, name string) (*resource, error) {
	lists := []string{"/api/v1"}
	var groups metav1.APIGroupList
	if err := c.JSON(ctx, "/apis", nil, &groups); err != nil {
		return nil, err
	}
	for _, g := range groups.Groups {
		lists = append(lists, "/apis/"+g.PreferredVersion.GroupVersion)
	}
	plain, group, _ := strings.Cut(strings.ToLower(name), ".")
	for _, l := range lists {
		var list metav1.APIResourceList
		if err := c.JSON(ctx, l, nil, &list); err != nil {
			return nil, err
		}
		g, v, _ := strings.Cut(list.GroupVersion, "/")
		if v == "" {
			g, v = "", g
		}
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") || group != "" && group != g {
				continue
			}
			if plain == r.Name || plain == r.SingularName || plain == strings.ToLower(r.Kind) || slices.Contains(r.ShortNames, plain) {
				return &resource{r, g, v}, nil
			}
		}
	}
	return nil, fmt.Errorf("the server has no resource %q", name)
}

// object reads RESOURCE/NAME or RESOURCE/NAMESPACE/NAME into a resource and a Key.
func (c *Client) object(ctx context.Context, arg string) (*resource, kernel.Key, error) {
	parts := strings.Split(arg, "/")
	r, err := c.resolve(ctx, parts[0])
	if err != nil {
		return nil, kernel.Key{}, err
	}
	k := kernel.Key{Resource: kernel.Resource{Group: r.group, Plural: r.Name}}
	switch {
	case len(parts) == 2 && r.Namespaced:
		k.Namespace, k.Name = c.Namespace, parts[1]
	case len(parts) == 2:
		k.Name = parts[1]
	case len(parts) == 3 && r.Namespaced:
		k.Namespace, k.Name = parts[1], parts[2]
	default:
		return nil, k, fmt.Errorf("%q: expected RESOURCE/NAME or RESOURCE/NAMESPACE/NAME", arg)
	}
	return r, k, nil
}

func (a *app) log() *cobra.Command {
	var from, to, object, kind, actor, typ, output string
	var tail int
	var follow bool
	c := &cobra.Command{Use: "log", Short: "Show what happened", Args: cobra.NoArgs,
		Example: "  rutter log --tail 20 -f\n  rutter log --object pods/web-1 --from -15m\n  rutter log --actor scheduler --type pod.bound",
		RunE: func(c *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return fmt.Errorf("--output: %q: expected json, or nothing", output)
			}
			client, err := a.open()
			if err != nil {
				return err
			}
			q := url.Values{}
			for name, v := range map[string]string{"from": from, "to": to, "actor": actor, "type": typ} {
				if v != "" {
					q.Set(name, v)
				}
			}
			if tail > 0 {
				q.Set("tail", strconv.Itoa(tail))
			}
			if follow {
				q.Set("follow", "true")
			}
			if object != "" {
				_, k, err := client.object(c.Context(), object)
				if err != nil {
					return err
				}
				q.Set("key", k.String())
			}
			if kind != "" {
				r, err := client.resolve(c.Context(), kind)
				if err != nil {
					return err
				}
				q.Set("resource", kernel.Resource{Group: r.group, Plural: r.Name}.String())
			}
			return client.records(c.Context(), q, func(line []byte, r *events.Record) error {
				if output == "json" {
					_, err := c.OutOrStdout().Write(append(line, '\n'))
					return err
				}
				a.painter(c).Event(r)
				return nil
			})
		}}
	f := c.Flags()
	f.StringVar(&from, "from", "", "after this position, time (RFC 3339) or how long ago (-15m)")
	f.StringVar(&to, "to", "", "until this position, time or how long ago")
	f.StringVar(&object, "object", "", "only this object, such as pods/web-1")
	f.StringVar(&kind, "kind", "", "only this resource, such as deployments")
	f.StringVar(&actor, "actor", "", "only what this actor did, such as scheduler or user:admin")
	f.StringVar(&typ, "type", "", "only events of this type, such as pod.bound or pod")
	f.IntVar(&tail, "tail", 0, "only the last N of what is there")
	f.BoolVarP(&follow, "follow", "f", false, "go on with what happens")
	f.StringVarP(&output, "output", "o", "", "json: whole records, one per line")
	return c
}

// records reads a log stream.
func (c *Client) records(ctx context.Context, q url.Values, each func(line []byte, r *events.Record) error) error {
	body, err := c.Get(ctx, "/rutter/v1/log", q, "")
	if err != nil {
		return err
	}
	defer body.Close()
	if err := eachRecord(body, each); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

func eachRecord(from io.Reader, each func(line []byte, r *events.Record) error) error {
	lines := history.NewLines(from)
	for lines.Scan() {
		var r events.Record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return fmt.Errorf("read a record: %w", err)
		}
		if err := each(lines.Bytes(), &r); err != nil {
			return err
		}
	}
	return lines.Err()
}

func (a *app) why() *cobra.Command {
	var at, output string
	c := &cobra.Command{Use: "why OBJECT", Short: "Show what led to an object's last event, back to the outside", Args: cobra.ExactArgs(1),
		Example: "  rutter why pods/web-1\n  rutter why pods/default/web-1 --at -1h",
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.open()
			if err != nil {
				return err
			}
			_, k, err := client.object(c.Context(), args[0])
			if err != nil {
				return err
			}
			q := url.Values{"key": {k.String()}}
			if at != "" {
				q.Set("at", at)
			}
			var l history.Link
			if err := client.JSON(c.Context(), "/rutter/v1/why", q, &l); err != nil {
				return err
			}
			if output == "json" {
				return json.NewEncoder(c.OutOrStdout()).Encode(&l)
			}
			a.painter(c).Chain(&l)
			return nil
		}}
	c.Flags().StringVar(&at, "at", "", "as of this position, time or how long ago (-15m)")
	c.Flags().StringVarP(&output, "output", "o", "", "json: the chain as data")
	return c
}

func (a *app) get() *cobra.Command {
	var at, output string
	var all bool
	c := &cobra.Command{Use: "get KIND|OBJECT", Short: "Show objects as they were", Args: cobra.ExactArgs(1),
		Example: "  rutter get pods --at -10m\n  rutter get deployments/web --at 2026-11-23T15:04:05Z -o yaml",
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.open()
			if err != nil {
				return err
			}
			var path string
			if strings.Contains(args[0], "/") {
				r, k, err := client.object(c.Context(), args[0])
				if err != nil {
					return err
				}
				path = r.path(k.Namespace, k.Name)
			} else {
				r, err := client.resolve(c.Context(), args[0])
				if err != nil {
					return err
				}
				namespace := client.Namespace
				if all {
					namespace = ""
				}
				path = r.path(namespace, "")
			}
			if at != "" {
				path = "/rutter/v1/at/" + url.PathEscape(at) + path
			}
			switch output {
			case "json", "yaml":
				body, err := client.Get(c.Context(), path, url.Values{"pretty": {"true"}}, "application/"+output)
				if err != nil {
					return err
				}
				defer body.Close()
				_, err = io.Copy(c.OutOrStdout(), body)
				return err
			case "":
				return client.table(c, path, all)
			}
			return fmt.Errorf("--output: %q: expected json, yaml or nothing", output)
		}}
	c.Flags().StringVar(&at, "at", "", "position, time (RFC 3339) or how long ago (-15m); empty: now")
	c.Flags().StringVarP(&output, "output", "o", "", "json or yaml")
	c.Flags().BoolVarP(&all, "all-namespaces", "A", false, "of all namespaces")
	return c
}

// table prints what the server made a table of.
func (c *Client) table(cmd *cobra.Command, path string, namespaces bool) error {
	body, err := c.Get(cmd.Context(), path, nil, "application/json;as=Table;v=v1;g=meta.k8s.io")
	if err != nil {
		return err
	}
	defer body.Close()
	var t metav1.Table
	if err := json.NewDecoder(body).Decode(&t); err != nil {
		return err
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 6, 4, 3, ' ', 0)
	row := func(namespace string, cells []any) {
		var out []string
		if namespaces {
			out = append(out, namespace)
		}
		for i, cell := range cells {
			if t.ColumnDefinitions[i].Priority == 0 {
				out = append(out, fmt.Sprint(cell))
			}
		}
		fmt.Fprintln(w, strings.Join(out, "\t"))
	}
	var heads []any
	for _, d := range t.ColumnDefinitions {
		heads = append(heads, strings.ToUpper(d.Name))
	}
	row("NAMESPACE", heads)
	for _, r := range t.Rows {
		var o metav1.PartialObjectMetadata
		if namespaces {
			if err := json.Unmarshal(r.Object.Raw, &o); err != nil {
				return err
			}
		}
		row(o.Namespace, r.Cells)
	}
	return w.Flush()
}

func (a *app) diff() *cobra.Command {
	var from, to string
	c := &cobra.Command{Use: "diff OBJECT", Short: "Show how an object changed, event by event", Args: cobra.ExactArgs(1),
		Example: "  rutter diff deployments/web --from -1h",
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.open()
			if err != nil {
				return err
			}
			_, k, err := client.object(c.Context(), args[0])
			if err != nil {
				return err
			}
			q := url.Values{"key": {k.String()}}
			if from != "" {
				q.Set("from", from)
			}
			if to != "" {
				q.Set("to", to)
			}
			var changes []struct {
				Seq          kernel.Seq
				Time         time.Time
				Source, Type string
				Changes      []history.FieldChange
			}
			if err := client.JSON(c.Context(), "/rutter/v1/diff", q, &changes); err != nil {
				return err
			}
			for _, ch := range changes {
				a.painter(c).Changes(&events.Record{Key: k, Seq: ch.Seq, Envelope: events.Envelope{Time: ch.Time, Source: ch.Source, Type: ch.Type}}, ch.Changes)
			}
			return nil
		}}
	c.Flags().StringVar(&from, "from", "", "after this position, time or how long ago (-15m)")
	c.Flags().StringVar(&to, "to", "", "until this position, time or how long ago")
	return c
}
