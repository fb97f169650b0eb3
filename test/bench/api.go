package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	configMaps = "/api/v1/namespaces/default/configmaps"
	pods       = "/api/v1/namespaces/default/pods"

	typeJSON  = "application/json"
	typeMerge = "application/strategic-merge-patch+json"
	typeApply = "application/apply-patch+yaml"
)

// configMap has 1 KB of data.
func configMap(i int, value string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c%05d"},"data":{"key":%q}}`,
		i, value+strings.Repeat("x", 1024-len(value)))
}

// pod is one that no scheduler takes.
func pod(i int) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p%05d","labels":{"app":"bench"}},"spec":{"schedulerName":"nobody",`+
		`"containers":[{"name":"c","image":"registry.example/app:1","ports":[{"containerPort":8080}],"resources":{"requests":{"cpu":"100m","memory":"64Mi"}}}]}}`, i)
}

// call makes one request and returns the answer's body.
func (c *cluster) call(ctx context.Context, client *http.Client, method, path, contentType, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", typeJSON)
	req.Header.Set("User-Agent", "bench")
	if body != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %.300s", method, path, resp.Status, answer)
	}
	return answer, err
}

// work is one kind of operation.
type work struct {
	name    string
	n       int // operations
	clients int
	do      func(ctx context.Context, client *http.Client, i int) error
}

// measure does the work and notes what it cost.
func (w *work) measure(ctx context.Context, c *cluster, all *results) error {
	took := make([]time.Duration, w.n)
	connected := make([]*http.Client, w.clients)
	for i := range connected { // the handshakes are not part of it
		connected[i] = c.client()
		if _, err := c.call(ctx, connected[i], http.MethodGet, "/version", "", ""); err != nil {
			return err
		}
		defer connected[i].CloseIdleConnections()
	}
	before, err := c.settledCPU(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	g, group := errgroup.WithContext(ctx)
	for k, client := range connected {
		g.Go(func() error {
			for i := k; i < w.n; i += w.clients {
				start := time.Now()
				if err := w.do(group, client, i); err != nil {
					return err
				}
				took[i] = time.Since(start)
			}
			return nil
		})
	}
	var beside errgroup.Group
	beside.Go(func() error { return c.profile(ctx, "profile?seconds=6", w.name+".cpu") })
	err = g.Wait()
	wall := time.Since(began)
	if err := errors.Join(err, beside.Wait()); err != nil {
		return fmt.Errorf("%s: %w", w.name, err)
	}
	after, err := c.settledCPU(ctx)
	all.work(w.name, took, wall, after-before)
	return err
}

// measureAPI is the load: 16 clients, 4,000 objects of each kind.
func measureAPI(ctx context.Context, o *options, c *cluster, all *results) error {
	simple := func(method, path, contentType string, body func(i int) string, named string) func(context.Context, *http.Client, int) error {
		return func(ctx context.Context, client *http.Client, i int) error {
			path, text := path, ""
			if named != "" {
				path = fmt.Sprintf("%s/%s%05d", path, named, i)
			}
			if body != nil {
				text = body(i)
			}
			if contentType == typeApply {
				path += "?fieldManager=applier&force=true"
			}
			_, err := c.call(ctx, client, method, path, contentType, text)
			return err
		}
	}
	update := func(ctx context.Context, client *http.Client, i int) error {
		path := fmt.Sprintf("%s/c%05d", configMaps, i)
		body, err := c.call(ctx, client, http.MethodGet, path, "", "")
		if err != nil {
			return err
		}
		_, err = c.call(ctx, client, http.MethodPut, path, typeJSON, strings.Replace(string(body), "xxxx", "yyyy", 1))
		return err
	}
	label := func(i int) string { return fmt.Sprintf(`{"metadata":{"labels":{"patched":"%d"}}}`, i) }
	before := []work{
		{createConfigMap, o.objects, o.clients, simple(http.MethodPost, configMaps, typeJSON, func(i int) string { return configMap(i, "") }, "")},
		{createPod, o.objects, o.clients, simple(http.MethodPost, pods, typeJSON, pod, "")},
	}
	after := []work{
		{getPod, o.objects, o.clients, simple(http.MethodGet, pods, "", nil, "p")},
		{updateConfigMap, o.objects, o.clients, update},
		{patchPod, o.objects, o.clients, simple(http.MethodPatch, pods, typeMerge, label, "p")},
		{apply, o.objects, o.clients, simple(http.MethodPatch, configMaps, typeApply, func(i int) string { return configMap(i, "applied") }, "c")},
		{listPods, 40, 4, simple(http.MethodGet, pods, "", nil, "")},
	}
	for _, w := range before {
		if err := w.measure(ctx, c, all); err != nil {
			return err
		}
	}
	all.memory("after both creates", c)
	if err := c.profile(ctx, "heap", "both creates.heap"); err != nil {
		return err
	}
	if o.only == "creates" {
		return nil
	}
	for _, w := range after {
		if err := w.measure(ctx, c, all); err != nil {
			return err
		}
	}
	if err := measureWatch(ctx, o, c, all); err != nil {
		return err
	}
	end := work{deletePod, o.objects, o.clients, simple(http.MethodDelete, pods, "", nil, "p")}
	if err := end.measure(ctx, c, all); err != nil {
		return err
	}
	all.memory("after the table", c)
	return nil
}

// watched are the writes that watchers wait for.
const watched = 200

// measureWatch has watchers wait for single writes, one after the other.
func measureWatch(ctx context.Context, o *options, c *cluster, all *results) error {
	client := c.client()
	defer client.CloseIdleConnections()
	var list struct {
		Metadata struct{ ResourceVersion string }
	}
	body, err := c.call(ctx, client, http.MethodGet, configMaps+"?limit=1", "", "")
	if err == nil {
		err = json.Unmarshal(body, &list)
	}
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	seen := make(chan time.Time, o.watch)
	ready := make(chan struct{}, o.watch)
	for range o.watch {
		g.Go(func() error { return c.watch(ctx, list.Metadata.ResourceVersion, ready, seen) })
	}
	for range o.watch {
		select {
		case <-ready:
		case <-ctx.Done():
			return g.Wait()
		}
	}
	var took []time.Duration
	cpu, err := c.settledCPU(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	for i := range watched {
		sent := time.Now()
		if _, err := c.call(ctx, client, http.MethodPost, configMaps, typeJSON, strings.Replace(configMap(i, ""), `"c`, `"watched`, 1)); err != nil {
			return err
		}
		for range o.watch {
			select {
			case at := <-seen:
				took = append(took, at.Sub(sent))
			case <-ctx.Done():
				return g.Wait()
			}
		}
	}
	wall := time.Since(began)
	after, err := c.settledCPU(ctx)
	if err != nil {
		return err
	}
	all.work(watchConfigMap, took, wall, (after-cpu)*time.Duration(o.watch)) // per write, not per watcher
	cancel()
	_ = g.Wait() // they were told to end
	return nil
}

// watch tells of every watched ConfigMap after a version when it is seen.
func (c *cluster) watch(ctx context.Context, version string, ready chan<- struct{}, seen chan<- time.Time) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+configMaps+"?watch=true&resourceVersion="+version, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "bench")
	resp, err := c.client().Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("watch: %s", resp.Status)
	}
	ready <- struct{}{}
	for from := json.NewDecoder(resp.Body); ; {
		var event json.RawMessage
		if err := from.Decode(&event); err != nil {
			return err
		}
		if at := time.Now(); bytes.Contains(event, []byte(`"name":"watched`)) {
			seen <- at
		}
	}
}
