package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// containerdNamespace keeps what is started beside the cluster apart from it.
const containerdNamespace = "bench"

// measurePods starts pods, and the same image without a cluster, in turns: in
// the same containerd, with the image there.
func measurePods(ctx context.Context, o *options, c *cluster, all *results) error {
	args := append([]string{"image", "import", o.image}, c.folders()...)
	if out, err := exec.CommandContext(ctx, c.rutter, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("import the image: %w: %s", err, out)
	}
	if _, err := c.ctr(ctx, "images", "import", o.image); err != nil {
		return err
	}
	out, err := c.ctr(ctx, "images", "list", "-q")
	if err != nil {
		return err
	}
	image := strings.TrimSpace(string(out))
	var cluster, alone []time.Duration
	var inCluster, inAll time.Duration
	for i := range o.pods + 1 {
		took, err := c.startPod(ctx, fmt.Sprintf("started%d", i), image)
		if err != nil {
			return err
		}
		raw, err := c.startContainer(ctx, fmt.Sprintf("raw%d", i), image)
		if err != nil {
			return err
		}
		if i == 0 {
			continue // files that nobody had read yet, and code that had not run
		}
		cluster, alone = append(cluster, took), append(alone, raw)
		inCluster, inAll = inCluster+took, inAll+raw
	}
	all.work(startPod, cluster, inCluster, -time.Nanosecond*time.Duration(len(cluster)))
	all.work(startContainer, alone, inAll, -time.Nanosecond*time.Duration(len(alone)))
	return nil
}

func (c *cluster) ctr(ctx context.Context, args ...string) ([]byte, error) {
	args = append([]string{"--address", filepath.Join(c.dir, "run", "containerd", "containerd.sock"), "--namespace", containerdNamespace}, args...)
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "ctr", args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("ctr %s: %w: %s", args[4], err, &stderr)
	}
	return out, nil
}

// startContainer is the time that ctr run -d takes.
func (c *cluster) startContainer(ctx context.Context, name, image string) (time.Duration, error) {
	start := time.Now()
	if _, err := c.ctr(ctx, "run", "-d", image, name); err != nil {
		return 0, err
	}
	took := time.Since(start)
	if _, err := c.ctr(ctx, "tasks", "kill", "-s", "SIGKILL", name); err != nil {
		return 0, err
	}
	_, err := c.ctr(ctx, "tasks", "delete", "--force", name)
	_, err2 := c.ctr(ctx, "containers", "delete", name)
	return took, errors.Join(err, err2)
}

// podTimeout bounds how long one pod may take.
const podTimeout = 30 * time.Second

// startPod is the time from the create until a watcher sees the pod Running.
func (c *cluster) startPod(ctx context.Context, name, image string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, podTimeout)
	defer cancel()
	client := c.client()
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+pods+"?watch=true&fieldSelector=metadata.name%3D"+name, nil)
	if err != nil {
		return 0, err
	}
	watch, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer watch.Body.Close()
	body := fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q},"spec":{"terminationGracePeriodSeconds":0,`+
		`"containers":[{"name":"c","image":%q,"imagePullPolicy":"Never"}]}}`, name, image)
	start := time.Now()
	if _, err := c.call(ctx, client, http.MethodPost, pods, typeJSON, body); err != nil {
		return 0, err
	}
	events := json.NewDecoder(watch.Body)
	if err := awaitPod(events, "Running"); err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	took := time.Since(start)
	if _, err := c.call(ctx, client, http.MethodDelete, pods+"/"+name, "", ""); err != nil {
		return 0, err
	}
	return took, awaitPod(events, "")
}

// awaitPod reads a watch until the pod is in the phase; "": until it is gone.
func awaitPod(events *json.Decoder, phase string) error {
	for {
		var e struct {
			Type   string
			Object struct {
				Status struct{ Phase, Reason, Message string }
			}
		}
		if err := events.Decode(&e); err != nil {
			return fmt.Errorf("await %q: %w", phase, err)
		}
		switch {
		case e.Type == "DELETED" && phase == "", phase != "" && e.Object.Status.Phase == phase:
			return nil
		case e.Type == "DELETED", e.Object.Status.Phase == "Failed":
			return fmt.Errorf("the pod ended: %s %s", e.Object.Status.Reason, e.Object.Status.Message)
		}
	}
}
